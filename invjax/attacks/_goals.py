r"""Other successes than a wrong prediction: by the k most likely classes, or by confidence.

Each combinator changes the logits that an attack sees, so that they predict the label exactly where the attack fails.
Every attack then searches for the new success with its own loss: `losses.margin` of the changed logits is the margin to
the k-th best wrong class, and FAB linearises the boundary of the new success.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.attacks._attack import Attack, check_attack
from invjax.attacks.building import through
from invjax.types import Labels, Logits

Decision = Callable[[Logits, Labels], Logits]


class TopK(NamedTuple):
    """The logits without the k - 1 largest ones of other classes than the label."""

    k: int

    def __call__(self, logits: Logits, labels: Labels) -> Logits:
        classes = logits.shape[-1]
        if self.k >= classes:
            raise ValueError(
                f"k must be less than the {classes} classes of the model, because every class is among the {classes} "
                f"most likely ones; got k={self.k}"
            )
        others = jnp.where(_is_label(logits, labels), -jnp.inf, logits)
        # a comparison of values could fail where the compiler rounds one of its two copies differently
        ranks = jnp.argsort(jnp.argsort(-others, axis=-1), axis=-1)
        smallest = jax.lax.stop_gradient(logits).min(-1, keepdims=True)
        return jnp.where(ranks < self.k - 1, smallest, logits)


class Confident(NamedTuple):
    """The log odds of the classes, with those of a probability in place of the label's, or of all but the target's."""

    probability: float
    targeted: bool

    def __call__(self, logits: Logits, labels: Labels) -> Logits:
        needed = np.log(self.probability) - np.log1p(-self.probability)
        replaced = _is_label(logits, labels) != self.targeted
        return jnp.where(replaced, float(needed), _log_odds_of_each(logits))


def top_k(attack: Attack, k: int) -> Attack:
    """The attack succeeds if the label is not among the k most likely classes, or the target of a targeted attack is.

    The attack sees the logits without the k - 1 largest ones of other classes, which become the smallest logit. The
    largest one that is left is the k-th best other class h_(k), so

        margin = h_(k) - h_y.

    >>> from invjax import attacks, losses
    >>> attack = attacks.top_k(attacks.pgd(), 2)
    >>> logits, labels = jnp.array([[3.0, 2.0, 1.0, 0.0]]), jnp.array([1])
    >>> losses.margin(attack.decision(logits, labels), labels).tolist()
    [-1.0]

    Args:
        attack: an attack whose success is a prediction, such as `pgd()`.
        k: number of classes, less than that of the model; 1 is the attack itself.

    Returns:
        An `Attack` with the same threat and target. Combinators and evaluations count its success by the same rule.

    Raises:
        ValueError: `k` is below 1, the attack is not an `Attack` or has such a rule already. When the attack runs:
            `k` is not less than the number of classes.
    """
    _check.count(k=k)
    check_attack(attack)
    return _decided(attack, cast(Decision, TopK(k)), f"k={k}", "top_k")


def confident(attack: Attack, probability: float) -> Attack:
    """The attack succeeds if the model gives another class than the label, or the target, at least this probability.

    The attack sees the log odds of the classes, `log(p_k / (1 - p_k))`. The label's are replaced by those of the
    probability c, and for a targeted attack all but the target's are, so that for a label y

        margin = max over k != y of log(p_k / (1 - p_k)) - log(c / (1 - c)).

    Args:
        attack: an attack whose success is a prediction, such as `pgd()`.
        probability: c, in (0, 1).

    Returns:
        An `Attack` with the same threat and target. Combinators and evaluations count its success by the same rule.

    Raises:
        ValueError: the probability is outside of (0, 1), the attack is not an `Attack` or has such a rule already.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability must be in (0, 1); got {probability}; 0.9 asks for confident errors")
    check_attack(attack)
    decision = cast(Decision, Confident(probability, attack.targeted))
    return _decided(attack, decision, f"probability={probability:g}", "confident")


def _is_label(logits, labels):
    return jnp.arange(logits.shape[-1])[None] == labels[:, None]


def _log_odds_of_each(logits):
    """`log(p_k / (1 - p_k))` of every class, `[B, K]`. The rest `1 - p_k` of the largest class is summed without it."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    largest = _is_label(logits, logits.argmax(-1))
    rest = jax.nn.logsumexp(jnp.where(largest, -jnp.inf, log_p), axis=-1, keepdims=True)
    return log_p - jnp.where(largest, rest, jnp.log1p(-jnp.exp(jnp.where(largest, -1.0, log_p))))


def _decided(attack: Attack, decision: Decision, setting: str, name: str) -> Attack:
    """The attack on the logits `decision(logits, labels)`."""
    if attack.decision is not None:
        raise ValueError(f"the success of {attack.recipe} has a rule already; give {name} an attack without one")

    def run(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        def decided(model, labels):
            return lambda z: decision(model(z), labels)

        return attack(
            key, through(logits_fn, decided, jnp.asarray(labels)), x, labels, eps=eps, step_size=step_size, ids=ids
        )

    return replace(attack, run=run, recipe=f"{name}({attack.recipe}, {setting})", decision=decision)
