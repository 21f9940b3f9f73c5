"""Invariance of a model: its predictions on images whose true class was changed."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from invjax import _check
from invjax._batching import on_device, over_batches
from invjax.evaluation._options import Options
from invjax.types import ApplyFn, Params


class ChangedImages(NamedTuple):
    """A modified copy of every image, and the class that people (or a judge) see in it.

        ChangedImages(h.images, h.human)                          # h of data.human_labelled(); report on h.originals
        ChangedImages(e.x, np.where(e.success, e.target, -1))     # e of attacks.linf_invariance or l0_invariance

    Attributes:
        images: `[N, ...]`, the modified images.
        seen: `[N]`, the class that people or the judge see in each image; -1 where they can tell none.
    """

    images: np.ndarray
    seen: np.ndarray


class Invariance(NamedTuple):
    """Predictions on images whose true class was changed.

    Attributes:
        changed: `[N]`, whether people or the judge see a class other than the label.
        kept: `[N]`, whether the model still predicts the label.
        agrees: `[N]`, whether the model predicts the class that they see.
    """

    changed: np.ndarray
    kept: np.ndarray
    agrees: np.ndarray


def check_changed(name: str, given: ChangedImages, images: np.ndarray) -> None:
    """Check that there is one finite modified image and one class for each image.

    Raises:
        ValueError: an image or a class is missing, an image is not finite, or a class is not an integer from -1 on.
    """
    seen = np.asarray(given.seen)
    if np.shape(given.images) != images.shape or seen.shape != (len(images),):
        raise ValueError(
            f"changed[{name!r}] must have one image {images.shape[1:]} and one class for each of the {len(images)} "
            f"images; got {np.shape(given.images)} and {seen.shape}; report on the originals of the changed images"
        )
    if not np.issubdtype(seen.dtype, np.integer) or seen.min(initial=0) < -1:
        raise ValueError(
            f"changed[{name!r}].seen must hold integer classes, or -1 where no class can be told; got {seen.dtype} "
            f"from {seen.min(initial=0)}; round or relabel them"
        )
    _check.finite(f"changed[{name!r}].images", given.images)


def invariance(
    name: str, given: ChangedImages, apply_fn: ApplyFn, params: Params, labels: np.ndarray, options: Options
) -> Invariance:
    """Classify the modified images.

    Raises:
        ValueError: logits are NaN, or `given.seen` holds a class that the model does not have.
    """
    predict = partial(on_device(jax.jit(apply_fn)), params)
    logits = over_batches(predict, [np.asarray(given.images)], options.batch_size, options.mesh)
    _check.finite(f"the model's logits on {name!r}", logits)
    seen, predicted = np.asarray(given.seen), logits.argmax(1)
    if seen.max(initial=-1) >= logits.shape[1]:
        raise ValueError(
            f"changed[{name!r}].seen must hold classes of the model, below {logits.shape[1]}; got {seen.max()}; "
            "write -1 for other classes"
        )
    return Invariance((seen >= 0) & (seen != labels), predicted == labels, predicted == seen)
