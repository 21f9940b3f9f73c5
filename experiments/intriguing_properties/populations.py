"""Functions for experiments on many networks: images in equal batches, training on bytes, rank correlations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import rankdata

from invjax.data import Dataset, as_float
from invjax.models import MaskedNet
from invjax.training import Member, population_trainer

LARGEST_BATCH = 500


def decoded(data: Dataset, images: Any) -> jax.Array:
    """Bytes of a data set as images in [0, 1]."""
    return jnp.asarray(as_float(images, data.levels))


def one_image(data: Dataset) -> jax.Array:
    """A batch of one black image of this shape, for the initialisation."""
    return decoded(data, data.images[:1])


def in_batches(data: Dataset, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] `[n, b, H, W, C]` and labels `[n, b]` in equal batches of at most 500.

    Raises:
        ValueError: the number of images has no divisor of a useful size, so batches would be very small.
    """
    x, labels = np.asarray(decoded(data, data.images[part])), np.asarray(data.labels[part], np.int32)
    count = len(labels)
    size = next(size for size in range(min(count, LARGEST_BATCH), 0, -1) if count % size == 0)
    if size < min(count, LARGEST_BATCH // 10):
        raise ValueError(
            f"{count} images fall into equal batches of at most {LARGEST_BATCH} only by {size} each; take a rounder "
            f"number, such as {count // 100 * 100}"
        )
    return x.reshape(-1, size, *x.shape[1:]), labels.reshape(-1, size)


def trainer(
    net: MaskedNet,
    data: Dataset,
    loss_fn: Callable[..., Any],
    optimizer_for: Callable[[Member], optax.GradientTransformation],
    architecture: Callable[[Member], Any] = lambda member: member,
) -> Any:
    """`population_trainer` on the bytes of a data set.

    Args:
        net: the padded network of all members.
        data: the data set whose bytes are the batches.
        loss_fn: `(member, params, key, (images in [0, 1], labels), step) -> (loss, numbers)`.
        optimizer_for: the optimiser of a member.
        architecture: the part of a member that `net` takes.
    """

    def loss_of_bytes(member, params, key, batch, step):
        return loss_fn(member, params, key, (decoded(data, batch[0]), batch[1]), step)

    return population_trainer(
        lambda key, member: net.init(key, architecture(member), one_image(data)), loss_of_bytes, optimizer_for
    )


def rank_correlation(a: Any, b: Any) -> float | None:
    """Spearman's rank correlation; None for fewer than three pairs or if one of the two is constant."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
