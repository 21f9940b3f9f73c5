"""A model beside people, on images that invariance attacks made."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from invjax import _check
from invjax._batching import over_batches
from invjax.data import HumanLabelled
from invjax.evaluation._intervals import wilson
from invjax.types import ApplyFn, Params


class Agreement(NamedTuple):
    """A model beside people, on images that mean something else to people than their originals did.

    Attributes:
        with_humans: `[M]`, whether the model gives the class that people see.
        with_originals: `[M]`, whether it gives that of the original instead: it is too invariant there.
    """

    with_humans: np.ndarray
    with_originals: np.ndarray

    def share(self) -> float:
        """How much of the images the model agrees with people on."""
        return float(self.with_humans.mean())

    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of `share`."""
        return wilson(int(self.with_humans.sum()), self.with_humans.size)


def agreement(
    apply_fn: ApplyFn,
    params: Params,
    examples: Mapping[str, HumanLabelled],
    *,
    batch_size: int = 128,
    mesh: Mesh | None = None,
) -> dict[str, Agreement]:
    """How often a model and people see the same in invariance examples: `agreement(apply, params, human_labelled())`.

    Only the successful examples count, those which people see another class in: on the others agreeing with people is
    being right on an image that has hardly changed. There are so few that a share without its interval says little.

    Args:
        apply_fn: `(params, x [B, 28, 28, 1] in [0, 1]) -> logits [B, 10]`.
        params: of the model.
        examples: sets by name, such as `data.human_labelled()`.
        batch_size: images classified at once.
        mesh: spread each batch over these devices.

    Raises:
        ValueError: no sets; one without a changed image; a model that does not give 10 finite logits.

    Source: Tramèr et al. 2020, table 2.
    """
    if not examples:
        raise ValueError("examples must hold one set or more; got none; pass data.human_labelled()")
    for name, of_set in examples.items():
        if not of_set.changed.any():
            raise ValueError(f"{name!r} has no image that people see another class in; leave it out")
    images = np.concatenate([of_set.images[of_set.changed] for of_set in examples.values()])
    logits = over_batches(partial(jax.jit(apply_fn), params), [images], batch_size, mesh)
    if logits.shape != (len(images), 10):
        raise ValueError(
            f"the model must give logits [{len(images)}, 10]; got {logits.shape}; it needs MNIST's classes"
        )
    _check.finite("the model's logits", logits)
    ends = np.cumsum([of_set.changed.sum() for of_set in examples.values()])
    seen = dict(zip(examples, np.split(logits.argmax(1), ends[:-1]), strict=True))
    return {
        name: Agreement(seen[name] == of_set.human[of_set.changed], seen[name] == of_set.labels[of_set.changed])
        for name, of_set in examples.items()
    }
