"""Losses of a classifier: cross-entropy, the entropy of its prediction, and its error rate."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from invjax import _check, _logits
from invjax._dtypes import wide
from invjax.types import Array, Labels, Logits, PerExample


def cross_entropy(logits: Logits, labels: Labels) -> PerExample:
    """`-log softmax(logits)[label]`, in nats.

    >>> bool(jnp.allclose(cross_entropy(jnp.zeros((1, 10)), jnp.array([3])), jnp.log(10)))
    True

    Args:
        logits: `[B, K]`.
        labels: `[B]`, class indices.

    Returns:
        The cross-entropy of each example, `[B]`; NaN where the label is not a class index.

    Raises:
        ValueError: a label is not a class index of the K classes. Inside `jit` labels cannot be checked.
    """
    check_logits(logits, labels)
    logs = jax.nn.log_softmax(wide(logits))
    chosen = jnp.take_along_axis(logs, labels[:, None], axis=-1, mode="fill", fill_value=jnp.nan)
    return jnp.where(labels < 0, jnp.nan, -chosen[:, 0])


def entropy(logits: Logits) -> PerExample:
    """`H(p) = -sum_k p_k log p_k` of the prediction p, in nats: 0 for a certain prediction, log K for a uniform one.

    Adding the entropy to a training loss makes predictions more certain and logit gaps larger (Cubuk et al. 2018);
    subtracting it is the confidence penalty.

    >>> bool(jnp.allclose(entropy(jnp.zeros((1, 10))), jnp.log(10)))
    True

    Args:
        logits: `[B, K]`; the logits of some classes may be -inf.

    Returns:
        The entropy of each prediction, `[B]`; NaN where a logit is NaN.

    Raises:
        ValueError: the logits are not `[B, K]` with K of 2 or more.
    """
    _logits.check(logits)
    logs = jax.nn.log_softmax(wide(logits))
    masked = jnp.isneginf(logs)  # a class with logit -inf adds nothing, neither to the value nor to the gradient
    return -jnp.where(masked, 0, jnp.exp(logs) * jnp.where(masked, 0, logs)).sum(-1)


def error_rate(logits: Logits, labels: Labels) -> Float[Array, ""]:
    """The fraction of examples whose label does not have the largest logit.

    A model that gives a NaN logit makes no prediction, which is an error.

    Args:
        logits: `[B, K]`.
        labels: `[B]`, class indices.

    Returns:
        The fraction, a number in [0, 1].

    Raises:
        ValueError: a label is not a class index of the K classes.
    """
    check_logits(logits, labels)
    return ((logits.argmax(-1) != labels) | jnp.isnan(logits).any(-1)).mean()


def check_logits(logits: Logits, labels: Labels) -> None:
    """Check that logits are `[B, K]` with two classes or more, and that labels `[B]` are class indices.

    Raises:
        ValueError: they are not.
    """
    _logits.check(logits)
    _check.one_each("labels", labels, logits)
    _check.labels(labels, logits.shape[1])
