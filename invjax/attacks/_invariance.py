"""Invariance examples: images with another meaning, in a ball where a robust model keeps its prediction.

Invariance attacks move an image x towards an image of another class that was moved onto it (`aligned_neighbours`). They
do not query the model. A model that is robust within the ball errs on these images as often as their meaning has
changed. People, or a judge in their place, decide whether the meaning has changed.

Source: Tramèr et al. 2020, section 4.1. The authors chose target classes manually, and l0
candidates by an AC-GAN or by eye.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from invjax import _check, _logits
from invjax._batching import on_device, over_batches

Judge = Callable[[jax.Array], Any]
"""`x [B, H, W, C] -> logits [B, K]`, or labels `[B]` with -1 where the judge sees no class."""


class InvarianceExamples(NamedTuple):
    """One example for each image.

    Attributes:
        x: `[B, H, W, C]`, the changed images.
        target: `[B]`, the class that the image was moved to.
        success: `[B]`, whether the judge sees that class; None without a judge.
        distance: `[B]`, the distance from the original: the largest change of a value for linf, the number of changed
            pixels for l0.
        neighbour: `[B]`, the index of the neighbour that the image was moved to, among K - 1.
    """

    x: Float[np.ndarray, "batch height width channel"]
    target: Int[np.ndarray, " batch"]
    success: Bool[np.ndarray, " batch"] | None
    distance: Float[np.ndarray, " batch"]
    neighbour: Int[np.ndarray, " batch"]


def checked(x, neighbours):
    """Check that the neighbours belong to the images, and return the images as float32."""
    _check.within("x", x, (0.0, 1.0))
    if x.shape != (len(neighbours.images), *neighbours.images.shape[2:]):
        raise ValueError(
            f"neighbours must be those of x {x.shape}; got neighbours of {len(neighbours.images)} images of "
            f"{neighbours.images.shape[2:]}; call aligned_neighbours(x, ...) first"
        )
    return np.asarray(x, np.float32)


def decisions(judge, images, batch_size):
    """The class that the judge sees in each image, `[B]`, or -1."""
    answers = over_batches(on_device(judge), [images], batch_size)
    if answers.ndim == 2:
        _logits.check_shape(answers, images.shape)
        _check.finite("the judge's logits", answers)
        return answers.argmax(1)
    if answers.shape != (len(images),) or not np.issubdtype(answers.dtype, np.integer):
        raise ValueError(
            f"the judge must give logits [{len(images)}, classes] or integer labels [{len(images)}]; got "
            f"{answers.dtype} {answers.shape}; return the model's logits"
        )
    return answers
