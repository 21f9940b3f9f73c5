r"""FAB: the nearest adversarial example, by walking along the decision boundary.

Where the model is linearised at z, its boundary between the label y and a class t is a hyperplane,
`w . (z' - z) + h_t(z) - h_y(z) = 0` with `w = grad(h_t - h_y)(z)`. A step goes a little beyond the projections of both
z and the original x onto it, mixed so that the walk drifts towards x; an adversarial z is kept if it is the nearest so
far, and pulled back towards x.

The projections are exact inside the box of pixel values; each is a root of a convex, piecewise linear function.

Source: Croce & Hein 2020, *Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack*, algorithm 1
in the targeted form of the standard ensemble.
"""

from typing import Any

import jax
import jax.numpy as jnp

from invjax import _check
from invjax.attacks._apgd import over_ranks, wrong_class
from invjax.attacks._attack import Attack, recipe
from invjax.attacks._threats import Threat, linf, newton
from invjax.attacks.building import finish, fooled, prepare, value_and_gradient, where
from invjax.types import Box


def to_hyperplane(point, normal, offset, box: Box, norm: str):
    """The shortest step from `point` to `{z : normal . z = offset}` inside the box, in l1, l2 or linf.

    Where the box does not reach the hyperplane: the step to the corner that comes nearest to it.

    Args:
        point: `[D]`, inside the box.
        normal: `[D]`.
        offset: a number.
        box: the range of pixel values.
        norm: "linf", "l2" or "l1".
    """
    missing = (normal * point).sum() - offset
    normal, missing = normal * jnp.sign(missing), jnp.abs(missing)  # so that the step lowers the product
    slope, direction = jnp.abs(normal), -jnp.sign(normal)
    # how far each coordinate may go; not at all where that gains nothing, or an infinite box would give 0 * inf
    cap = jnp.where(slope > 0, jnp.where(normal > 0, point - box[0], box[1] - point), 0)
    gain = slope * cap
    zero = jnp.zeros((), point.dtype)
    if norm == "linf":

        def rest(r):
            return missing - (slope * jnp.minimum(r, cap)).sum(), -jnp.where(r < cap, slope, 0).sum()

        size = jnp.minimum(newton(rest, zero, cap.max(), zero, missing, True), cap)
    elif norm == "l2":

        def rest(s):
            return missing - (slope * jnp.minimum(s * slope, cap)).sum(), -jnp.where(s * slope < cap, slope**2, 0).sum()

        most = (cap / jnp.where(slope > 0, slope, 1)).max()
        size = jnp.minimum(newton(rest, zero, most, zero, missing, True) * slope, cap)
    else:  # the steepest coordinates first, each to its end
        order = jnp.argsort(-slope)
        before = jnp.concatenate([zero[None], jnp.cumsum(gain[order])[:-1]])
        spent = jnp.clip((missing - before) / jnp.maximum(slope[order], 1e-30), 0, cap[order])
        size = jnp.zeros_like(point).at[order].set(spent)
    reachable = gain.sum() > missing
    return jnp.where(reachable, size, cap) * direction


_LENGTH = {
    "linf": lambda d: jnp.abs(d).max(),
    "l2": lambda d: jnp.sqrt((d**2).sum()),
    "l1": lambda d: jnp.abs(d).sum(),
}


def fab_toward(
    rank: Any,
    threat: Threat | None = None,
    *,
    steps: int = 100,
    drift: float = 0.1,
    overshoot: float = 1.05,
    pull: float = 0.9,
) -> Attack:
    """FAB along the boundary to one class: the `rank`-th most likely of the wrong ones.

    It minimises the distance whatever `eps` is; success means that the distance found is at most `eps`.

    Args:
        rank: 0 is the most likely wrong class; may be a traced integer.
        threat: `linf()` (the default), `l2()` or `l1()`.
        steps: gradients taken.
        drift: the largest share of the original's projection in a step.
        overshoot: how far to go beyond the hyperplane.
        pull: what remains of the change after an adversarial point was found.
    """
    _check.positive(steps=steps)
    threat = linf() if threat is None else threat
    _check.one_of("the threat of fab", threat.name, tuple(_LENGTH))
    length = _LENGTH[threat.name]
    low, high = threat.box

    def step_of(z, x, difference, gradient):
        """One example: the next point."""
        w, flat, origin = gradient.ravel(), z.ravel(), x.ravel()
        offset = (w * flat).sum() - difference
        d_z = to_hyperplane(flat, w, offset, threat.box, threat.name)
        d_x = to_hyperplane(origin, w, offset, threat.box, threat.name)
        size_z, size_x = jnp.maximum(length(d_z), 1e-8), jnp.maximum(length(d_x), 1e-8)
        mix = jnp.minimum(size_z / (size_z + size_x), drift)
        new = (1 - mix) * (flat + overshoot * d_z) + mix * (origin + overshoot * d_x)
        return jnp.clip(new, low, high).reshape(x.shape)

    def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        del key, step_size, ids  # it starts at the image and draws nothing
        logits_fn, x, eps = prepare(logits_fn, x, labels, eps, threat.box)
        clean = logits_fn(x)
        targets = wrong_class(clean, labels, rank)
        distances = jax.vmap(threat.distance)

        def difference(z):
            logits = logits_fn(z)
            pick = lambda k: jnp.take_along_axis(logits, k[:, None], 1)[:, 0]  # noqa: E731
            return (pick(targets) - pick(labels)).astype(x.dtype), None

        def step(carry, _):
            z, best = carry
            (value, _), gradient = value_and_gradient(difference, z)
            z = jax.vmap(step_of)(z, x, value, gradient)
            wrong, distance = fooled(logits_fn(z), labels), distances(z, x)
            best = where(wrong & (distance < best[1]), (z, distance), best)
            return (where(wrong, x + pull * (z - x), z), best), best[1]

        nowhere = x, jnp.where(fooled(clean, labels), 0, jnp.inf).astype(x.dtype)
        (_, (found, distance)), trace = jax.lax.scan(step, (x, nowhere), None, length=steps)
        found = where(distance <= eps, found, x)
        return finish(logits_fn, threat.distance, found, x, labels, -distance, -trace.T)

    return Attack(attack, threat, False, recipe("fab_toward", threat, rank=rank, steps=steps))


def fab(threat: Threat | None = None, *, steps: int = 100, targets: int = 9) -> Attack:
    """FAB along the boundary to each of the `targets` most likely wrong classes; the nearest point of all.

    Args:
        threat: `linf()` (the default), `l2()` or `l1()`.
        steps: gradients taken for each class.
        targets: less than the number of classes.

    Returns:
        An `Attack`; with `eps=inf`-like radii it gives the smallest distance that it knows.
    """
    return over_ranks(lambda rank: fab_toward(rank, threat, steps=steps), targets, "fab", steps=steps, targets=targets)
