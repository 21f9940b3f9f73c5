r"""Enclosure rules: the affine bounds of each primitive of JAX.

The interval of the input determines the slope of each line. A convex or concave function gets its chord on one side and
the tangent in the middle of the interval on the other. An S-shaped function gets two parallel lines.

Sources: Zhang et al. 2018, *Efficient Neural Network Robustness Certification with General Activation Functions* (the
adaptive slope of ReLU is the tangent above); Singh et al. 2018 for parallel lines; McCormick 1976 for products.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from invjax.bounds import _interval_rules as interval
from invjax.bounds._enclosures import Between, Enclosure, Exact, Line, Lines, Rule, register_enclosure
from invjax.bounds._regions import Interval
from invjax.types import Array

# affine operations


def affine(function: Callable, *intervals: Interval) -> Enclosure:
    """The rule of an operation that is affine in all its operands together.

    Args:
        function: the operation as a function of the operands that depend on the input.
        intervals: the bounds of these operands.
    """
    return Exact(function)


def _linear(function, *intervals):
    return Exact(function, has_offset=False)


def _linear_in_each(function, *intervals):
    """The rule of matrix products and convolutions; of two uncertain operands each product gets McCormick's planes."""
    if len(intervals) == 1:
        return Exact(function, has_offset=False)
    (low_x, high_x), (low_y, _) = intervals
    known = interval.linear(function, *intervals)
    finite = jnp.isfinite(low_x).all() & jnp.isfinite(high_x).all() & jnp.isfinite(low_y).all()
    low_x, high_x, low_y = (jnp.where(finite, end, 0) for end in (low_x, high_x, low_y))
    low, high = (jnp.where(finite, 0, end) for end in known)
    return Between(
        lambda x, y: function(x, low_y) + function(low_x, y) - function(low_x, low_y) + low,
        lambda x, y: function(x, low_y) + function(high_x, y) - function(high_x, low_y) + high,
    )


# functions of one value


def bent(function: Callable, *intervals: Interval) -> Enclosure:
    """The rule of a convex or concave function of one value: a chord and a tangent.

    The tangent touches the function in the middle of the interval.

    Args:
        function: the operation as a function of the operands that depend on the input.
        intervals: the bounds of these operands; with more than one operand the rule returns None.
    """
    if len(intervals) != 1:
        return None
    tangent, chord, convex = _tangent_and_chord(function, *intervals)
    return Lines(_chosen(convex, tangent, chord), _chosen(convex, chord, tangent))


def s_shaped(function: Callable, *intervals: Interval) -> Enclosure:
    """The rule of an increasing function of one value whose slope first rises and then falls: parallel lines.

    The slope is smallest at one end of the interval, so the function minus a line of that slope increases.

    Args:
        function: the operation as a function of the operands that depend on the input.
        intervals: the bounds of these operands; with more than one operand the rule returns None.
    """
    if len(intervals) != 1:
        return None
    ((low, high),) = intervals
    slope = jnp.minimum(_slope(function, low), _slope(function, high))
    return Lines(_line(slope, low, function(low)), _line(slope, high, function(high)))


def smooth(curvature: float, *, period: float = float("inf")) -> Rule:
    """The rule of a function of one value whose second derivative is at most `curvature` in absolute value.

    Two lines have the slope of the chord. Between points of distance h, the function deviates from its own chord by at
    most `curvature * h**2 / 8`, so the values at a few points bound it.

    Args:
        curvature: the largest absolute value of the second derivative.
        period: width of an interval from which on the lines are flat.
    """

    def rule(function, *intervals):
        if len(intervals) != 1:
            return None
        ((low, high),) = intervals
        return Lines(*_parallel(function, low, high, low, high, curvature, high - low < period))

    return rule


def nearly_relu(curvature: float, core: float) -> Rule:
    """The rule of an activation that is within 1e-6 of ReLU outside of `[-core, core]`, and there as for `smooth`.

    Args:
        curvature: the largest absolute value of the second derivative.
        core: the end of the part where the function bends.
    """

    def rule(function, *intervals):
        ((low, high),) = intervals
        inner = jnp.clip(low, -core, core), jnp.clip(high, -core, core)
        return Lines(*_parallel(function, low, high, *inner, curvature, jnp.isfinite(high - low), 1e-6))

    return rule


def _parallel(function, low, high, first, last, curvature, valid, outside=0.0):
    """The lower and the upper line of the chord's slope; NaN where they are not valid.

    Between `first` and `last` the function has at most this curvature. Outside it is within `outside` of functions that
    are linear on both sides.
    """
    slope = jnp.where(high > low, (function(high) - function(low)) / jnp.where(high > low, high - low, 1), 0)
    width = (last - first) / (_POINTS - 1)
    points = [first + i * width for i in range(_POINTS)]
    above = jnp.stack([function(x) - slope * x for x in (low, high, *points)])
    slack = curvature * width**2 / 8 + jnp.where((low < first) | (high > last), outside, 0)
    slope = jnp.where(valid, slope, jnp.nan)
    return Line(slope, above.min(0) - slack), Line(slope, above.max(0) + slack)


_POINTS = 33
"""The number of points at which `smooth` evaluates a function."""


def _convex(function, *intervals):
    """The rule `bent` for a convex function, which needs fewer operations."""
    return Lines(*_tangent_and_chord(function, *intervals)[:2]) if len(intervals) == 1 else None


def _tangent_and_chord(function, interval):
    low, high = interval
    middle = low / 2 + high / 2
    at_low, at_middle, at_high = function(low), function(middle), function(high)
    tangent = _line(_slope(function, middle), middle, at_middle)
    width = high - low
    wide = width > 0
    slope = jnp.where(wide, (at_high - at_low) / jnp.where(wide, width, 1), tangent.slope)
    chord = _line(jnp.where(width < jnp.inf, slope, jnp.nan), low, at_low)  # a slope over a width that overflows is 0
    return tangent, chord, at_middle <= at_low / 2 + at_high / 2


def _slope(function, x):
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


def _line(slope, at, value):
    return Line(slope, value - slope * at)


def line_at(function: Callable, x: Array) -> Line:
    """The tangent of a function of one value at x."""
    return _line(_slope(function, x), x, function(x))


def _chosen(condition, a, b):
    return Line(*(jnp.where(condition, x, y) for x, y in zip(a, b, strict=True)))


def _bent_where(condition, function, x, known):
    """The rule `bent` where the condition holds, and the interval `known` elsewhere."""
    # elsewhere the lines are computed on the interval [1, 1], so that neither they nor their gradient become NaN
    lines = bent(function, Interval(*(jnp.where(condition, end, 1) for end in x)))
    flat = [Line(jnp.zeros_like(end), end) for end in known]
    return Lines(*(_chosen(condition, *pair) for pair in zip(lines, flat, strict=True)))


def _power(function, x):
    one, zero = jnp.ones((), x.lower.dtype), jnp.zeros((), x.lower.dtype)
    even = (function(one) == function(-one)) & jnp.isfinite(function(zero))
    return _bent_where(even | (x.lower > 0) | (x.upper < 0), function, x, interval.power(function, x))


def _bent_in_its_domain(rule):
    """The rule `bent` where the interval rule gives finite ends, that is, where the box lies in the domain."""

    def lines(function, x):
        known = rule(function, x)
        return _bent_where(jnp.isfinite(known.lower) & jnp.isfinite(known.upper), function, x, known)

    return lines


def _elu(function, x):
    # `function` accepts only arrays of the shape that it was traced with
    scale = -function(jnp.full_like(x.lower, -jnp.inf))  # of the exponential part; above 1 elu is not convex
    return _bent_where((scale >= 0) & (scale <= 1), function, x, interval.turning(0.0)(function, x))


# functions of several values


def _product(function, *intervals):
    if len(intervals) == 1:
        return Exact(function, has_offset=False)
    (low_x, high_x), (low_y, high_y) = intervals
    known = interval.hull(*(function(x, y) for x in (low_x, high_x) for y in (low_y, high_y)))
    finite = jnp.isfinite(known.lower) & jnp.isfinite(known.upper)
    low_x, high_x, low_y = (jnp.where(finite, end, 0) for end in (low_x, high_x, low_y))
    low, high = (jnp.where(finite, 0, end) for end in known)
    return Between(
        lambda x, y: low_y * x + low_x * y - low_x * low_y + low,
        lambda x, y: low_y * x + high_x * y - high_x * low_y + high,
    )


def _largest_of(function, x):
    """The maximum over axes is at least the operand of highest lower end, and equals it if no other can exceed it."""
    lower, _ = _largest_in_windows(function, x)
    at_low, pull = jax.vjp(function, jax.lax.stop_gradient(x.lower))
    fraction = pull(jnp.ones_like(at_low))[0]  # 1 for that operand, less if several are tied
    others = function(jnp.where(fraction > 0, -jnp.inf, x.upper))
    wins, high = (function(fraction) == 1) & (others <= at_low), function(x.upper)
    return Between(lower, lambda v: jnp.where(wins, lower(v), high))


def _largest_in_windows(function, x):
    at, high = jax.lax.stop_gradient(x.lower), function(x.upper)
    return Between(lambda v: jax.jvp(function, (at,), (v,))[1], lambda v: high)


def _register(rule: Rule, names: str) -> None:
    for name in names.split():
        register_enclosure(name, rule)


_register(affine, "add add_any sub concatenate stack pad select_n gather dynamic_update_slice scatter scatter-add")
_register(_linear, "neg div reduce_sum cumsum reduce_window_sum convert_element_type")
_register(_linear, "copy name device_put reshard pvary")
_register(_linear, "reshape transpose broadcast_in_dim squeeze slice rev split unstack tile dynamic_slice")
_register(_linear_in_each, "dot_general conv_general_dilated canonical_conv canonical_conv_transposed")
_register(_product, "mul")
_register(_convex, "max abs square exp exp2 expm1 cosh softplus")
_register(bent, "min leaky_relu")
_register(_bent_in_its_domain(interval.where_defined(interval.increasing)), "log log1p sqrt")
_register(_bent_in_its_domain(interval.fixed_power), "pow")
_register(_bent_in_its_domain(interval.where_defined(interval.decreasing)), "rsqrt")
_register(s_shaped, "tanh logistic erf asinh atan")
_register(_power, "integer_pow")
_register(_elu, "elu")
_register(nearly_relu(0.51, 20.0), "silu")
_register(smooth(1.0, period=2 * math.pi), "sin cos")
_register(_largest_of, "reduce_max")
_register(_largest_in_windows, "reduce_window_max")
