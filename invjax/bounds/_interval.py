r"""Interval bound propagation: push a box through a function, operation by operation.

Each value is replaced by an interval that surely holds it. For an affine map with matrix W that is

    center -> W center + b,        radius -> |W| radius,

and for a function that only increases, its values at both ends. Every rule is as tight as it can be for one operation
alone, but intervals forget how values depend on each other (`x - x` becomes `[-2r, 2r]`), so bounds of deep networks
are loose unless the network was trained for them.

`ibp` bounds the function of real numbers. It rounds to nearest, not outward: its ends can be wrong by as much as
rounding changes the function itself (`certified` has numbers). Sources: Gowal et al. 2018, *On the Effectiveness of
Interval Bound Propagation*; Rump 1999 for products of two matrices that are both uncertain.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from invjax.bounds._base import Interval, Region, check_region
from invjax.bounds._graph import Graph, Variable, trace

Rule = Callable[..., Any]
"""`(function, *operands) -> Interval`: `function` is the primitive with its parameters, arrays in, an array out;
operands are intervals where they depend on the input, and otherwise arrays. Where the primitive gives a list, the ends
of the interval are lists too."""

_RULES: dict[str, Rule] = {}


def register_rule(primitive: core.Primitive | str, rule: Rule) -> None:
    """Teach `ibp`, and with it `crown`, a primitive.

    `increasing`, `decreasing` and `linear` are rules for most that one meets:

    >>> register_rule(jax.lax.asinh_p, increasing)

    Args:
        primitive: the primitive, or its name as the error message gives it.
        rule: see `Rule`. It replaces what was registered before.
    """
    _RULES[primitive if isinstance(primitive, str) else primitive.name] = rule


def ibp(fn: Callable[[jax.Array], Any], interval: Region) -> Any:
    """Bounds of `fn(x)` for all `x` in a box.

    Interval arithmetic over the operations of any JAX function: dense layers and convolutions, sums and products,
    pooling, the usual activations, normalisation, residual connections, what is jitted, checkpointed or scanned (scans
    are unrolled). What does not depend on x is computed as it is. Custom derivative rules are ignored: the bounds'
    gradient is that of what is computed.

    >>> found = ibp(lambda x: jax.nn.relu(x @ jnp.array([[1.0], [-1.0]])), Interval(jnp.zeros(2), jnp.ones(2)))
    >>> found.lower.tolist(), found.upper.tolist()
    ([0.0], [1.0])

    Args:
        fn: an array `[...]` in, a pytree of arrays out.
        interval: the box, as from `linf_box`.

    Returns:
        What `fn` returns, with an `Interval` in the place of each array.

    Raises:
        ValueError: bounds that are of integers, NaN, infinite, out of order or of different shapes; a function that
            draws random numbers.
        NotImplementedError: a primitive without a rule, named.
    """
    if not isinstance(interval, Interval):
        raise ValueError(f"ibp needs an Interval; got {type(interval).__name__}; use linf_box, or crown for an l2_ball")
    check_region(interval)
    interval = Interval(*map(jnp.asarray, interval))
    graph, tree = trace(fn, interval.lower)
    bounds = propagate(graph, interval)
    outputs = [bounds[o] if isinstance(o, Variable) else Interval(o, o) for o in graph.outputs]
    return jax.tree.unflatten(tree, outputs)


def propagate(graph: Graph, source: Interval) -> dict[Variable, Interval]:
    """The interval of every variable."""
    bounds = {graph.source: source}
    for operation in graph.operations:
        bounds |= step(operation, bounds)
    return bounds


def step(operation: Any, bounds: dict[Variable, Interval]) -> dict[Variable, Interval]:
    """The intervals of an operation's outputs."""
    operands = [bounds[o] if isinstance(o, Variable) else o for o in operation.operands]
    lower, upper = _rule(operation.name)(operation.function, *operands)
    if not operation.several:
        lower, upper = [lower], [upper]
    return {out: Interval(*ends) for out, *ends in zip(operation.outputs, lower, upper, strict=True)}


def _rule(name: str) -> Rule:
    if name not in _RULES:
        raise NotImplementedError(
            f"there are no interval bounds for the primitive {name!r}; give it a rule by "
            f"bounds.register_rule({name!r}, rule), where rule(function, *operands) returns an Interval "
            "(bounds.increasing is one for functions that increase in every operand)"
        )
    return _RULES[name]


def _lower(operand):
    return operand.lower if isinstance(operand, Interval) else operand


def _upper(operand):
    return operand.upper if isinstance(operand, Interval) else operand


def _hull(*values):
    """The smallest interval that holds all values, element by element."""
    low, high = values[0], values[0]
    for value in values[1:]:
        low, high = jnp.minimum(low, value), jnp.maximum(high, value)
    return Interval(low, high)


def increasing(function: Callable, *operands: Any) -> Interval:
    """Where no output falls when any operand rises."""
    return Interval(function(*map(_lower, operands)), function(*map(_upper, operands)))


def decreasing(function: Callable, *operands: Any) -> Interval:
    """Where no output rises when any operand rises."""
    return Interval(function(*map(_upper, operands)), function(*map(_lower, operands)))


def linear(function: Callable, *operands: Any) -> Interval:
    """Where outputs are linear in each of two operands: products of matrices, convolutions.

    With one operand fixed the interval is exact; with both uncertain, at most 1.5 times too wide.
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
    return (operand.lower + operand.upper) / 2, (operand.upper - operand.lower) / 2


def turning(at: float) -> Rule:
    """The rule of a function of one input that is monotone on either side of `at`; other operands are fixed."""

    def rule(function, x, *rest):
        if not isinstance(x, Interval):
            raise NotImplementedError(f"only the first operand of {function} may depend on the input")
        between = jnp.clip(jnp.asarray(at, x.lower.dtype), x.lower, x.upper)
        return _hull(*(function(point, *rest) for point in (x.lower, x.upper, between)))

    return rule


def _product(function, x, y):
    return _hull(*(function(a, b) for a in _ends(x) for b in _ends(y)))


def _ends(operand):
    return tuple(operand) if isinstance(operand, Interval) else (operand,)


def _difference(function, x, y):
    return Interval(function(_lower(x), _upper(y)), function(_upper(x), _lower(y)))


def power(function: Callable, x: Interval) -> Interval:
    """`x^n`, n an integer; unbounded where n is negative and x may be 0."""
    found = turning(0.0)(function, x)
    crosses = (x.lower <= 0) & (x.upper >= 0)
    pole = ~jnp.isfinite(function(jnp.zeros((), x.lower.dtype))) & crosses
    return Interval(jnp.where(pole, -jnp.inf, found.lower), jnp.where(pole, jnp.inf, found.upper))


def _greater(function, x, y):
    """Comparisons that become true as x rises: an interval of truth values, from what is sure to what is possible."""
    possible = function(_upper(x), _lower(y)) | _unknown(x) | _unknown(y)
    return Interval(function(_lower(x), _upper(y)), possible)


def _less(function, x, y):
    possible = function(_lower(x), _upper(y)) | _unknown(x) | _unknown(y)
    return Interval(function(_upper(x), _lower(y)), possible)


def _unknown(operand):
    """Where an interval says nothing: its ends are NaN."""
    if not isinstance(operand, Interval) or not jnp.issubdtype(operand.lower.dtype, jnp.inexact):
        return False
    return jnp.isnan(operand.lower) | jnp.isnan(operand.upper)


def where_defined(rule):
    """The rule of a function that is NaN outside of its domain: where the box reaches out of it, nothing is known."""

    def known(function, x):
        # -0.0 is the end of a box that ends at 0, and 1 / sqrt(-0.0) is minus infinity
        found = rule(function, Interval(*(jnp.where(end == 0, 0, end) for end in x)))
        nothing = jnp.isnan(found.lower) | jnp.isnan(found.upper)
        return Interval(*(jnp.where(nothing, jnp.nan, end) for end in found))

    return known


def _unequal(function, x, y):
    sure = (_upper(x) < _lower(y)) | (_upper(y) < _lower(x))
    return Interval(sure, (_lower(x) != _upper(y)) | (_upper(x) != _lower(y)))


def _finite(function, x):
    sure = function(x.lower) & function(x.upper)
    return Interval(sure, jnp.ones_like(sure))


def _select(function, which, *cases):
    if not isinstance(which, Interval):
        return increasing(function, which, *cases)
    if len(cases) != 2 or which.lower.dtype != jnp.bool_:
        raise NotImplementedError("a choice between more than two cases must not depend on the input")
    first, second = (increasing(function, end, *cases) for end in which)
    return Interval(jnp.minimum(first.lower, second.lower), jnp.maximum(first.upper, second.upper))


def _indexed(function, array, *indices):
    """Operations that move values; where to must not depend on the input."""
    if any(isinstance(i, Interval) and not jnp.issubdtype(i.lower.dtype, jnp.floating) for i in indices):
        raise NotImplementedError("positions in an array must not depend on the input")
    return increasing(function, array, *indices)


def _converted(function, x):
    found = increasing(function, x)
    if not jnp.issubdtype(found.lower.dtype, jnp.floating):
        raise NotImplementedError(f"bounds are of floating point values; the model converts one to {found.lower.dtype}")
    return found


def _register(rule: Rule, names: str) -> None:
    for name in names.split():
        register_rule(name, rule)


_register(increasing, "add add_any max min clamp reduce_sum reduce_max reduce_min cumsum cummax cummin")
_register(increasing, "reshape transpose broadcast_in_dim squeeze slice rev split concatenate stack unstack tile pad")
_register(increasing, "reduce_window_sum reduce_window_max reduce_window_min cumlogsumexp and or")
_register(increasing, "copy name device_put sharding_constraint optimization_barrier reduce_precision")
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
_register(_finite, "is_finite")
_register(_select, "select_n")
_register(_indexed, "gather dynamic_slice dynamic_update_slice scatter scatter-add")
_register(_converted, "convert_element_type")
