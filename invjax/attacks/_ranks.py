"""Attacks towards each wrong class in turn, the most likely one first."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from invjax import _check, _logits
from invjax.attacks._attack import Attack, AttackResult, recipe
from invjax.attacks.building import best_of
from invjax.types import Array


def wrong_class(logits: Array, labels: Array, rank: Any) -> Array:
    """The `rank`-th most likely class among those that are not the label, `[B]`; rank 0 is the most likely one."""
    is_label = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    order = jnp.lexsort((-logits, is_label))  # the label comes last, also after a class of logit minus infinity
    # not the dtype of the labels: 8 bits hold the labels of a part of the classes, but not every other class
    return jnp.take(order, jnp.asarray(rank), axis=1).astype(jnp.int32)


def over_ranks(toward: Callable[[Any], Attack], targets: int, name: str, **settings: Any) -> Attack:
    """Attack towards each of the `targets` most likely wrong classes, and keep the nearest success of each example.

    Args:
        toward: `rank -> Attack`, where the rank is a traced integer.
        targets: number of wrong classes, less than the number of classes.
        name: name of the attack, for its recipe.
        **settings: settings of the attack, for its recipe.

    Raises:
        ValueError: `targets` is below 1. When the attack runs: `targets` is not less than the number of classes.
    """
    _check.count(targets=targets)

    def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        classes = _logits.num_classes(logits_fn, x, labels)
        if targets >= classes:
            raise ValueError(
                f"targets must be less than the {classes} classes of the model; got {targets}; "
                f"use targets={classes - 1} for all wrong classes"
            )

        def run(rank) -> AttackResult:
            return toward(rank)(jax.random.fold_in(key, rank), logits_fn, x, labels, eps=eps, ids=ids)

        def nearer(new, best):
            return (new.success & ~best.success) | (new.success & best.success & (new.distance < best.distance))

        return best_of(run, targets, nearer)

    first = toward(0)
    return replace(first, run=attack, recipe=recipe(name, first.threat, **settings, targets=targets))
