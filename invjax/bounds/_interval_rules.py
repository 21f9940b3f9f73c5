"""Interval rules for classes of functions: monotone or turning once, linear in two operands, and powers.

Sources: Gowal et al. 2018 for products with a fixed matrix; Rump 1999 for products of two uncertain matrices.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from invjax.bounds._interval import Rule
from invjax.bounds._regions import Interval


def lower_of(operand):
    """The lower end of an interval, or the array itself."""
    return operand.lower if isinstance(operand, Interval) else operand


def upper_of(operand):
    """The upper end of an interval, or the array itself."""
    return operand.upper if isinstance(operand, Interval) else operand


def hull(*values):
    """The smallest interval that contains all values, element by element."""
    low, high = values[0], values[0]
    for value in values[1:]:
        low, high = jnp.minimum(low, value), jnp.maximum(high, value)
    return Interval(low, high)


# monotone functions


def increasing(function: Callable, *operands: Any) -> Interval:
    """The rule of a primitive whose outputs never decrease when an operand increases.

    Args:
        function: the primitive with its parameters.
        operands: an `Interval`, or an array that does not depend on the input.
    """
    return Interval(function(*map(lower_of, operands)), function(*map(upper_of, operands)))


def decreasing(function: Callable, *operands: Any) -> Interval:
    """The rule of a primitive whose outputs never increase when an operand increases.

    Args:
        function: the primitive with its parameters.
        operands: an `Interval`, or an array that does not depend on the input.
    """
    return Interval(function(*map(upper_of, operands)), function(*map(lower_of, operands)))


def turning(at: float) -> Rule:
    """The rule of a function that is monotone below `at` and monotone above it.

    Only the first operand may depend on the input.

    Args:
        at: the point where the function may turn.
    """

    def rule(function, x, *rest):
        if not isinstance(x, Interval):
            raise NotImplementedError(f"only the first operand of {function} may depend on the input")
        between = jnp.clip(jnp.asarray(at, x.lower.dtype), x.lower, x.upper)
        return hull(*(function(point, *rest) for point in (x.lower, x.upper, between)))

    return rule


def where_defined(rule):
    """The rule of a function that is NaN outside its domain: if the box leaves the domain, both ends become NaN."""

    def known(function, x):
        # the end of a box can be -0.0, and 1 / sqrt(-0.0) is minus infinity
        found = rule(function, Interval(*(jnp.where(end == 0, 0, end) for end in x)))
        nothing = jnp.isnan(found.lower) | jnp.isnan(found.upper)
        return Interval(*(jnp.where(nothing, jnp.nan, end) for end in found))

    return known


# sums and products


def linear(function: Callable, *operands: Any) -> Interval:
    """The rule of a primitive that is linear in each of two operands: products of matrices, convolutions.

    The interval is exact if one operand is fixed, and at most 1.5 times too wide if both are intervals.

    Args:
        function: the primitive with its parameters.
        operands: two operands, each an `Interval` or an array that does not depend on the input.
    """
    (c1, r1), (c2, r2) = map(_center_radius, operands)
    center, (a1, a2) = function(c1, c2), (jnp.abs(c1), jnp.abs(c2))
    parts = [] if r1 is None else [function(r1, a2 if r2 is None else a2 + r2)]
    parts += [] if r2 is None else [function(a1, r2)]
    radius = sum(parts[1:], parts[0])
    return Interval(center - radius, center + radius)


def _center_radius(operand):
    if not isinstance(operand, Interval):
        return operand, None
    return operand.lower / 2 + operand.upper / 2, operand.upper / 2 - operand.lower / 2


def power(function: Callable, x: Interval) -> Interval:
    """The rule of `x^n` with an integer n; the interval is unbounded if n is negative and x may be 0."""
    found = turning(0.0)(function, x)
    crosses = (x.lower <= 0) & (x.upper >= 0)
    pole = ~jnp.isfinite(function(jnp.zeros((), x.lower.dtype))) & crosses
    return Interval(jnp.where(pole, -jnp.inf, found.lower), jnp.where(pole, jnp.inf, found.upper))


def fixed_power(function: Callable, x: Interval, *exponent: Any) -> Interval:
    """The rule of `x^p` with a real p that does not depend on the input; the ends are NaN where x may be negative."""
    if any(isinstance(p, Interval) for p in exponent) or not isinstance(x, Interval):
        raise NotImplementedError(
            "there are bounds for x**p only if p does not depend on the input; write exp(p * log(x)) instead"
        )
    found = hull(*(function(end, *exponent) for end in x))
    return Interval(*(jnp.where(x.lower >= 0, end, jnp.nan) for end in found))


def periodic(function: Callable, x: Interval) -> Interval:
    """The rule of sine and cosine: an end of the interval, or 1 or -1 if the function turns between them."""
    found = hull(*(function(end) for end in x))
    start = jnp.where(function(jnp.zeros((), x.lower.dtype)) == 0, 0.25, 0.0)  # the first maximum, in periods

    def turns(at):
        first, last = (end / (2 * jnp.pi) - at for end in x)
        slack = 1e-6 + 4 * jnp.finfo(first.dtype).eps * jnp.maximum(jnp.abs(first), jnp.abs(last))
        return jnp.floor(last + slack) >= jnp.ceil(first - slack)

    low = jnp.where(turns(start + 0.5), -1, found.lower)
    return Interval(low, jnp.where(turns(start), 1, found.upper))
