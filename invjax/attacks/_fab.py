r"""FAB: a search for the nearest adversarial example along the decision boundary.

The attack linearises the model at z. There the boundary between the label y and a class t is the hyperplane

    w . (z' - z) + h_t(z) - h_y(z) = 0    with    w = grad(h_t - h_y)(z).

A step goes to a weighted mean of two points, slightly beyond the projections of z and of the original x onto this
hyperplane. The attack keeps the nearest adversarial z, and moves z towards x after every adversarial point. The
projections are exact inside the box of pixel values (`Threat.to_hyperplane`).

Source: Croce & Hein 2020, *Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack*, algorithm 1
in the targeted form of AutoAttack, which goes towards a class and accepts any error. The search into a given class is
an addition.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from invjax import _check
from invjax._sharding import varying
from invjax.attacks._attack import Attack, recipe
from invjax.attacks._ranks import over_ranks, wrong_class
from invjax.attacks._threats import Threat, check_supported, check_threat, linf
from invjax.attacks.building import by_image, finish, fooled, judged, prepare, value_and_gradient, where
from invjax.losses import margin

DRIFT = 0.1
"""The largest weight of the projection of the original image in a step."""

OVERSHOOT = 1.05
"""The length of a step as a multiple of the distance to the hyperplane."""

PULL = 0.9
"""The factor that shortens the change z - x after an adversarial point."""


def _step(threat, z, x, difference, gradient):
    """The next point of one example; `difference` is the target's logit minus the label's logit at z."""
    offset = (gradient.ravel() * z.ravel()).sum() - difference
    d_z = threat.to_hyperplane(z, gradient, offset)
    d_x = threat.to_hyperplane(x, gradient, offset)
    size_z, size_x = (jnp.maximum(threat.distance(d, jnp.zeros_like(d)), 1e-8) for d in (d_z, d_x))
    mix = jnp.minimum(size_z / (size_z + size_x), DRIFT)
    new = (1 - mix) * (z + OVERSHOOT * d_z) + mix * (x + OVERSHOOT * d_x)
    return threat.project(new, x, math.inf)


def fab_toward(rank: Any, threat: Threat | None = None, *, steps: int = 100) -> Attack:
    """FAB along the boundary to one class, the `rank`-th most likely of the wrong ones.

    The search does not depend on `eps`; an adversarial point counts as a success within `eps`. The labels are the true
    classes, and any wrong prediction is a success, so the record is untargeted.

    Args:
        rank: the rank of the class among the wrong ones, 0 for the most likely one; may be a traced integer.
        threat: a norm with `to_hyperplane`, such as `linf()` (the default), `l2()` or `l1()`.
        steps: number of gradient steps.

    Raises:
        ValueError: the threat has no `to_hyperplane`, or `steps` is below 1.
    """
    threat = check_threat(linf() if threat is None else threat)

    def rivals_for(logits_fn, x, labels):
        targets = wrong_class(logits_fn(x), labels, rank)
        pick = lambda logits, k: jnp.take_along_axis(logits, k[:, None], 1)[:, 0]  # noqa: E731
        return lambda logits: pick(logits, targets) - pick(logits, labels)

    return _fab(recipe("fab_toward", threat, rank=rank, steps=steps), threat, steps, rivals_for)


def fab_to_labels(threat: Threat, steps: int) -> Attack:
    """FAB into given classes: along the boundary between the target and the most likely other class at each point."""

    def rivals_for(logits_fn, x, labels):
        del logits_fn, x
        return lambda logits: -margin(logits, labels)

    return _fab(recipe("fab", threat, steps=steps, targeted=True), threat, steps, rivals_for, targeted=True)


def _fab(said: str, threat: Threat, steps: int, rivals_for: Callable, targeted: bool = False) -> Attack:
    """FAB on the difference of two logits, `rivals_for(logits_fn, x, labels)`, a function `logits -> [B]`."""
    _check.count(steps=steps)
    check_supported("fab", threat, "to_hyperplane")

    def attack(threat, key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        del key, step_size, ids  # the search starts at the image and draws no random numbers
        logits_fn, x, eps = prepare(logits_fn, x, labels, eps, threat.box)
        rivals = rivals_for(logits_fn, x, labels)
        distances, step_of = jax.vmap(threat.distance), jax.vmap(lambda *given: _step(threat, *given))

        def rule(logits):
            return rivals(logits).astype(x.dtype), fooled(logits, labels, targeted)

        difference = partial(judged, rule, logits_fn, step=0)

        def step(carry, _):
            z, best, finite = carry
            (value, _), gradient, finite_here = value_and_gradient(difference, z)
            z = step_of(z, x, value, gradient)
            hit, distance = difference(z)[1], distances(z, x)
            best = where(hit & (distance < best[1]), (z, distance), best)
            return (where(hit, x + PULL * (z - x), z), best, finite & finite_here), best[1]

        nowhere = x, jnp.where(difference(x)[1], 0, jnp.inf).astype(x.dtype)
        first = x, nowhere, jnp.ones(len(x), bool)
        (_, (found, distance), finite), trace = jax.lax.scan(step, varying(x, first), None, length=steps)
        found = where(distance <= eps, found, x)
        return finish(logits_fn, threat.distance, found, x, labels, -distance, -trace.T, finite, targeted=targeted)

    return Attack(by_image(threat, attack), threat, targeted, said)


def fab(threat: Threat | None = None, *, steps: int = 100, targets: int = 9, targeted: bool = False) -> Attack:
    """FAB towards each of the `targets` most likely wrong classes; each example keeps its nearest success.

    With `targeted=True` the labels are the classes to reach. There are several boundaries around a class; each step
    follows the one to the most likely other class,

        h_t(z) - max over k != t of h_k(z) = 0.

    Args:
        threat: a norm with `to_hyperplane`, such as `linf()` (the default), `l2()` or `l1()`.
        steps: number of gradient steps for each class.
        targets: number of wrong classes, less than the number of classes; a targeted attack ignores it.
        targeted: whether `labels` are classes to reach.

    Returns:
        An `Attack`; with a very large `eps` its `distance` is an upper bound of the distance to the decision
        boundary.

    Raises:
        ValueError: the threat has no `to_hyperplane`, or `steps` or `targets` is below 1.
    """
    if targeted:
        return fab_to_labels(check_threat(linf() if threat is None else threat), steps)
    return over_ranks(lambda rank: fab_toward(rank, threat, steps=steps), targets, "fab", steps=steps)
