r"""Interval bound propagation (IBP): propagate a box through a function, operation by operation.

Each value is replaced by an interval that contains it. An affine map with matrix W acts on the center and the radius,

    center -> W center + b,        radius -> |W| radius,

and an increasing function acts on both ends. Every rule is as tight as possible for one operation alone. Intervals do
not record how values depend on each other (`x - x` becomes `[-2r, 2r]`), so bounds of deep networks are loose unless
the network was trained with them.

`ibp` bounds the function in exact arithmetic, but rounds to nearest and not outward. An end can therefore be wrong by
as much as rounding changes the function itself (see `certified` for numbers).

Source: Gowal et al. 2018, *On the Effectiveness of Interval Bound Propagation*.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from invjax import _check
from invjax._sharding import mesh_of, typed
from invjax.bounds._graph import Graph, trace
from invjax.bounds._operations import Operation, Variable
from invjax.bounds._regions import Interval, Region, check_region

Rule = Callable[..., Any]
"""`(function, *operands) -> Interval`. The function is the primitive with its parameters: it takes arrays and returns
an array. An operand is an `Interval` if it depends on the input and an array otherwise. If the primitive returns a
list, the ends of the interval are lists, too."""

_RULES: dict[str, Rule] = {}
_WHOLE: dict[str, Rule] = {}


def register_rule(primitive: core.Primitive | str, rule: Rule) -> None:
    """Give `ibp`, and therefore `crown`, the interval bounds of a primitive.

    `increasing`, `decreasing` and `linear` are rules that suit most primitives:

    >>> from invjax import bounds
    >>> bounds.register_rule(jax.lax.asinh_p, bounds.increasing)

    Args:
        primitive: the primitive, or its name as the error message states it.
        rule: `(function, *operands) -> Interval`, where `function` takes arrays and each operand is an `Interval` if
            it depends on the input. The new rule replaces an earlier one.
    """
    _RULES[primitive if isinstance(primitive, str) else primitive.name] = rule


def register_whole(name: str, rule: Rule) -> None:
    """Give `ibp` the interval of a function of `_patterns`, as `rule(x, *, axes, keepdims)`."""
    _WHOLE[name] = rule


def ibp(fn: Callable[[jax.Array], Any], interval: Region) -> Any:
    """Bounds of `fn(x)` for all `x` in a box, by interval arithmetic.

    The function may be any JAX function made of dense layers and convolutions, sums and products, pooling, the usual
    activations, normalization and residual connections. It may be jitted, checkpointed or scanned; scans are unrolled.
    Values that do not depend on x are computed exactly. Custom derivative rules are ignored, so the gradient of the
    bounds is that of the computed values.

    >>> found = ibp(lambda x: jax.nn.relu(x @ jnp.array([[1.0], [-1.0]])), Interval(jnp.zeros(2), jnp.ones(2)))
    >>> found.lower.tolist(), found.upper.tolist()
    ([0.0], [1.0])

    Args:
        fn: a function of one array `[...]` that returns a pytree of arrays.
        interval: the box, for example from `linf_box`.

    Returns:
        The result of `fn`, with an `Interval` in the place of each array.

    Raises:
        ValueError: the ends of the box are integers, NaN, infinite, out of order or of different shapes; the function
            draws random numbers.
        NotImplementedError: a primitive has no rule; the message names it.
    """
    _check.function("fn", fn, "x -> outputs")
    if not isinstance(interval, Interval):
        raise ValueError(f"ibp needs an Interval; got {type(interval).__name__}; use linf_box, or crown for an l2_ball")
    check_region(interval)
    with mesh_of(interval.lower):
        graph, tree = trace(fn, typed(jnp.asarray(interval.lower)))
        interval = Interval(*(jnp.asarray(end, graph.source.dtype) for end in interval))
        bounds = propagate(graph, interval)
    outputs = [bounds[o] if isinstance(o, Variable) else Interval(o, o) for o in graph.outputs]
    return jax.tree.unflatten(tree, outputs)


def propagate(graph: Graph, source: Interval) -> dict[Variable, Interval]:
    """The interval of every variable of a graph whose input lies in `source`."""
    bounds = {graph.source: source}
    for operation in graph.operations:
        bounds |= step(operation, bounds)
    return bounds


def step(operation: Operation, bounds: dict[Variable, Interval]) -> dict[Variable, Interval]:
    """The intervals of the outputs of an operation, given the intervals of its operands."""
    operands = [bounds[o] if isinstance(o, Variable) else o for o in operation.operands]
    if operation.name in _WHOLE:
        lower, upper = _WHOLE[operation.name](*operands, **operation.params)
    else:
        lower, upper = _rule(operation)(operation.function, *operands)
    if not operation.several:
        lower, upper = [lower], [upper]
    return {
        out: _within_dtype(out, Interval(*ends)) for out, *ends in zip(operation.outputs, lower, upper, strict=True)
    }


def _within_dtype(variable: Variable, interval: Interval) -> Interval:
    """The interval, unbounded where the model's own dtype may overflow."""
    if variable.largest == float("inf"):
        return interval
    lower, upper = interval
    return Interval(
        jnp.where(lower < -variable.largest, -jnp.inf, lower), jnp.where(upper > variable.largest, jnp.inf, upper)
    )


def _rule(operation: Operation) -> Rule:
    name, line = operation.name, f" ({operation.line})" if operation.line else ""
    if name not in _RULES:
        raise NotImplementedError(
            f"there are no interval bounds for the primitive {name!r}{line}; register a rule with "
            f"bounds.register_rule({name!r}, rule), where rule(function, *operands) returns an Interval "
            "(bounds.increasing is the rule of functions that increase in every operand)"
        )
    return _RULES[name]
