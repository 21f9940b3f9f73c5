"""The interval rule of each primitive of JAX, and the rules that serve a single primitive.

Importing this module registers the rules.
"""

import jax.numpy as jnp

from invjax.bounds._interval import Rule, register_rule
from invjax.bounds._interval_rules import (
    decreasing,
    fixed_power,
    hull,
    increasing,
    linear,
    lower_of,
    periodic,
    power,
    turning,
    upper_of,
    where_defined,
)
from invjax.bounds._regions import Interval

# products and differences


def _product(function, x, y):
    return hull(*(function(a, b) for a in _ends(x) for b in _ends(y)))


def _difference(function, x, y):
    return Interval(function(lower_of(x), upper_of(y)), function(upper_of(x), lower_of(y)))


def _ends(operand):
    return tuple(operand) if isinstance(operand, Interval) else (operand,)


# comparisons: the lower end says whether the statement surely holds, the upper end whether it may hold


def _greater(function, x, y):
    possible = function(upper_of(x), lower_of(y)) | _unknown(x) | _unknown(y)
    return Interval(function(lower_of(x), upper_of(y)), possible)


def _less(function, x, y):
    possible = function(lower_of(x), upper_of(y)) | _unknown(x) | _unknown(y)
    return Interval(function(upper_of(x), lower_of(y)), possible)


def _unknown(operand):
    """Where an interval contains no information because an end is NaN."""
    if not isinstance(operand, Interval) or not jnp.issubdtype(operand.lower.dtype, jnp.inexact):
        return False
    return jnp.isnan(operand.lower) | jnp.isnan(operand.upper)


def _unequal(function, x, y):
    sure = (upper_of(x) < lower_of(y)) | (upper_of(y) < lower_of(x))
    return Interval(sure, (lower_of(x) != upper_of(y)) | (upper_of(x) != lower_of(y)))


def _equal(function, x, y):
    differs = _unequal(function, x, y)
    return Interval(~differs.upper, ~differs.lower)


def _finite(function, x):
    sure = function(x.lower) & function(x.upper)
    return Interval(sure, jnp.ones_like(sure))


# choices and positions


def _select(function, which, *cases):
    if not isinstance(which, Interval):
        return increasing(function, which, *cases)
    if len(cases) != 2 or which.lower.dtype != jnp.bool_:
        raise NotImplementedError(
            f"bounds exist only for a choice between two cases by a boolean; got {len(cases)} cases and "
            f"{which.lower.dtype}; nest jnp.where, or make the choice independent of the input"
        )
    first, second = (increasing(function, end, *cases) for end in which)
    return Interval(jnp.minimum(first.lower, second.lower), jnp.maximum(first.upper, second.upper))


def _indexed(function, array, *indices):
    """The rule of operations that move values to positions which must not depend on the input."""
    if any(isinstance(i, Interval) and not jnp.issubdtype(i.lower.dtype, jnp.floating) for i in indices):
        raise NotImplementedError(
            "there are no bounds for array positions that depend on the input; compute the positions without the input"
        )
    return increasing(function, array, *indices)


def _converted(function, x):
    found = increasing(function, x)
    if not jnp.issubdtype(found.lower.dtype, jnp.floating):
        raise NotImplementedError(
            f"bounds exist for floating point values only; the model converts a value to {found.lower.dtype}; "
            "keep it in floating point"
        )
    return found


def _ordered(function, *operands):
    """The rule of sorting one array: the k-th smallest value grows with every value."""
    if len(operands) != 1:
        raise NotImplementedError(
            "there are no bounds for sorting one array by another, as argsort does; sort the values themselves"
        )
    return increasing(function, *operands)


def _largest(function, x):
    """The rule of `top_k`: the values grow with every value, and nothing is known of their positions."""
    (low, positions), (high, _) = (function(end) for end in x)
    last = jnp.full_like(positions, x.lower.shape[-1] - 1)
    return Interval([low, jnp.zeros_like(positions)], [high, last])


def _position(function, x):
    first = function(x.lower)
    return Interval(jnp.zeros_like(first), jnp.full_like(first, max(x.lower.shape) - 1))


def _cumulative_product(function, x):
    """The rule of cumulative products: monotone for values that are not negative, and otherwise only a magnitude."""
    size = function(jnp.maximum(jnp.abs(x.lower), jnp.abs(x.upper)))
    monotone = (x.lower >= 0).all()
    return Interval(jnp.where(monotone, function(x.lower), -size), size)


def _remainder(function, x, y):
    """The rule of `x % y` with a fixed y: the quotient is the same at both ends, or nothing but its size is known."""
    if isinstance(y, Interval) or not isinstance(x, Interval):
        raise NotImplementedError("there are bounds for a remainder only if the divisor does not depend on the input")
    low, high, size = function(x.lower, y), function(x.upper, y), jnp.abs(y)
    same = (jnp.trunc(x.lower / y) == jnp.trunc(x.upper / y)) & (low <= high)
    least, largest = jnp.where(x.lower < 0, -size, 0), jnp.where(x.upper > 0, size, 0)
    return Interval(jnp.where(same, low, least), jnp.where(same, high, largest))


def _register(rule: Rule, names: str) -> None:
    for name in names.split():
        register_rule(name, rule)


_register(increasing, "add add_any max min clamp reduce_sum reduce_max reduce_min cumsum cummax cummin")
_register(increasing, "reshape transpose broadcast_in_dim squeeze slice rev split concatenate stack unstack tile pad")
_register(increasing, "reduce_window_sum reduce_window_max reduce_window_min cumlogsumexp and or")
_register(increasing, "copy name device_put sharding_constraint reshard pvary optimization_barrier reduce_precision")
_register(increasing, "exp exp2 expm1 cbrt tanh logistic softplus erf sinh asinh atan floor ceil round sign")
_register(decreasing, "neg erfc not")
_register(where_defined(increasing), "log log1p log2 sqrt asin acosh atanh erf_inv")
_register(where_defined(decreasing), "rsqrt acos")
_register(linear, "dot_general conv_general_dilated canonical_conv canonical_conv_transposed")
_register(turning(0.0), "abs square cosh elu leaky_relu")
_register(turning(-1.2784645427610738), "silu")
_register(_product, "mul div")
_register(power, "integer_pow")
_register(_difference, "sub")
_register(_greater, "gt ge")
_register(_less, "lt le")
_register(_unequal, "ne")
_register(_equal, "eq")
_register(_ordered, "sort")
_register(_largest, "top_k")
_register(_position, "argmax argmin")
_register(_cumulative_product, "cumprod")
_register(_remainder, "rem")
_register(fixed_power, "pow")
_register(periodic, "sin cos")
_register(_finite, "is_finite")
_register(_select, "select_n")
_register(_indexed, "gather dynamic_slice dynamic_update_slice scatter scatter-add")
_register(_converted, "convert_element_type")
