"""Checks of a robustness evaluation. Each check reads the same evidence and returns a sentence, or None.

The list of checks is that of Athalye et al. 2018, *Obfuscated Gradients Give a False Sense of Security*, section 3.1,
and of Carlini et al. 2019, *On Evaluating Adversarial Robustness*.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from invjax.types import Box

_ROUNDING = 1e-7  # float32 rounding near 1; the gradient of cross-entropy is 1 minus a probability


class Finding(NamedTuple):
    """A reason to doubt an evaluation.

    Attributes:
        name: the name of the check.
        message: what the check observed, and what to do.
    """

    name: str
    message: str


class Evidence(NamedTuple):
    """The measurements that the checks read, as host arrays.

    Attributes:
        box: the range of pixel values; `(0, 1)`, in units of each feature's range, if the ranges differ.
        low: the smallest pixel value.
        high: the largest pixel value.
        logits: `[B, K]`, the model's logits.
        logits_again: `[B, K]`, the logits of a second evaluation.
        loss_gradient: `[B]`, the largest entry of the gradient of the cross-entropy.
        logit_gradient: `[B]`, the largest entry of the gradient of the standard deviation of the logits.
        radii: half of eps, eps, twice eps, and a radius that reaches every point of the box.
        success: the attack's success rate at each of the radii.
        blind: the success rate of a random search at eps; None if the search was not run.
        by_margin: the success rate at eps of PGD on the margin.
        labels: `[B]`, the labels that the user gave.
        finite_gradients: the fraction of images on which all gradients of the attack were finite.
        alone: `[K]`, the logits of the first image when it is the only image of the batch.
        masked: whether a mask keeps a part of each image as it is.
    """

    box: Box
    low: float
    high: float
    logits: np.ndarray
    logits_again: np.ndarray
    loss_gradient: np.ndarray
    logit_gradient: np.ndarray
    radii: tuple[float, ...]
    success: tuple[float, ...]
    blind: float | None
    by_margin: float
    labels: np.ndarray
    finite_gradients: float
    alone: np.ndarray | None = None
    masked: bool = False


def image_range(e: Evidence) -> str | None:
    """Images lie outside the box, or in a small part of it."""
    low, high = e.box
    if e.low < low or e.high > high:
        return (
            f"pixel values range from {e.low:.4g} to {e.high:.4g}, outside the box {e.box}: pass the model's own range "
            "as box= of the threat, or scale the images"
        )
    if np.isfinite(high - low) and e.high - e.low < 0.5 * (high - low):
        return (
            f"pixel values range only from {e.low:.4g} to {e.high:.4g} in the box {e.box}: check that the model was "
            "trained on images of this range"
        )
    return None


def finite_logits(e: Evidence) -> str | None:
    """Logits are NaN or infinite."""
    if np.isfinite(e.logits).all():
        return None
    return (
        "logits are NaN or infinite: where they are NaN the model makes no prediction, and every attack counts as a "
        "success; find the operation that overflows"
    )


def labels(e: Evidence) -> str | None:
    """The model agrees with the labels no more often than a guess would."""
    count, chance = e.logits.shape[0], 1 / e.logits.shape[1]
    accuracy = (e.logits.argmax(1) == e.labels).mean()
    if accuracy == 1 or accuracy > chance + 2 * np.sqrt(chance * (1 - chance) / count):
        return None
    return (
        f"the model classifies {accuracy:.0%} of the images as labelled, and a guess {chance:.0%}: check that the "
        "labels belong to these images and count from 0, and that the images are prepared as in training"
    )


def radius(e: Evidence) -> str | None:
    """The radius reaches every image of the box."""
    if e.radii[1] <= e.radii[-1] * (1 + 1e-6) or not np.isfinite(e.box[1] - e.box[0]):
        return None
    return (
        f"eps={e.radii[1]:g} reaches every image of the box {e.box}, where the largest distance is {e.radii[-1]:.4g}: "
        f"was {e.radii[1] / 255:.4g} meant?"
    )


def finite_gradients(e: Evidence) -> str | None:
    """The attack met gradients that are NaN or infinite."""
    if e.finite_gradients == 1:
        return None
    return (
        f"gradients are NaN or infinite on {1 - e.finite_gradients:.0%} of the images; these entries count as 0, so "
        "gradient attacks are weak: find the operation, such as sqrt at 0 or a division by 0"
    )


def probabilities(e: Evidence) -> str | None:
    """The outputs are probabilities: they sum to one."""
    if (e.logits >= 0).all() and np.allclose(e.logits.sum(1), 1, atol=1e-3):
        return "the outputs are probabilities: their gradients vanish where the softmax saturates; return the logits"
    return None


def randomness(e: Evidence) -> str | None:
    """A second evaluation gives different logits."""
    if np.array_equal(e.logits, e.logits_again, equal_nan=True):
        return None
    largest = np.abs(e.logits - e.logits_again).max()
    return f"the same images give logits that differ by {largest:.3g}: attack their mean over the randomness"


def batch_dependence(e: Evidence) -> str | None:
    """An image's logits depend on the rest of its batch."""
    if e.alone is None or np.allclose(e.alone, e.logits[0], rtol=1e-2, atol=1e-3, equal_nan=True):
        return None
    largest = np.abs(e.alone - e.logits[0]).max()
    return f"an image's logits change by {largest:.3g} with the other images of its batch: use the evaluation mode"


def gradients(e: Evidence) -> str | None:
    """Gradients vanish: the logits have zero gradients, or a saturated cross-entropy rounds its gradients to zero."""
    masked = (e.logit_gradient == 0).mean()
    saturated = (e.loss_gradient <= _ROUNDING * e.logit_gradient).mean()
    if masked:
        return (
            f"the logits have a gradient of exactly zero on {masked:.0%} of the images: the model rounds or clips its "
            "input; use a random search (square) or a smooth approximation"
        )
    if saturated:
        return (
            f"cross-entropy has a gradient of zero up to rounding on {saturated:.0%} of the images because it "
            "saturates: maximise losses.log_odds (the default), margin or dlr"
        )
    return None


def _resolution(e: Evidence) -> float:
    """The largest difference of success rates that a single image could explain."""
    return 1.5 / len(e.logits)


def monotone(e: Evidence) -> str | None:
    """The attack succeeds less often at a larger radius."""
    if all(after >= before - _resolution(e) for before, after in itertools.pairwise(e.success)):
        return None
    rates = ", ".join(f"{rate:.0%} at {radius:.3g}" for radius, rate in zip(e.radii, e.success, strict=True))
    return f"the attack succeeds less often at a larger radius ({rates}): use more steps, restarts, or AutoAttack"


def unbounded(e: Evidence) -> str | None:
    """The attack fails even when every pixel may take any value."""
    if e.masked or e.success[-1] >= 1 - _resolution(e):  # a mask may hold too little of an image to change its class
        return None
    return (
        f"the attack succeeds on only {e.success[-1]:.0%} of the images when every pixel may take any value: its "
        "gradients are uninformative; use a random search (square)"
    )


def blind_search(e: Evidence) -> str | None:
    """A random search succeeds more often than the gradient attack, on either loss."""
    if e.blind is None or e.blind <= max(e.success[1], e.by_margin) + _resolution(e):
        return None
    return (
        f"a search without gradients succeeds on {e.blind:.0%} of the images and the attack on {e.success[1]:.0%}: the "
        "gradients are masked; use a smooth approximation of the model, or the random search"
    )


def other_loss(e: Evidence) -> str | None:
    """PGD on the margin succeeds more often: a flat softmax makes other losses pull towards all classes at once."""
    if e.by_margin <= e.success[1] + _resolution(e):
        return None
    return (
        f"PGD on the margin succeeds on {e.by_margin:.0%} of the images and the attack on {e.success[1]:.0%}: maximise "
        "losses.margin or dlr"
    )


CHECKS: tuple[Callable[[Evidence], str | None], ...] = (
    image_range,
    finite_logits,
    labels,
    radius,
    probabilities,
    randomness,
    batch_dependence,
    gradients,
    finite_gradients,
    monotone,
    unbounded,
    blind_search,
    other_loss,
)
"""The checks, in the order of their findings."""
