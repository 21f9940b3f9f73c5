r"""Independence cross-entropy (iCE): a loss that removes information about the class from the nuisance.

Cross-entropy requires only that the logits determine the class. iCE also requires that the nuisance carries no
information about the class and that the code has a high likelihood. With a nuisance classifier q that reads `z_n`:

    min over the model, max over q     CE(z_s, y)  -  nuisance_weight * CE(q(z_n), y)  +  likelihood_weight * bits/dim

The classifier q minimises its own cross-entropy and the model maximises it.

Source: Jacobsen et al. 2019, definition 5. This module makes two corrections. The likelihood enters by its logarithm.
The prior covers the logits as well: with a prior on the nuisance alone, while log|det| counts every dimension, scaling
the logits by c lowers the loss by K log c without bound.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from invjax import _check
from invjax._dtypes import wide
from invjax.losses._classification import cross_entropy
from invjax.losses._density import bits_per_dim
from invjax.types import Array, Code, Key, Labels, Logits, PerExample, Scalar


@jax.custom_vjp
def reverse_gradient(x: Float[Array, "..."], weight: Scalar) -> Float[Array, "..."]:
    """The identity, with a gradient that is multiplied by `-weight`.

    Args:
        x: an array.
        weight: the factor of the reversed gradient.

    Returns:
        x, unchanged.

    Source: Ganin & Lempitsky 2015, *Unsupervised Domain Adaptation by Backpropagation*.
    """
    return x


reverse_gradient.defvjp(lambda x, weight: (x, weight), lambda weight, g: (-weight * g, jnp.zeros_like(weight)))


# The model minimises one of these functions of the nuisance classifier's logits, with the classifier held fixed.


def reversal(key: Key, nuisance_logits: Logits, labels: Labels) -> PerExample:
    """`-CE(q, y)`: definition 5. This term is unbounded below; only the likelihood term keeps the sum bounded.

    Args:
        key: a random key, not used.
        nuisance_logits: `[B, K]`, the logits of q.
        labels: `[B]`, the true classes y.

    Returns:
        The nuisance term, which the model minimises, `[B]`, in nats.
    """
    return -cross_entropy(nuisance_logits, labels)


def uniform(key: Key, nuisance_logits: Logits, labels: Labels) -> PerExample:
    """`KL(uniform || q)`: at least 0, and equal to 0 where q predicts all classes equally.

    Args:
        key: a random key, not used.
        nuisance_logits: `[B, K]`, the logits of q.
        labels: `[B]`, the true classes, not used.

    Returns:
        The nuisance term, which the model minimises, `[B]`, in nats.
    """
    log_q = jax.nn.log_softmax(wide(nuisance_logits))
    return -log_q.mean(-1) - math.log(log_q.shape[-1])


def permuted(key: Key, nuisance_logits: Logits, labels: Labels) -> PerExample:
    """`+CE(q, y_permuted)`: the authors' first public code (2019). The model then drives q towards the label marginal.

    Args:
        key: the random key of the permutation.
        nuisance_logits: `[B, K]`, the logits of q.
        labels: `[B]`, the true classes, which are permuted within the batch.

    Returns:
        The nuisance term, which the model minimises, `[B]`, in nats.
    """
    return cross_entropy(nuisance_logits, jax.random.permutation(key, labels))


def negated_permuted(key: Key, nuisance_logits: Logits, labels: Labels) -> PerExample:
    """`-CE(q, y_permuted)`: the authors' last public code (2020).

    This variant does not work, and serves only to reproduce results. The model raises the cross-entropy of q against
    random labels, which is unrelated to what q knows about the class.

    Args:
        key: the random key of the permutation.
        nuisance_logits: `[B, K]`, the logits of q.
        labels: `[B]`, the true classes, which are permuted within the batch.

    Returns:
        The nuisance term, which the model minimises, `[B]`, in nats.
    """
    return -permuted(key, nuisance_logits, labels)


Adversary = Callable[[Key, Logits, Labels], PerExample]
"""`(key, nuisance_logits [B, K], labels [B]) -> [B]`: the nuisance term that the model minimises."""

ADVERSARIES: dict[str, Adversary] = {
    "reversal": reversal,
    "uniform": uniform,
    "permuted-2019": permuted,
    "negated-permuted-2020": negated_permuted,
}
"""The variants of iCE by name; `reversal` is the definition."""


class IndependenceLoss(NamedTuple):
    """The parts of iCE for each example.

    Attributes:
        total: `[B]`, the sum that the model minimises.
        cross_entropy: `[B]`, the cross-entropy of the model's logits, in nats.
        nuisance: `[B]`, the nuisance term without its weight, in nats.
        bits_per_dim: `[B]`, bits per dimension.
    """

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
    """The loss that the model minimises under iCE while the nuisance classifier is fixed.

    In a two-player game the classifier minimises `cross_entropy(nuisance_logits, labels)` in steps of its own.
    `gradient_reversal_ice` trains both in one backward pass.

    Args:
        key: random key; only the permuted variants use it.
        code: logits `[B, K]` and nuisance `[B, D - K]`, from `encode`.
        logdet: `[B]`, the log determinant from `encode`, in nats.
        nuisance_logits: `[B, K]`, logits of the nuisance classifier.
        labels: `[B]`, class indices.
        nuisance_weight: the weight of the nuisance term.
        likelihood_weight: the weight of bits per dimension.
        levels: the number of intensity levels of the data, for bits per dimension.
        adversary: the nuisance term, one of `ADVERSARIES`.

    Returns:
        The loss and its parts.
    """
    _check.key(key)
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
    """iCE as one loss for both players, by gradient reversal.

        total = CE(z_s, y) + CE(q(reverse(z_n)), y) + likelihood_weight * bits/dim

    The gradient of `total` trains the nuisance classifier to lower its cross-entropy and the model to raise it. The
    gradients are those of the two players, but the value is the objective of neither. The fixed points are those of the
    two-player game.

    Args:
        code: logits `[B, K]` and nuisance `[B, D - K]`, from `encode`.
        logdet: `[B]`, the log determinant from `encode`, in nats.
        nuisance_classifier: `nuisance [B, D - K] -> logits [B, K]`, a closure over its parameters.
        labels: `[B]`, class indices.
        nuisance_weight: the factor of the reversed gradient that reaches the model; the gradient of the classifier's
            own parameters does not depend on it.
        likelihood_weight: the weight of bits per dimension.
        levels: the number of intensity levels of the data, for bits per dimension.

    Returns:
        The loss and its parts.
    """
    ce = cross_entropy(code.logits, labels)
    nuisance = cross_entropy(nuisance_classifier(reverse_gradient(code.nuisance, nuisance_weight)), labels)
    bits = bits_per_dim(code, logdet, levels)
    return IndependenceLoss(ce + nuisance + likelihood_weight * bits, ce, nuisance, bits)
