"""Losses that attacks maximise. Each grows as the model turns to other classes and is positive where the model errs."""

import jax
import jax.numpy as jnp

from invjax import _logits
from invjax._dtypes import wide
from invjax.losses._classification import check_logits
from invjax.types import Labels, Logits, PerExample


def log_odds(logits: Logits, labels: Labels) -> PerExample:
    """`log((1 - p_y) / p_y) = logsumexp(h_k, k != y) - h_y`, in nats: the log odds against the label.

    Cross-entropy is `log(1 + exp(log_odds))`, so both losses rank images in the same order and their gradients point in
    the same direction. Where a model is confident, however, cross-entropy and its gradient round to 0, and the log odds
    do not. Attacks therefore maximise the log odds by default. Where the softmax is flat (logits that differ by less
    than 1, as in a barely trained model), both losses pull towards all classes at once; `margin` and `dlr` pull towards
    the nearest class.

    >>> bool(jnp.allclose(log_odds(jnp.array([[200.0, 0.0]]), jnp.array([0])), -200))
    True

    Args:
        logits: `[B, K]`.
        labels: `[B]`, class indices.

    Returns:
        The log odds of each example, `[B]`.

    Raises:
        ValueError: a label is not a class index of the K classes.
    """
    check_logits(logits, labels)
    logits = wide(logits)
    return jax.nn.logsumexp(_without(logits, labels), axis=-1) - _of(logits, labels)


def margin(logits: Logits, labels: Labels) -> PerExample:
    """`max(h_k, k != y) - h_y`: positive where the label is not predicted.

    Args:
        logits: `[B, K]`.
        labels: `[B]`, the true classes y.

    Returns:
        The margin of each example, `[B]`, in the units of the logits.

    Raises:
        ValueError: a label is not a class index of the K classes.

    Source: Carlini & Wagner 2017.
    """
    check_logits(logits, labels)
    logits = wide(logits)
    return _without(logits, labels).max(-1) - _of(logits, labels)


def dlr(logits: Logits, labels: Labels) -> PerExample:
    """The difference of logits ratio, `margin / (h_(1) - h_(3))`. Scaling or shifting the logits does not change it.

    Here `h_(1)` is the largest logit and `h_(3)` the third largest one.

    Args:
        logits: `[B, K]` with K of at least 3.
        labels: `[B]`, the true classes.

    Returns:
        The ratio of each example, `[B]`: positive where the label is not predicted. Where fewer than three logits are
        finite it is the margin.

    Raises:
        ValueError: there are fewer than three classes.

    Source: Croce & Hein 2020, *Reliable Evaluation*, equation 6.
    """
    _need_classes(logits, 3, "dlr")
    ordered = jnp.sort(wide(logits), axis=-1)
    return margin(logits, labels) / _finite(ordered[:, -1] - ordered[:, -3] + 1e-12)


def targeted_dlr(logits: Logits, labels: Labels, targets: Labels) -> PerExample:
    """`(h_t - h_y) / (h_(1) - (h_(3) + h_(4)) / 2)`: positive where the target's logit exceeds the label's.

    Here `h_(1)`, `h_(3)` and `h_(4)` are the largest, third and fourth largest logits.

    Args:
        logits: `[B, K]` with K of at least 4.
        labels: `[B]`, the true classes y.
        targets: `[B]`, the classes t to reach.

    Returns:
        The ratio of each example, `[B]`. Scaling or shifting the logits does not change it. Where fewer than four
        logits are finite it is the difference `h_t - h_y`.

    Raises:
        ValueError: there are fewer than four classes.

    Source: Croce & Hein 2020, *Reliable Evaluation*, equation 7.
    """
    _need_classes(logits, 4, "targeted_dlr")
    logits = wide(logits)
    ordered = jnp.sort(logits, axis=-1)
    scale = ordered[:, -1] - (ordered[:, -3] + ordered[:, -4]) / 2
    return (_of(logits, targets) - _of(logits, labels)) / _finite(scale + 1e-12)


def _of(logits, labels):
    return jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def _without(logits, labels):
    """The logits, with minus infinity in place of the label's."""
    return jnp.where(jnp.arange(logits.shape[-1])[None] == labels[:, None], -jnp.inf, logits)


def _finite(scale):
    """The scale, or 1 where it is infinite because a class is masked by a logit of minus infinity."""
    return jnp.where(jnp.isfinite(scale), scale, 1)


def _need_classes(logits, least, name):
    _logits.check(logits)
    if logits.shape[-1] < least:
        raise ValueError(f"{name} needs at least {least} classes; got logits of {logits.shape}; use margin")
