"""The search of Auto-PGD in l1, where the best steps move few coordinates.

A step moves as many coordinates as the best point so far has moved, divided by 1.5, without momentum. The radius
shrinks from 3 eps over 2 eps to eps.

Source: Croce & Hein 2021, *Mind the Box*, algorithm 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from invjax.attacks._apgd_search import Objective, Run, expand, schedule, search
from invjax.attacks._threats import Threat
from invjax.types import Array, Scalar


class Support(NamedTuple):
    """What the rule for l1 remembers.

    Attributes:
        fraction: `[B]`, the fraction of the coordinates that a step moves.
        moved: `[B]`, how many coordinates the best point had moved at the last checkpoint.
    """

    fraction: Array
    moved: Array


def radii(steps: int) -> tuple[tuple[int, int], ...]:
    """Radius in units of eps, and steps at it: 30, 30 and 40 % of the steps, at least three steps in all.

    >>> radii(100)
    ((3, 30), (2, 30), (1, 40))
    """
    early = max(1, round(0.3 * steps))
    return (3, early), (2, early), (1, max(1, steps - 2 * early))


def ascend_sparse(
    objective: Objective, threat: Threat, start: Array, x: Array, eps: Scalar, steps: int, warm: bool = False
) -> Run:
    """Auto-PGD in l1 at one radius.

    Args:
        objective: what to climb.
        threat: the geometry.
        start: `[B, ...]`, inside the ball.
        x: `[B, ...]`, its center.
        eps: its radius, and the first and longest step.
        steps: gradients taken.
        warm: whether the start is the best point at a larger radius, so that its support counts.
    """
    project, size = jax.vmap(threat.project, (0, 0, None)), x[0].size

    def moved_count(z):
        return (z != x).reshape(len(x), -1).sum(1).astype(x.dtype)

    def ascent(gradient, fraction):
        ordered = jnp.sort(jnp.abs(gradient).ravel())
        smallest = ordered[jnp.clip((1 - fraction) * size, 0, size - 1).astype(jnp.int32)]
        signs = jnp.where(jnp.abs(gradient) >= smallest, jnp.sign(gradient), 0)
        return signs / jnp.maximum(jnp.abs(signs).sum(), 1)

    def move(s, momentum):
        del momentum
        return project(s.z + expand(s.step, x) * jax.vmap(ascent)(s.gradient, s.memory.fraction), x, eps)

    def check(s, window):
        del window
        moved = moved_count(s.best[0])
        back = moved < 0.95 * s.memory.moved
        step = jnp.clip(jnp.where(back, eps, s.step / 1.5), eps / 10, eps)
        return back, step, Support(moved / size / 1.5, moved)

    if warm:
        support = Support(moved_count(start) / size / 1.5, moved_count(start))
    else:
        support = Support(jnp.full(len(x), 0.2, x.dtype), jnp.full(len(x), size, x.dtype))
    first = jnp.full(len(x), eps, x.dtype)
    return search(objective, start, first, lambda value: support, schedule(steps, 0.04, 0.04, 0.0), move, check)


def ascend_radii(objective: Objective, threat: Threat, start: Array, x: Array, eps: Scalar, steps: int) -> Run:
    """Auto-PGD in l1 at radii that shrink to `eps`, each run from the best point of the one before it.

    Args:
        objective: what to climb.
        threat: the geometry.
        start: `[B, ...]`, inside the ball of radius `3 * eps`.
        x: `[B, ...]`, its center.
        eps: the last radius.
        steps: gradients taken in all.
    """
    traces = []
    for i, (radius, count) in enumerate(radii(steps)):
        start = jax.vmap(threat.project, (0, 0, None))(start, x, radius * eps)
        run = ascend_sparse(objective, threat, start, x, radius * eps, count, warm=i > 0)
        start = run.best
        traces.append(run.trace)
    return run._replace(trace=jnp.concatenate(traces, 1))
