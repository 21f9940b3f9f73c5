r"""Operations between two affine functions: what `linear` needs to know of each.

Over the box of its inputs an operation f is held between

    lower(v) <= f(v) <= upper(v),

both affine. Where the slopes could be chosen freely they are fixed here by the interval: the chord on one side of a
bend and the tangent in its middle on the other, parallel lines for what is S-shaped. Sources: Zhang et al. 2018,
*Efficient Neural Network Robustness Certification with General Activation Functions* (whose adaptive ReLU slope is that
tangent); Singh et al. 2018 for parallel lines; McCormick 1976 for products.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from invjax.bounds import _interval as interval
from invjax.bounds._base import Interval
from invjax.bounds._graph import Operation, Variable


class Line(NamedTuple):
    """`slope * x + offset`, for each value of an array."""

    slope: jax.Array
    offset: jax.Array


class Lines(NamedTuple):
    """What holds a function of one value, for each value of an array."""

    lower: Line
    upper: Line


class Between(NamedTuple):
    """Two affine functions of the operands."""

    lower: Callable[..., Any]
    upper: Callable[..., Any]


class Exact(NamedTuple):
    """The function itself, which is affine.

    Attributes:
        function: of the operands that depend on the input.
        has_offset: whether it may be other than 0 at 0; what is known not to be need not be computed.
    """

    function: Callable[..., Any]
    has_offset: bool = True


Enclosure = Exact | Lines | Between | None
"""None where only the interval of the output is known."""

Rule = Callable[..., Enclosure]
"""`(function, *intervals) -> Enclosure`: `function` takes the operands that depend on the input, and these are their
intervals."""

_RULES: dict[str, Rule] = {}


def register_enclosure(primitive: core.Primitive | str, rule: Rule) -> None:
    """Teach `crown` the affine bounds of a primitive; without them it uses the interval of `ibp`.

    `affine`, `bent` and `s_shaped` are rules for most that one meets:

    >>> register_enclosure(jax.lax.asinh_p, s_shaped)

    Args:
        primitive: the primitive, or its name.
        rule: see `Rule`. It replaces what was registered before.
    """
    _RULES[primitive if isinstance(primitive, str) else primitive.name] = rule


def enclosure_of(operation: Operation, bounds: dict[Variable, Interval]) -> Enclosure:
    """The enclosure of an operation whose operands have these bounds."""
    intervals = [bounds[variable] for variable in operation.dependent]
    if operation.name not in _RULES or not all(jnp.issubdtype(i.lower.dtype, jnp.floating) for i in intervals):
        return None
    return _RULES[operation.name](operation.of_dependent, *intervals)


def affine(function: Callable, *intervals: Interval) -> Enclosure:
    """The operation is affine in all its operands together."""
    return Exact(function)


def bent(function: Callable, *intervals: Interval) -> Enclosure:
    """A function of one value whose slope only rises, or only falls: the chord, and the tangent in the middle."""
    if len(intervals) != 1:
        return None
    tangent, chord, convex = _tangent_and_chord(function, *intervals)
    return Lines(_chosen(convex, tangent, chord), _chosen(convex, chord, tangent))


def _convex(function, *intervals):
    """`bent` where the slope is known to rise, in fewer operations."""
    return Lines(*_tangent_and_chord(function, *intervals)[:2]) if len(intervals) == 1 else None


def _tangent_and_chord(function, interval):
    low, high = interval
    middle = (low + high) / 2
    at_low, at_middle, at_high = function(low), function(middle), function(high)
    tangent = _line(_slope(function, middle), middle, at_middle)
    wide = high > low
    chord = _line(jnp.where(wide, (at_high - at_low) / jnp.where(wide, high - low, 1), tangent.slope), low, at_low)
    return tangent, chord, at_middle <= (at_low + at_high) / 2


def s_shaped(function: Callable, *intervals: Interval) -> Enclosure:
    """An increasing function of one value whose slope rises up to some point and falls after it: parallel lines.

    The slope is nowhere less than at one of the ends, so the function minus a line of that slope still increases.
    """
    if len(intervals) != 1:
        return None
    ((low, high),) = intervals
    slope = jnp.minimum(_slope(function, low), _slope(function, high))
    return Lines(_line(slope, low, function(low)), _line(slope, high, function(high)))


def _slope(function, x):
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


def _line(slope, at, value):
    return Line(slope, value - slope * at)


def _chosen(condition, a, b):
    return Line(*(jnp.where(condition, x, y) for x, y in zip(a, b, strict=True)))


def _bent_where(condition, function, x, known):
    """`bent`, but the interval `known` where the condition does not hold."""
    # some other interval where the lines are not used: no NaN comes from there, to the gradient neither
    lines = bent(function, Interval(*(jnp.where(condition, end, 1) for end in x)))
    flat = [Line(jnp.zeros_like(end), end) for end in known]
    return Lines(*(_chosen(condition, *pair) for pair in zip(lines, flat, strict=True)))


def _power(function, x):
    one, zero = jnp.ones((), x.lower.dtype), jnp.zeros((), x.lower.dtype)
    even = (function(one) == function(-one)) & jnp.isfinite(function(zero))
    return _bent_where(even | (x.lower > 0) | (x.upper < 0), function, x, interval.power(function, x))


def _bent_in_its_domain(rule):
    """`bent` where the interval of the output, by this rule, is finite: the function's domain may end in the box."""

    def lines(function, x):
        known = rule(function, x)
        return _bent_where(jnp.isfinite(known.lower) & jnp.isfinite(known.upper), function, x, known)

    return lines


def _elu(function, x):
    # a call that is kept whole takes arrays of its own shape only
    scale = -function(jnp.full_like(x.lower, -jnp.inf))  # of the exponential part; above 1 the slope falls at 0
    return _bent_where((scale >= 0) & (scale <= 1), function, x, interval.turning(0.0)(function, x))


def _linear(function, *intervals):
    return Exact(function, has_offset=False)


def _linear_in_each(function, *intervals):
    return Exact(function, has_offset=False) if len(intervals) == 1 else None


def _product(function, *intervals):
    if len(intervals) == 1:
        return Exact(function, has_offset=False)
    (low_x, high_x), (low_y, _) = intervals
    return Between(
        lambda x, y: low_y * x + low_x * y - low_x * low_y, lambda x, y: low_y * x + high_x * y - high_x * low_y
    )


def _largest_of(function, x):
    """The maximum over axes: at least the operand whose lower end is highest, and just that if no other reaches it."""
    lower, _ = _largest_in_windows(function, x)
    at_low, pull = jax.vjp(function, jax.lax.stop_gradient(x.lower))
    share = pull(jnp.ones_like(at_low))[0]  # 1 for that operand, less where there is a tie
    others = function(jnp.where(share > 0, -jnp.inf, x.upper))
    wins, high = (function(share) == 1) & (others <= at_low), function(x.upper)
    return Between(lower, lambda v: jnp.where(wins, lower(v), high))


def _largest_in_windows(function, x):
    at, high = jax.lax.stop_gradient(x.lower), function(x.upper)
    return Between(lambda v: jax.jvp(function, (at,), (v,))[1], lambda v: high)


def _register(rule: Rule, names: str) -> None:
    for name in names.split():
        register_enclosure(name, rule)


_register(affine, "add add_any sub concatenate stack pad select_n gather dynamic_update_slice scatter scatter-add")
_register(_linear, "neg div reduce_sum cumsum reduce_window_sum convert_element_type copy name device_put")
_register(_linear, "reshape transpose broadcast_in_dim squeeze slice rev split unstack tile dynamic_slice")
_register(_linear_in_each, "dot_general conv_general_dilated canonical_conv canonical_conv_transposed")
_register(_product, "mul")
_register(_convex, "max abs square exp exp2 expm1 cosh softplus")
_register(bent, "min leaky_relu")
_register(_bent_in_its_domain(interval.where_defined(interval.increasing)), "log log1p sqrt")
_register(_bent_in_its_domain(interval.where_defined(interval.decreasing)), "rsqrt")
_register(s_shaped, "tanh logistic erf asinh atan")
_register(_power, "integer_pow")
_register(_elu, "elu")
_register(_largest_of, "reduce_max")
_register(_largest_in_windows, "reduce_window_max")
