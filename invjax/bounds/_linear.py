r"""Linear bounds, carried backwards: CROWN and CROWN-IBP, for any function whose operations `interval` knows.

Every operation f is enclosed between two affine functions of its inputs that hold wherever those can lie,

    lower(v) <= f(v) <= upper(v).

A weighted sum of outputs is then bounded from below by the same sum of `lower` where the weight is positive and of
`upper` where it is negative: an affine function of the operation's inputs, that is, other weights one step earlier. An
affine operation is its own enclosure, so weights pass it by its transpose, and what cancels (`x - x`) cancels. At the
input, the least value of an affine function over a box or a ball is known in closed form.

The enclosures need an interval for every input of a nonlinear operation. CROWN bounds each by a backward pass of its
own; CROWN-IBP takes those of `ibp`, for the price of about two forward passes. With intervals for enclosures, the
backward pass gives the bounds of `ibp`, the last affine layers and what is asked of them merged into one.

Weights belong to one example, so the functions here take models whose outputs for an image depend on that image alone:
they bound `fn(x[None])[0]` (no batch norm in training mode).

Sources: Zhang et al. 2018, *Efficient Neural Network Robustness Certification with General Activation Functions*;
Zhang et al. 2020, *Towards Stable and Efficient Training of Verifiably Robust Neural Networks*; for the use of any
computation graph, Xu et al. 2020. Taking the better of a method's bound and the cheaper methods' is ours.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from invjax import _check
from invjax.bounds._base import Ball, Interval, Margins, Region, check_region
from invjax.bounds._enclosures import Between, Exact, Lines, enclosure_of
from invjax.bounds._graph import Graph, Operation, Variable, trace
from invjax.bounds._interval import step
from invjax.types import Labels, LogitsFn

METHODS = ("ibp", "crown-ibp", "crown")
"""From the cheapest and loosest to the dearest and tightest."""

_AT_ONCE = 512
"""Backward passes that share the memory of one batch."""


def margins(logits_fn: LogitsFn, region: Region, labels: Labels, *, method: str = "crown-ibp") -> Margins:
    """Lower bounds of `h_label(x) - h_k(x)` over the region, for every other class k.

    The difference of the two logits is bounded itself, merged into the last affine layers, which is tighter than the
    difference of their bounds. No method gives a smaller margin than one before it in `METHODS`.

    >>> linear_model = lambda x: x @ jnp.array([[2.0, 0.0], [0.0, 1.0]])
    >>> margins(linear_model, Interval(jnp.array([[0.4, 0.0]]), jnp.array([[0.6, 0.5]])), jnp.array([0])).tolist()
    [[0.30000001192092896]]

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`, each image for itself.
        region: from `linf_box` or `l2_ball`.
        labels: `[B]`.
        method: "ibp", two forward passes; "crown-ibp", and a backward pass for each other class; "crown", and one for
            each end of each input of a nonlinear operation, for small networks.

    Returns:
        `[B, K - 1]`, in the order of the classes, the label's own left out; see `certified`.

    Raises:
        ValueError: another method; a region that `check_region` refuses; labels of another shape or out of range; a
            model whose output is not `[B, K]`, or which draws random numbers.
        NotImplementedError: a primitive without a rule, named; see `register_rule`.
    """
    _check.one_of("method", method, METHODS)
    region, graph = _prepare(logits_fn, region)
    classes = _check.logits_of(logits_fn, _box(region).lower, labels)
    _check.labels(labels, classes)

    def of_example(region, label):
        others = jnp.arange(classes - 1)
        others = others + (others >= label)
        own, other = (jax.nn.one_hot(k, classes, dtype=_box(region).lower.dtype) for k in (label, others))
        return _least(graph, region, method)(own[None] - other)

    return jax.vmap(of_example)(region, jnp.asarray(labels))


def crown(fn: Callable[[jax.Array], jax.Array], region: Region, *, intermediate: str = "crown") -> Interval:
    """Bounds of every output of `fn` over the region; inside those of `ibp`.

    >>> found = crown(lambda x: jax.nn.relu(x) - x, Interval(jnp.full((1, 1), -1.0), jnp.full((1, 1), 3.0)))
    >>> found.lower.tolist(), found.upper.tolist()  # `ibp` says -3 and 4
    ([[0.0]], [[1.0]])

    Args:
        fn: `x [B, ...] -> [B, ...]`, each example for itself.
        region: from `linf_box` or `l2_ball`.
        intermediate: bounds for the inputs of nonlinear operations: "crown", a backward pass for each, or "ibp", for
            CROWN-IBP.

    Returns:
        An `Interval` of the shape of `fn(x)`.

    Raises:
        ValueError: as `margins`.
        NotImplementedError: a primitive without a rule, named; see `register_rule`.
    """
    _check.one_of("intermediate", intermediate, ("crown", "ibp"))
    check_region(region)
    found = jax.eval_shape(fn, jax.ShapeDtypeStruct(_box(region).lower.shape, _box(region).lower.dtype))
    if not isinstance(found, jax.ShapeDtypeStruct) or found.shape[:1] != _box(region).lower.shape[:1]:
        raise ValueError(
            f"crown needs a function that returns one array, the batch first; got {found}; use ibp for trees"
        )
    region, graph = _prepare(fn, region)
    (output,) = graph.outputs

    def of_example(region):
        return Interval(*_both_ends(_least(graph, region, "crown" if intermediate == "crown" else "crown-ibp"), output))

    return jax.vmap(of_example)(region)


def _prepare(fn: Callable, region: Region) -> tuple[Region, Graph]:
    check_region(region)
    region = jax.tree.map(jnp.asarray, region)
    lower = _box(region).lower
    graph, _ = trace(lambda x: fn(x[None])[0], jax.ShapeDtypeStruct(lower.shape[1:], lower.dtype))
    return region, graph


def _box(region: Region) -> Interval:
    return region.box if isinstance(region, Ball) else region


def _least(graph: Graph, region: Region, method: str) -> Callable[[jax.Array], jax.Array]:
    """For one example: `rows [R, ...] -> [R]`, the least value of each weighted sum of the output."""
    (output,) = graph.outputs
    if not isinstance(output, Variable):
        return jax.vmap(lambda row: (row * output).sum())
    bounds: dict[Variable, Interval] = {graph.source: _box(region)}
    coarse: list[Any] = []
    fine: list[Any] = []
    refined: set[Variable] = set()
    for i, operation in enumerate(graph.operations):
        enclosure = enclosure_of(operation, bounds)
        if method == "crown" and not isinstance(enclosure, Exact):
            before = graph._replace(operations=graph.operations[:i])
            for variable in set(operation.dependent) - refined:
                if variable is not graph.source and jnp.issubdtype(variable.dtype, jnp.floating):
                    least = partial(_backwards, before, fine, region, variable)
                    lower, upper = _both_ends(jax.vmap(least), variable)
                    known = bounds[variable]
                    bounds[variable] = Interval(jnp.maximum(known.lower, lower), jnp.minimum(known.upper, upper))
                refined.add(variable)
            enclosure = enclosure_of(operation, bounds)
        found = step(operation, bounds)
        bounds |= found
        intervals = [found[out] for out in operation.outputs]
        coarse.append(enclosure if isinstance(enclosure, Exact) else intervals)
        fine.append(coarse[-1] if enclosure is None else enclosure)
    plain: Callable[[jax.Array], jax.Array] = jax.vmap(partial(_backwards, graph, coarse, region, output))
    if method == "ibp":
        return plain
    ways: list[Callable[[jax.Array], jax.Array]] = [plain, jax.vmap(partial(_backwards, graph, fine, region, output))]
    if method == "crown":  # narrower intervals choose other slopes, and those may be the worse ones
        ways.append(_least(graph, region, "crown-ibp"))
    return lambda rows: reduce(jnp.maximum, (way(rows) for way in ways))


def _both_ends(least: Callable, variable: Variable) -> tuple[jax.Array, jax.Array]:
    """The bounds of each value of a variable, by rows of the identity and of its negative."""
    shape, size = variable.shape, math.prod(variable.shape)

    def of(indices):
        rows = jax.nn.one_hot(indices, size, dtype=variable.dtype).reshape(-1, *shape)
        return least(rows), -least(-rows)

    if size <= _AT_ONCE:
        lower, upper = of(jnp.arange(size))
    else:
        alone = lambda i: jax.tree.map(lambda end: end[0], of(i[None]))  # noqa: E731
        lower, upper = lax.map(alone, jnp.arange(size), batch_size=_AT_ONCE)
    return lower.reshape(shape), upper.reshape(shape)


def _backwards(graph: Graph, enclosures: list[Any], region: Region, target: Variable, row: jax.Array) -> jax.Array:
    """The least value over the region of the sum of `row * target`, for one example and one row.

    Enclosures are those of the graph's operations, or lists of the intervals of the outputs.
    """
    weights, constant = {target: row}, jnp.zeros((), row.dtype)
    for operation, enclosure in zip(reversed(graph.operations), reversed(enclosures), strict=True):
        if weights.keys().isdisjoint(operation.outputs):
            continue
        rows = [weights.pop(out, jnp.zeros(out.shape, out.dtype)) for out in operation.outputs]
        pulled, offset = _through(operation, enclosure, rows)
        constant += offset
        for variable, weight in zip(operation.dependent, pulled, strict=bool(pulled)):
            weights[variable] = weights[variable] + weight if variable in weights else weight
    return constant + _least_in_region(weights.get(graph.source, jnp.zeros(graph.source.shape, row.dtype)), region)


def _through(operation: Operation, enclosure: Any, rows: list[jax.Array]) -> tuple[Any, Any]:
    """The weights of the operation's operands, and what its offset adds."""
    if isinstance(enclosure, list):  # the intervals of the outputs
        return (), sum(map(_least_in_box, rows, enclosure))
    if isinstance(enclosure, Lines):
        (row,), (lower, upper) = rows, enclosure
        chosen = [jnp.where(row > 0, low, high) for low, high in zip(lower, upper, strict=True)]
        slope, offset = (jnp.where(row == 0, 0, row * part) for part in chosen)  # an infinite line of no weight is none
        return (slope,), offset.sum()
    if isinstance(enclosure, Between):
        signs = [jnp.maximum(row, 0) for row in rows], [jnp.minimum(row, 0) for row in rows]
        (below, first), (above, second) = (
            _transpose(operation, function, part) for function, part in zip(enclosure, signs, strict=True)
        )
        return [a + b for a, b in zip(below, above, strict=True)], first + second
    pulled, offset = _transpose(operation, enclosure.function, rows)
    return pulled, offset if enclosure.has_offset else 0


def _transpose(operation: Operation, function: Callable, rows: list[jax.Array]) -> tuple[Any, Any]:
    """The weights that an affine function gives its operands, and what its offset adds."""
    offset, pull = jax.vjp(function, *(jnp.zeros(v.shape, v.dtype) for v in operation.dependent))
    values = jax.tree.leaves(offset)
    return pull(rows if operation.several else rows[0]), sum((r * v).sum() for r, v in zip(rows, values, strict=True))


def _least_in_region(row: jax.Array, region: Region) -> jax.Array:
    """Where the points of a ball also lie in a box, the better of both bounds."""
    if not isinstance(region, Ball):
        return _least_in_box(row, region)
    square = (row**2).sum()
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    of_ball = (row * region.center).sum() - region.radius * length
    return jnp.maximum(of_ball, _least_in_box(row, region.box))


def _least_in_box(row: jax.Array, box: Interval) -> jax.Array:
    # what has no weight may be unbounded
    return jnp.where(row == 0, 0, row * jnp.where(row > 0, box.lower, box.upper)).sum()
