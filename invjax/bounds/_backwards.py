r"""The backward pass of linear bounds: weights of an output become weights of the input, operation by operation.

Every operation f is enclosed between two affine functions of its inputs, `lower(v) <= f(v) <= upper(v)`. A weighted sum
of outputs is bounded from below by the same sum of `lower` where the weight is positive and of `upper` where it is
negative. That bound is an affine function of the inputs of the operation, that is, a set of weights one step earlier.
An affine operation is its own enclosure: its transpose maps the weights, so the two terms of `x - x` cancel. At the
input, the minimum of an affine function over a box or a ball has a closed form.

Source: Zhang et al. 2018; Xu et al. 2020 for arbitrary computation graphs. Taking the best of a method's bound and
the bounds of the faster methods is our addition.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invjax._sharding import varying
from invjax.bounds import _slopes
from invjax.bounds._enclosures import Between, Exact, Lines, enclosure_of
from invjax.bounds._graph import Graph
from invjax.bounds._interval import step
from invjax.bounds._operations import Operation, Variable
from invjax.bounds._regions import Ball, Interval, Region, box_of

_BATCH_SIZE = 512
"""The number of backward passes that are held in memory together."""
_COUPLED = ("sum of squares", "normalization", "jax.nn.softmax")
"""Functions whose inputs CROWN-IBP refines, beside those of products of two uncertain matrices."""


class Split(NamedTuple):
    """The lines of an operation, and what is known of the signs of its operand.

    Attributes:
        lines: two lines that enclose the operation where the signs are known to hold.
        multiplier: a factor for each value of the operand, of the known sign of that value or 0. The product of both is
            not negative, so a bound minus this product is a bound where the signs hold.
    """

    lines: Lines
    multiplier: jax.Array


class Enclosed(NamedTuple):
    """What is known of each operation of a graph over a region, for one example.

    Attributes:
        bounds: the interval of each variable.
        coarse: for each operation, its own function if it is affine, and else the list of the intervals of its outputs.
        fine: for each operation its enclosure, or the list of the intervals of its outputs if there is none.
        overflows: whether an affine operation may give values that are not finite.
    """

    bounds: dict[Variable, Interval]
    coarse: list[Any]
    fine: list[Any]
    overflows: jax.Array


def enclosed(graph: Graph, region: Region, *, by_crown: bool, coupled: bool = True) -> Enclosed:
    """Enclose every operation; the intervals of their inputs are those of a backward pass, or those of `ibp`.

    Args:
        graph: the operations.
        region: the region of one example.
        by_crown: whether every input gets a backward pass.
        coupled: whether the inputs of normalizations and of attention get one.
    """
    bounds: dict[Variable, Interval] = {graph.source: box_of(region)}
    coarse: list[Any] = []
    fine: list[Any] = []
    refined: set[Variable] = set()
    overflows = jnp.zeros((), bool)
    for i, operation in enumerate(graph.operations):
        found = step(operation, bounds)
        intervals = [found[out] for out in operation.outputs]
        enclosure = enclosure_of(operation, bounds, intervals)
        if not isinstance(enclosure, Exact) and (by_crown or (coupled and _is_coupled(operation))):
            before = graph._replace(operations=graph.operations[:i])
            for variable in set(operation.dependent) - refined:
                if variable is not graph.source and jnp.issubdtype(variable.dtype, jnp.floating):
                    bounds[variable] = _refined(before, fine, region, variable, bounds[variable])
                refined.add(variable)
            found = step(operation, bounds)
            intervals = [found[out] for out in operation.outputs]
            enclosure = enclosure_of(operation, bounds, intervals)
        bounds |= found
        if isinstance(enclosure, Exact):
            overflows |= reduce(jnp.logical_or, map(_may_overflow, intervals))
        coarse.append(enclosure if isinstance(enclosure, Exact) else intervals)
        fine.append(coarse[-1] if enclosure is None else enclosure)
    return Enclosed(bounds, coarse, fine, overflows)


def least(graph: Graph, region: Region, method: str, steps: int = 0) -> Callable[[jax.Array], jax.Array]:
    """A function `rows [R, ...] -> [R]` that bounds each weighted sum of one example's output from below.

    The bound is the best of those of the method and of the faster methods. A bound that is NaN is replaced by minus
    infinity. Weights that pass a value without finite bounds prove nothing, because the model may overflow there.
    `steps` is the number of steps of "alpha-crown".
    """
    (output,) = graph.outputs
    if not isinstance(output, Variable):
        return jax.vmap(lambda row: (row * output).sum())
    by_crown = method in ("crown", "alpha-crown")
    known = enclosed(graph, region, by_crown=by_crown, coupled=method != "ibp")

    def backwards(enclosures: list[Any]) -> Callable[[jax.Array], jax.Array]:
        run = jax.vmap(partial(weighted, graph, enclosures, region, output))
        return lambda rows: no_nan(jnp.where(known.overflows, -jnp.inf, run(rows)))

    ways = [jax.vmap(lambda row: no_nan(_least_in_box(row, known.bounds[output]))), backwards(known.coarse)]
    if method != "ibp":
        ways.append(backwards(known.fine))
    if method == "alpha-crown":
        ways.append(_with_best_slopes(graph, known, region, output, steps))
    if by_crown:  # narrower intervals choose other slopes, which may give worse bounds
        ways.append(least(graph, region, "crown-ibp"))
    return lambda rows: reduce(jnp.maximum, (way(rows) for way in ways))


def _is_coupled(operation: Operation) -> bool:
    """Whether an operation is a normalization or a part of attention, with few values, so that CROWN-IBP refines them.

    Such a function couples many values, so its interval over a box that is too wide contains no information.
    """
    coupled = operation.name in _COUPLED or (operation.name == "dot_general" and len(operation.dependent) == 2)
    return coupled and all(math.prod(operand.shape) <= _BATCH_SIZE for operand in operation.dependent)


def _with_best_slopes(
    graph: Graph, known: Enclosed, region: Region, output: Variable, steps: int
) -> Callable[[jax.Array], jax.Array]:
    """The bounds of `least` with optimized slopes; each row has its own slopes."""
    free = {}
    for i, (operation, enclosure) in enumerate(zip(graph.operations, known.fine, strict=True)):
        found = _slopes.free(operation, enclosure, known.bounds)
        if found is not None:
            free[i] = found

    def of_row(row, weights):
        lines = [_slopes.lines_of(free[i], weights[i]) if i in free else line for i, line in enumerate(known.fine)]
        return no_nan(weighted(graph, lines, region, output, row))

    def run(rows):
        weights = {i: _slopes.crown_weight(found) for i, found in free.items()}
        start = jax.tree.map(lambda weight: jnp.broadcast_to(weight, (len(rows), *weight.shape)), weights)
        bound = partial(jax.vmap(of_row), rows)
        best = _slopes.maximized(bound, start, _slopes.clipped, steps)
        return jnp.where(known.overflows, -jnp.inf, bound(best))

    return run


def _may_overflow(interval: Interval) -> jax.Array:
    """Whether an end is infinite or NaN at a value that varies; a constant may be infinite."""
    lower, upper = interval
    return (~(jnp.isfinite(lower) & jnp.isfinite(upper)) & (lower != upper)).any()


def no_nan(bound: jax.Array) -> jax.Array:
    """A lower bound, and minus infinity for NaN."""
    return jnp.where(jnp.isnan(bound), -jnp.inf, bound)


def _refined(graph: Graph, enclosures: list[Any], region: Region, variable: Variable, known: Interval) -> Interval:
    """The interval of a variable after a backward pass from it."""
    run = jax.vmap(partial(weighted, graph, enclosures, region, variable))
    lower, upper = both_ends(lambda rows: no_nan(run(rows)), variable)
    return Interval(jnp.maximum(known.lower, lower), jnp.minimum(known.upper, upper))


def both_ends(least: Callable, variable: Variable) -> tuple[jax.Array, jax.Array]:
    """The bounds of each value of a variable: the rows of the identity give lower bounds, its negative upper ones."""
    shape, size = variable.shape, math.prod(variable.shape)

    def of(indices):
        rows = jax.nn.one_hot(indices, size, dtype=variable.dtype).reshape(-1, *shape)
        return least(rows), -least(-rows)

    if size <= _BATCH_SIZE:
        lower, upper = of(jnp.arange(size))
    else:
        alone = lambda i: jax.tree.map(lambda end: end[0], of(i[None]))  # noqa: E731
        lower, upper = lax.map(alone, jnp.arange(size), batch_size=_BATCH_SIZE)
    return lower.reshape(shape), upper.reshape(shape)


def weighted(graph: Graph, enclosures: list[Any], region: Region, target: Variable, row: jax.Array) -> jax.Array:
    """A lower bound over the region of the sum of `row * target`, for one example and one row.

    `enclosures` holds the enclosure of each operation, or the list of the intervals of its outputs.
    """
    row = varying(box_of(region).lower, row)
    weight, constant = at_input(graph, enclosures, target, row)
    return constant + least_in_region(weight, region)


def at_input(graph: Graph, enclosures: list[Any], target: Variable, row: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The weights of the input and the constant of an affine function that is nowhere above `sum(row * target)`."""
    zeros = lambda shape, dtype: varying(row, jnp.zeros(shape, dtype))  # noqa: E731
    weights, constant = {target: row}, jnp.zeros((), row.dtype)
    for operation, enclosure in zip(reversed(graph.operations), reversed(enclosures), strict=True):
        if weights.keys().isdisjoint(operation.outputs):
            continue
        rows = [weights.pop(out, zeros(out.shape, out.dtype)) for out in operation.outputs]
        pulled, offset = _through(operation, enclosure, rows)
        constant += offset
        for variable, weight in zip(operation.dependent, pulled, strict=bool(pulled)):
            weights[variable] = weights[variable] + weight if variable in weights else weight
    return weights.get(graph.source, zeros(graph.source.shape, row.dtype)), constant


def _through(operation: Operation, enclosure: Any, rows: list[jax.Array]) -> tuple[Any, Any]:
    """The weights of the operands of an operation, and the constant that its enclosure adds."""
    if isinstance(enclosure, list):  # the intervals of the outputs
        return (), sum(map(_least_in_box, rows, enclosure))
    if isinstance(enclosure, Lines):
        (row,), (lower, upper) = rows, enclosure
        chosen = [jnp.where(row > 0, low, high) for low, high in zip(lower, upper, strict=True)]
        slope, offset = (jnp.where(row == 0, 0, row * part) for part in chosen)  # avoids 0 * infinity
        return (slope,), offset.sum()
    if isinstance(enclosure, Split):
        (row,), lines = rows, zip(*enclosure.lines, strict=True)
        slope, offset = (row * jnp.where(row > 0, low, high) for low, high in lines)
        return (slope - enclosure.multiplier,), offset.sum()
    if isinstance(enclosure, Between):
        signs = [jnp.maximum(row, 0) for row in rows], [jnp.minimum(row, 0) for row in rows]
        (below, first), (above, second) = (
            _transpose(operation, function, part) for function, part in zip(enclosure, signs, strict=True)
        )
        return [a + b for a, b in zip(below, above, strict=True)], first + second
    pulled, offset = _transpose(operation, enclosure.function, rows)
    return pulled, offset if enclosure.has_offset else 0


def _transpose(operation: Operation, function: Callable, rows: list[jax.Array]) -> tuple[Any, Any]:
    """The weights that an affine function gives its operands, and the constant that it adds."""
    origin = [varying(rows[0], jnp.zeros(v.shape, v.dtype)) for v in operation.dependent]
    offset, pull = jax.vjp(function, *origin)
    values = jax.tree.leaves(offset)
    # an entry of weight 0 may be infinite
    products = (jnp.where(r == 0, 0, r * v).sum() for r, v in zip(rows, values, strict=True))
    return pull(rows if operation.several else rows[0]), sum(products)


def least_in_region(row: jax.Array, region: Region) -> jax.Array:
    """The minimum of the weighted sum over a box; over a ball and its box, the better of both lower bounds."""
    if not isinstance(region, Ball):
        return _least_in_box(row, region)
    square = (row**2).sum()
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    of_ball = (row * region.center).sum() - region.radius * length
    return jnp.maximum(of_ball, _least_in_box(row, region.box))


def _least_in_box(row: jax.Array, box: Interval) -> jax.Array:
    # an entry of weight 0 may be unbounded
    return jnp.where(row == 0, 0, row * jnp.where(row > 0, box.lower, box.upper)).sum()
