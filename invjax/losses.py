r"""Losses on logits and on codes, one value for each example.

Cross-entropy only asks that the logits say enough about the class. Independence cross-entropy (iCE) also asks that the
nuisance say nothing about it, and that the code be a density. With a nuisance classifier q that reads `z_n`:

    min over the model, max over q     CE(z_s, y)  -  nuisance_weight * CE(q(z_n), y)  +  likelihood_weight * bits/dim

so q minimises its own cross-entropy and the model maximises it. Source: Jacobsen et al. 2019, definition 5. Two
corrections: the likelihood enters by its logarithm, and the prior covers the logits as well: with a prior on the
nuisance alone, while log|det| counts every dimension, scaling the logits by c lowers the loss by K log c without bound.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from invjax import _check
from invjax.types import Array, Code, Key, Labels, Logits, PerExample, Scalar


def cross_entropy(logits: Logits, labels: Labels) -> PerExample:
    """`-log softmax(logits)[label]`, in nats; NaN where the label is not a class.

    >>> bool(jnp.allclose(cross_entropy(jnp.zeros((1, 10)), jnp.array([3])), jnp.log(10)))
    True

    Raises:
        ValueError: labels that are not class indices of `logits.shape[-1]` classes (seen outside of `jit`).
    """
    _check.labels(labels, logits.shape[-1])
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1, mode="fill", fill_value=jnp.nan)
    return jnp.where(labels < 0, jnp.nan, -chosen[:, 0])


def entropy(logits: Logits) -> PerExample:
    """`H(p) = -sum_k p_k log p_k` of the prediction, in nats: 0 where the model is sure, log K where it guesses.

    Added to the loss it makes the model surer and its logit gaps larger (Cubuk et al. 2018); subtracted, it is the
    confidence penalty.

    >>> bool(jnp.allclose(entropy(jnp.zeros((1, 10))), jnp.log(10)))
    True
    """
    logs = jax.nn.log_softmax(logits)
    finite = jnp.isfinite(logs)  # a class of logit -inf adds nothing, to the gradient neither
    return -jnp.where(finite, jnp.exp(logs) * jnp.where(finite, logs, 0), 0).sum(-1)


def log_odds(logits: Logits, labels: Labels) -> PerExample:
    """`log((1 - p_y) / p_y) = logsumexp(h_k, k != y) - h_y`, in nats: the odds against the label.

    Cross-entropy is `log(1 + exp(log_odds))`, so both rank images in the same order and their gradients point in the
    same direction. But where a confident model's cross-entropy rounds to 0, and its gradient with it, this one keeps
    both: what attacks climb by default. Both pull towards all classes at once where the softmax is flat (logits that
    differ by less than 1, as of a barely trained model); `margin` and `dlr` pull towards the nearest.

    >>> bool(jnp.allclose(log_odds(jnp.array([[200.0, 0.0]]), jnp.array([0])), -200))
    True
    """
    _check.labels(labels, logits.shape[-1])
    return jax.nn.logsumexp(_without(logits, labels), axis=-1) - _of(logits, labels)


def margin(logits: Logits, labels: Labels) -> PerExample:
    """`max(h_k, k != y) - h_y`: positive where the label is not predicted. Source: Carlini & Wagner 2017."""
    _check.labels(labels, logits.shape[-1])
    return _without(logits, labels).max(-1) - _of(logits, labels)


def dlr(logits: Logits, labels: Labels) -> PerExample:
    """The difference of logits ratio, `margin / (h_(1) - h_(3))`: no scaling or shift of the logits changes it.

    Source: Croce & Hein 2020, *Reliable Evaluation*, equation 6.

    Raises:
        ValueError: fewer than three classes.
    """
    _need_classes(logits, 3, "dlr")
    ordered = jnp.sort(logits, axis=-1)
    return margin(logits, labels) / (ordered[:, -1] - ordered[:, -3] + 1e-12)


def targeted_dlr(logits: Logits, labels: Labels, targets: Labels) -> PerExample:
    """`(h_t - h_y) / (h_(1) - (h_(3) + h_(4)) / 2)`: high where the target overtakes the label.

    Source: Croce & Hein 2020, *Reliable Evaluation*, equation 7.

    Raises:
        ValueError: fewer than four classes.
    """
    _need_classes(logits, 4, "targeted_dlr")
    ordered = jnp.sort(logits, axis=-1)
    scale = ordered[:, -1] - (ordered[:, -3] + ordered[:, -4]) / 2
    return (_of(logits, targets) - _of(logits, labels)) / (scale + 1e-12)


def _of(logits, labels):
    return jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def _without(logits, labels):
    """The logits, with minus infinity in the place of the label's."""
    return jnp.where(jnp.arange(logits.shape[-1])[None] == labels[:, None], -jnp.inf, logits)


def _need_classes(logits, least, name):
    if logits.shape[-1] < least:
        raise ValueError(f"{name} needs at least {least} classes; got logits of {logits.shape}; use margin")


def error_rate(logits: Logits, labels: Labels) -> Float[Array, ""]:
    """The share of examples whose largest logit is not the label's."""
    return (logits.argmax(-1) != labels).mean()


def dequantize(key: Key, x: Float[Array, "batch ..."], levels: int = 256) -> Float[Array, "batch ..."]:
    """Spread each of `levels` equally spaced intensities uniformly over its bin: [0, 1] -> [0, 1).

    A density of integers needs this noise; the bins have width `1 / levels`, which is what `bits_per_dim` assumes.

    Args:
        key: random key.
        x: images whose values are k / (levels - 1), k integer.
        levels: number of intensities.
    """
    _check.positive(levels=levels)
    # short of 1 by what rounding could add, so that no value reaches the next bin
    below_one = 1 - levels * jnp.finfo(x.dtype).eps
    return (jnp.round(x * (levels - 1)) + jax.random.uniform(key, x.shape, x.dtype, maxval=below_one)) / levels


def bits_per_dim(code: Code, logdet: PerExample, levels: int = 256) -> PerExample:
    """`-(log N(z; 0, I) + logdet) / (D log 2) + log2(levels)`: bits for each of the D values of an image in [0, 1].

    The standard normal prior covers logits and nuisance. For dequantised images this is an upper bound on the bits that
    a code of the original integers needs.

    Args:
        code: from `encode`, of images passed through `dequantize(levels=levels)`.
        logdet: from `encode`, in nats.
        levels: intensities of the original data; 1 gives the density of continuous data itself.
    """
    z = jnp.concatenate(code, -1)
    log_prior = -0.5 * (z**2).sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
    return -(log_prior + logdet) / (z.shape[-1] * math.log(2)) + math.log2(levels)


@jax.custom_vjp
def reverse_gradient(x: Float[Array, "..."], weight: Scalar) -> Float[Array, "..."]:
    """The identity, whose gradient is multiplied by `-weight`.

    Source: Ganin & Lempitsky 2015, *Unsupervised Domain Adaptation by Backpropagation*.
    """
    return x


reverse_gradient.defvjp(lambda x, weight: (x, weight), lambda weight, g: (-weight * g, jnp.zeros_like(weight)))


# What the model pays, given what a nuisance classifier that it cannot change reads from the nuisance. Each is
# minimised.


def reversal(key: Key, nuisance_logits: Logits, labels: Labels) -> PerExample:
    """`-CE(q, y)`: definition 5. Unbounded below: only the likelihood holds it."""
    return -cross_entropy(nuisance_logits, labels)


def uniform(key: Key, nuisance_logits: Logits, labels: Labels) -> PerExample:
    """`KL(uniform || q)`: bounded, and least where q says nothing."""
    log_q = jax.nn.log_softmax(nuisance_logits)
    return -log_q.mean(-1) - math.log(log_q.shape[-1])


def permuted(key: Key, nuisance_logits: Logits, labels: Labels) -> PerExample:
    """`+CE(q, y_permuted)`: the authors' first public code (2019). It drives q towards the label marginal."""
    return cross_entropy(nuisance_logits, jax.random.permutation(key, labels))


def negated_permuted(key: Key, nuisance_logits: Logits, labels: Labels) -> PerExample:
    """`-CE(q, y_permuted)`: the authors' last public code (2020).

    Broken, kept to reproduce: it raises the cross-entropy against labels drawn at random, which says nothing about the
    class.
    """
    return -permuted(key, nuisance_logits, labels)


Adversary = Callable[[Key, Logits, Labels], PerExample]

ADVERSARIES: dict[str, Adversary] = {
    "reversal": reversal,
    "uniform": uniform,
    "permuted-2019": permuted,
    "negated-permuted-2020": negated_permuted,
}
"""The variants of iCE by name; `reversal` is the definition."""


class IndependenceLoss(NamedTuple):
    """The parts of iCE, each `[B]`: `total` is what the model minimises; nats, and bits per dimension."""

    total: PerExample
    cross_entropy: PerExample
    nuisance: PerExample
    bits_per_dim: PerExample


def independence_cross_entropy(
    key: Key,
    code: Code,
    logdet: PerExample,
    nuisance_logits: Logits,
    labels: Labels,
    *,
    nuisance_weight: Scalar = 1.0,
    likelihood_weight: Scalar = 1.0,
    levels: int = 256,
    adversary: Adversary = reversal,
) -> IndependenceLoss:
    """What the model minimises under iCE, the nuisance classifier held fixed.

    In a two-player game the classifier minimises `cross_entropy(nuisance_logits, labels)` in steps of its own. In one
    backward pass for both, use `gradient_reversal_ice`.

    Args:
        key: random key; only the permuted variants use it.
        code: `[B, K]` and `[B, D - K]`.
        logdet: `[B]`, nats.
        nuisance_logits: `[B, K]`, the nuisance classifier's.
        labels: `[B]`.
        nuisance_weight: weight of the nuisance term.
        likelihood_weight: weight of bits per dimension.
        levels: intensities of the data, for bits per dimension.
        adversary: one of `ADVERSARIES`.
    """
    ce = cross_entropy(code.logits, labels)
    nuisance = adversary(key, nuisance_logits, labels)
    bits = bits_per_dim(code, logdet, levels)
    return IndependenceLoss(ce + nuisance_weight * nuisance + likelihood_weight * bits, ce, nuisance, bits)


def gradient_reversal_ice(
    code: Code,
    logdet: PerExample,
    nuisance_classifier: Callable[[Float[Array, "batch nuisance"]], Logits],
    labels: Labels,
    *,
    nuisance_weight: Scalar = 1.0,
    likelihood_weight: Scalar = 1.0,
    levels: int = 256,
) -> IndependenceLoss:
    """iCE as one loss for both players: its gradient lowers the classifier's cross-entropy and raises it for the model.

    `total = CE(z_s, y) + CE(q(reverse(z_n)), y) + likelihood_weight * bits/dim`. The value is not the objective of
    either player; the gradients are. Same fixed points as the two-player game.

    Args:
        code: `[B, K]` and `[B, D - K]`.
        logdet: `[B]`, nats.
        nuisance_classifier: `nuisance [B, D - K] -> logits [B, K]`, closed over its parameters.
        labels: `[B]`.
        nuisance_weight: multiplies the reversed gradient that reaches the model; the classifier's own is untouched.
        likelihood_weight: weight of bits per dimension.
        levels: intensities of the data, for bits per dimension.
    """
    ce = cross_entropy(code.logits, labels)
    nuisance = cross_entropy(nuisance_classifier(reverse_gradient(code.nuisance, nuisance_weight)), labels)
    bits = bits_per_dim(code, logdet, levels)
    return IndependenceLoss(ce + nuisance + likelihood_weight * bits, ce, nuisance, bits)
