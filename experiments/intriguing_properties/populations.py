"""Functions for experiments on many networks: training on bytes, images in equal batches, rank correlations, tables."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import rankdata

from experiments import common
from invjax.data import Dataset, as_float, batches
from invjax.models import MaskedNet
from invjax.training import Member, population_trainer
from invjax.types import Key, Params

LARGEST_BATCH = 500


def one_image(data: Dataset) -> jax.Array:
    """A batch of one image in [0, 1], for the initialisation."""
    return jnp.asarray(common.images_of(data, 1))


def in_batches(data: Dataset, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] `[n, b, H, W, C]` and labels `[n, b]` in equal batches of at most 500."""
    x, labels = common.images_of(data, part), np.asarray(data.labels[part], np.int32)
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
    optimizer_fn: Callable[[Member, int], optax.GradientTransformation],
    settings: common.Train,
) -> Callable[..., Params]:
    """Make a function that trains populations on the bytes of a data set; populations of one size are compiled once.

    `loss_fn` is `(member, params, key, (images in [0, 1], labels), step) -> (loss, metrics)`, and `optimizer_fn` is
    `(member, number of steps) -> optimizer`. The function is `(keys, members, seed, description) -> params`, where the
    seed gives the order of the images.
    """
    image, levels, num_steps = one_image(data), data.levels, settings.num_steps(len(data.labels))

    def loss_of_bytes(member, params, key, batch, step):
        return loss_fn(member, params, key, (as_float(batch[0], levels), batch[1]), step)

    train = population_trainer(
        lambda key, member: net.init(key, member, image), loss_of_bytes, lambda member: optimizer_fn(member, num_steps)
    )

    def run(keys: Key, members: Member, seed: int, description: str) -> Params:
        order = batches([data.images, data.labels], settings.batch_size, seed)
        per_epoch = settings.steps_per_epoch(len(data.labels))
        return train(keys, members, order, num_steps, chunk_steps=per_epoch, description=description)[0]

    return run


def rank_correlation(a: Any, b: Any) -> float | None:
    """Spearman's rank correlation; None for fewer than three pairs or if one of the two is constant."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def over_seeds(tables: Iterable[Iterable[common.Row]]) -> list[common.Row]:
    """One table from the tables of single seeds, with the rows that all of them have."""
    by_name = [{row.name: row for row in table} for table in tables]
    return [
        common.row(
            name, [table[name].measured for table in by_name], first.unit, first.differs, published=first.published
        )
        for name, first in by_name[0].items()
        if all(name in table for table in by_name)
    ]
