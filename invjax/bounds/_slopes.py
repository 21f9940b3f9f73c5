r"""Optimized slopes (alpha-CROWN): a better line below each ReLU, chosen for each image and each margin.

A function with one kink, such as ReLU, is enclosed on the side of its chord by one line, and on the other side by many:

    (1 - a) * tangent(low) + a * tangent(high),    0 <= a <= 1,

where both tangents are those at the ends of the interval. A weighted mean of two lines below a convex function is below
it, too, so every a gives a valid bound. For ReLU on an interval that contains 0 the line is `a * x`. CROWN chooses one
a for each unit; here a is a variable, and the bound is maximized over all of them by Adam (Kingma & Ba 2015).

Source: Xu et al. 2021, *Fast and Complete: Enabling Complete Verification with Rapid and Massively Parallel Incomplete
Verifiers*. Only the slopes of the last backward pass are optimized; the intervals inside the network are those of
CROWN, whereas the authors optimize the slopes behind these intervals, too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invjax._sharding import varying
from invjax.bounds._enclosure_rules import line_at
from invjax.bounds._enclosures import Line, Lines
from invjax.bounds._operations import Operation, Variable
from invjax.bounds._regions import Interval

_ONE_KINK = ("max", "min", "abs", "leaky_relu")


class Free(NamedTuple):
    """Two lines around a function with one kink, of which one can turn around the kink.

    Attributes:
        lines: the lines of CROWN.
        at_low: the tangent at the lower end of the interval.
        at_high: the tangent at the upper end.
    """

    lines: Lines
    at_low: Line
    at_high: Line


def free(operation: Operation, enclosure: Any, bounds: dict[Variable, Interval]) -> Free | None:
    """The lines of an operation with one kink; None for any other operation."""
    if operation.name not in _ONE_KINK or not isinstance(enclosure, Lines):
        return None
    (operand,) = operation.dependent
    return Free(enclosure, *(line_at(operation.of_dependent, end) for end in bounds[operand]))


def crown_weight(found: Free) -> jax.Array:
    """The weight a that gives the line of CROWN, for each value of the operand."""
    first, last = found.at_low.slope, found.at_high.slope
    slope = jnp.where(first < last, found.lines.lower.slope, found.lines.upper.slope)
    return jnp.clip(jnp.where(first != last, (slope - first) / jnp.where(first != last, last - first, 1), 0), 0, 1)


def lines_of(found: Free, weight: jax.Array) -> Lines:
    """The lines for a weight between 0 and 1 of each value of the operand."""
    (lower, upper), first, last = found
    line = Line(*((1 - weight) * a + weight * b for a, b in zip(first, last, strict=True)))
    finite = jnp.isfinite(line.slope) & jnp.isfinite(line.offset)
    convex, concave = finite & (first.slope < last.slope), finite & (first.slope > last.slope)
    return Lines(_where(convex, line, lower), _where(concave, line, upper))


def clipped(weights: Any) -> Any:
    """The weights, moved to the nearest ones between 0 and 1."""
    return jax.tree.map(lambda weight: jnp.clip(weight, 0, 1), weights)


def _where(condition: jax.Array, a: Line, b: Line) -> Line:
    return Line(*(jnp.where(condition, x, y) for x, y in zip(a, b, strict=True)))


Variables = Any
"""A pytree of arrays `[R, ...]`, one set of variables for each of R bounds."""


def maximized(
    bound: Callable[[Variables], jax.Array], start: Variables, project: Callable[[Variables], Variables], steps: int
) -> Variables:
    """The variables of the largest bound that Adam finds, for each of R bounds that do not depend on each other.

    Args:
        bound: `variables -> [R]`.
        start: the first variables; without any, nothing is to be done.
        project: moves variables to the nearest allowed ones.
        steps: the number of steps.
    """
    leaves = jax.tree.leaves(start)
    if not leaves:
        return start

    def value(variables):
        found = bound(variables)
        return found.sum(), found

    def step(carry, number):
        variables, mean, square, best, largest = carry
        gradient, found = jax.grad(value, has_aux=True)(variables)
        best = jax.tree.map(lambda new, old: jnp.where(_beside(found > largest, new), new, old), variables, best)
        gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), gradient)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, square, gradient)
        rate = 0.1 * 0.98 ** (number - 1) / (1 - 0.9**number)
        scale = jax.tree.map(lambda s: jnp.sqrt(s / (1 - 0.999**number)) + 1e-8, square)
        variables = project(jax.tree.map(lambda v, m, s: v + rate * m / s, variables, mean, scale))
        return (variables, mean, square, best, jnp.maximum(found, largest)), None

    zeros = jax.tree.map(jnp.zeros_like, start)
    lowest = jnp.full(len(leaves[0]), -jnp.inf, leaves[0].dtype)
    carry = varying(leaves[0], (start, zeros, zeros, start, lowest))
    numbers = jnp.arange(1, steps + 2, dtype=leaves[0].dtype)  # the last step evaluates the variables before it
    (*_, best, _), _ = lax.scan(step, carry, numbers)
    return lax.stop_gradient(best)


def _beside(condition: jax.Array, values: jax.Array) -> jax.Array:
    """The condition `[R]` with the number of axes of the values `[R, ...]`."""
    return condition.reshape(-1, *[1] * (values.ndim - 1))
