"""The search of Auto-PGD in l1, where the best steps move few coordinates.

A step moves 1.5 times fewer coordinates than the best point so far has moved, and uses no momentum. The radius is first
3 eps, then 2 eps, then eps.

Source: Croce & Hein 2021, *Mind the Box*, algorithm 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from invjax.attacks._apgd_search import Objective, Run, expand, schedule, search
from invjax.attacks._threats import Threat, allowed
from invjax.types import Array, Scalar


class Support(NamedTuple):
    """The memory of the step-size rule for l1.

    Attributes:
        fraction: `[B]`, the fraction of the coordinates that a step moves.
        moved: `[B]`, the number of coordinates that the best point had moved at the last checkpoint.
    """

    fraction: Array
    moved: Array


def radii(steps: int) -> tuple[tuple[int, int], ...]:
    """The radii in units of eps and the steps at each: 30, 30 and 40 % of the steps, at least one each.

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
        objective: the function to maximise.
        threat: the l1 threat.
        start: `[B, ...]`, the first points, inside the ball.
        x: `[B, ...]`, the center of the ball.
        eps: the radius of the ball, which is also the length of the first and longest step.
        steps: number of gradient steps.
        warm: whether the start is the best point of a search at a larger radius. The coordinates that it has moved then
            set how many the first step moves.
    """
    project, size, mask = jax.vmap(threat.project, (0, 0, None)), x[0].size, allowed(threat, x[0])
    free = size if mask is None else jnp.maximum(mask.sum(), 1)  # fractions are those of the values that may change

    def moved_count(z):
        return (z != x).reshape(len(x), -1).sum(1).astype(x.dtype)

    def ascent(gradient, fraction):
        gradient = gradient if mask is None else jnp.where(mask, gradient, 0)
        ordered = jnp.sort(jnp.abs(gradient).ravel())
        position = (1 - fraction) * free + (size - free)
        smallest = ordered[jnp.clip(position, 0, size - 1).astype(jnp.int32)]
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
        return back, step, Support(moved / free / 1.5, moved)

    if warm:
        support = Support(moved_count(start) / free / 1.5, moved_count(start))
    else:
        support = Support(jnp.full(len(x), 0.2, x.dtype), jnp.full(len(x), free, x.dtype))
    first = jnp.full(len(x), eps, x.dtype)
    return search(objective, start, first, lambda value: support, schedule(steps, 0.04, 0.04, 0.0), move, check)


def ascend_radii(objective: Objective, threat: Threat, start: Array, x: Array, eps: Scalar, steps: int) -> Run:
    """Auto-PGD in l1 at radii that shrink to `eps`, each search from the best point of the one before it.

    Args:
        objective: the function to maximise.
        threat: the l1 threat.
        start: `[B, ...]`, the first points, inside the ball of radius `3 * eps`.
        x: `[B, ...]`, the center of the balls.
        eps: the last radius.
        steps: number of gradient steps at all radii together.
    """
    traces: list[Array] = []
    finite, done = jnp.ones(len(x), bool), 0
    for i, (radius, count) in enumerate(radii(steps)):
        further = lambda z, step, done=done: objective(z, done + step)  # noqa: E731
        start = jax.vmap(threat.project, (0, 0, None))(start, x, radius * eps)
        run = ascend_sparse(further, threat, start, x, radius * eps, count, warm=i > 0)
        start, done = run.best, done + count + 1
        traces, finite = [*traces, run.trace], finite & run.finite
    return run._replace(trace=jnp.concatenate(traces, 1), finite=finite)
