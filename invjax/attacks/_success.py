"""The success of an attack, computed from the logits of the images that it found."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from invjax.attacks._attack import Attack
from invjax.attacks._random_model import judged
from invjax.types import Array, Labels, LogitsFn


def fooled(logits: Float[Array, "batch classes"], labels: Labels, targeted: bool = False) -> Bool[Array, " batch"]:
    """Whether the attack succeeds on each image: the model errs, or predicts the target of a targeted attack.

    A model that gives a NaN logit makes no prediction: it errs, and it does not predict a target.

    Args:
        logits: `[B, K]`, the model's logits of the images that the attack found.
        labels: `[B]`, the true classes, or the targets.
        targeted: whether the labels are targets.

    Returns:
        `[B]`, True where the attack succeeds.
    """
    predicted, none = logits.argmax(-1), jnp.isnan(logits).any(-1)
    return (predicted == labels) & ~none if targeted else (predicted != labels) | none


def verdict(logits_fn, x, labels, targeted, decision=None):
    """Whether any logit is NaN, and whether `decision(logits, labels)` says that the attack succeeds, each `[B]`."""

    def rule(logits):
        none = jnp.where(jnp.isnan(logits).any(-1), jnp.nan, 0.0)
        decided = logits if decision is None else decision(logits, labels)
        return none, fooled(decided, labels, targeted)

    none, success = judged(rule, logits_fn, x)
    return jnp.isnan(none), success


def succeeds(attack: Attack, logits_fn: LogitsFn, x: Array, labels: Labels) -> Bool[Array, " batch"]:
    """Whether the images are successes of an attack: by its target, and by the logits that decide on its success.

    Args:
        attack: the attack, whose fields `targeted` and `decision` are the rule.
        logits_fn: the model; of a random model the majority of its draws counts.
        x: `[B, ...]`, images.
        labels: `[B]`, the true classes, or the targets.

    Returns:
        `[B]`, True where the attack succeeds.
    """
    return verdict(logits_fn, x, labels, attack.targeted, attack.decision)[1]
