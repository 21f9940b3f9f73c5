r"""Bounds of a ReLU network where the signs of some ReLU inputs are known (beta-CROWN).

A subproblem holds a sign s_i for some units: it concerns the images of the region with `s_i z_i >= 0`, where z_i is the
input of the unit. There the unit is linear. The least margin of a subproblem is bounded by Lagrange multipliers,

    min_{s_i z_i >= 0} margin(x)  >=  min_x margin(x) - sum_i b_i s_i z_i(x),    b_i >= 0,

and the right side by a backward pass, for any multipliers b_i and any slopes of the other units. Both are optimized.
The intervals of the ReLU inputs are those of the whole region, except that the known signs cut them off at 0.

Source: Wang et al. 2021, *Beta-CROWN: Efficient Bound Propagation with Per-neuron Split Constraints*.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax.bounds import _slopes
from invjax.bounds._backwards import Split, at_input, enclosed, least_in_region, no_nan
from invjax.bounds._enclosures import Exact, Line, Lines
from invjax.bounds._graph import Graph
from invjax.bounds._operations import Operation, Variable
from invjax.bounds._regions import Ball, Interval, Region, box_of
from invjax.types import Array


class Subproblems(NamedTuple):
    """Subproblems of one image. N is the number of all ReLU units of the network.

    Attributes:
        target: `[S]`, the class whose logit is subtracted.
        signs: `[S, N]`, the known signs of the inputs of the units, 0 where unknown.
        slopes: `[S, N]`, the slope of the line below each unit.
        multipliers: `[S, N]`, the Lagrange multiplier of each known sign.
    """

    target: Any
    signs: Any
    slopes: Any
    multipliers: Any


class Bounded(NamedTuple):
    """What the backward passes give for each subproblem.

    Attributes:
        bound: `[S]`, a lower bound of the margin.
        subproblems: the subproblems with the best slopes and multipliers that were found.
        unit: `[S]`, the unit to split next; -1 if all signs are known.
        weight: `[S]`, the weight of that unit in the affine lower bound.
        x: `[S, ...]`, the point of the region where the affine lower bound is least.
    """

    bound: Any
    subproblems: Subproblems
    unit: Any
    weight: Any
    x: Any


def check_relus(graph: Graph, region: Region) -> None:
    """Refuse a function with nonlinear operations other than ReLU.

    Raises:
        ValueError: it has one, and the message names it; or its output is constant.
    """
    if not isinstance(graph.outputs[0], Variable):
        raise ValueError("verify needs a model whose logits depend on the image; got constant logits; see margins")
    for operation, enclosure in zip(graph.operations, enclosed(graph, region, by_crown=False).fine, strict=True):
        if not isinstance(enclosure, Exact) and not _is_relu(operation):
            line = f" ({operation.line})" if operation.line else ""
            raise ValueError(
                f"verify splits networks whose only nonlinear operation is ReLU, max(x, 0); the model also has "
                f"{operation.name!r}{line}; use margins with method='alpha-crown'"
            )


def _is_relu(operation: Operation) -> bool:
    if operation.name != "max" or len(operation.dependent) != 1:
        return False
    (constant,) = (operand for operand in operation.operands if not isinstance(operand, Variable))
    return not isinstance(constant, jax.core.Tracer) and not np.any(np.asarray(constant))


def intervals_of_relus(graph: Graph, region: Region) -> Interval:
    """The intervals of the inputs of all units by CROWN, `[N]`."""
    bounds = enclosed(graph, region, by_crown=True).bounds
    found = [bounds[operation.dependent[0]] for operation in graph.operations if _is_relu(operation)]
    empty = jnp.zeros(0, graph.source.dtype)
    lower, upper = ([interval[end].ravel() for interval in found] for end in (0, 1))
    return Interval(jnp.concatenate([empty, *lower]), jnp.concatenate([empty, *upper]))


def bounded(
    graph: Graph, region: Region, label: Array, intervals: Interval, subproblems: Subproblems, steps: int
) -> Bounded:
    """Bound the margins of subproblems of one image.

    Args:
        graph: the network as a function of one image.
        region: the region of this image.
        label: its class.
        intervals: the intervals of the inputs of all units, `[N]`.
        subproblems: the subproblems.
        steps: the number of steps of the optimization of slopes and multipliers.
    """
    known = enclosed(graph, region, by_crown=False)
    target, signs, *start = subproblems
    rows = _rows(graph, label, target)
    affine = partial(_affine, graph, known.fine, intervals)

    def bound(row, signs, variables):
        constant, weight = affine(row, signs, *variables, 0)
        return jnp.where(known.overflows, -jnp.inf, no_nan(constant + least_in_region(weight, region)))

    def details(row, signs, variables):
        shift = jnp.zeros(signs.shape, row.dtype)
        weights, weight = jax.grad(partial(affine, row, signs, *variables), has_aux=True)(shift)
        unit = _next_unit(intervals, signs, weights)
        return unit, weights[unit] if weights.size else weights.sum(), minimizer(weight, region)

    run = partial(jax.vmap(bound), rows, signs)
    best = _slopes.maximized(run, start, _allowed, steps)
    return Bounded(run(best), Subproblems(target, signs, *best), *jax.vmap(details)(rows, signs, best))


class Leaf(NamedTuple):
    """A subproblem whose signs are all known, as a linear program: `min constant + weight x`, `offset + matrix x <= 0`.

    Attributes:
        constant: the constant of the margin.
        weight: `[D]`, the weights of the margin.
        offset: `[N]`, the constants of the negative inputs of the units, times their signs.
        matrix: `[N, D]`, the weights of the same.
    """

    constant: Any
    weight: Any
    offset: Any
    matrix: Any


def leaf(graph: Graph, region: Region, label: Array, intervals: Interval, target: jax.Array, signs: jax.Array) -> Leaf:
    """The linear program of one subproblem whose signs are all known; `bounded` is affine in its multipliers."""
    enclosures = enclosed(graph, region, by_crown=False).fine
    nothing = jnp.zeros(signs.shape, graph.source.dtype)
    row = _rows(graph, label, target[None])[0]

    def lagrangian(multipliers):
        constant, weight = _affine(graph, enclosures, intervals, row, signs, nothing, multipliers, 0)
        return constant, weight.ravel()

    constant, weight = lagrangian(nothing)
    # differences are exact, and the derivative of the backward pass is 0 where a weight is 0
    constants, weights = jax.vmap(lagrangian)(jnp.eye(nothing.size, dtype=nothing.dtype))
    return Leaf(constant, weight, constants - constant, weights - weight[None])


def _rows(graph: Graph, label: Array, target: Array) -> jax.Array:
    """The weights of the logits in the margin of each subproblem."""
    (output,) = graph.outputs
    return jax.nn.one_hot(label, output.shape[0], dtype=output.dtype)[None] - jax.nn.one_hot(
        target, output.shape[0], dtype=output.dtype
    )


def _affine(graph, enclosures, intervals, row, signs, slopes, multipliers, shift):
    """The constant and the weights of the affine lower bound of one subproblem."""
    lines = _lines(graph, enclosures, intervals, signs, slopes, multipliers, shift)
    weight, constant = at_input(graph, lines, graph.outputs[0], row)
    return constant, weight


def _allowed(variables: list[jax.Array]) -> list[jax.Array]:
    slopes, multipliers = variables
    return [jnp.clip(slopes, 0, 1), jnp.maximum(multipliers, 0)]


def _lines(graph, enclosures, intervals, signs, slopes, multipliers, shift):
    """The enclosures of all operations for one subproblem; `shift` is added to the value of each unit."""
    low, high = _cut(intervals, signs)
    unsure = (low < 0) & (high > 0)
    chord = high / jnp.where(unsure, high - low, 1)
    linear = jnp.where(low >= 0, 1.0, 0.0).astype(low.dtype)  # a unit that is on, or off
    lower = Line(jnp.where(unsure, slopes, linear), jnp.zeros_like(low) + shift)
    upper = Line(jnp.where(unsure, chord, linear), jnp.where(unsure, -chord * low, 0) + shift)
    splits = iter(_of_each_relu(graph, Split(Lines(lower, upper), multipliers * signs)))
    return [
        next(splits) if _is_relu(operation) else enclosure
        for operation, enclosure in zip(graph.operations, enclosures, strict=True)
    ]


def _cut(intervals: Interval, signs: jax.Array) -> Interval:
    """The intervals where the signs hold."""
    low, high = intervals
    return Interval(jnp.where(signs > 0, jnp.maximum(low, 0), low), jnp.where(signs < 0, jnp.minimum(high, 0), high))


def _of_each_relu(graph: Graph, values: Any) -> list[Any]:
    """The values `[N]` of all units as a list of those of each ReLU operation, in its shape."""
    shapes = [operation.outputs[0].shape for operation in graph.operations if _is_relu(operation)]
    ends = np.cumsum([0, *map(math.prod, shapes)])
    return [
        jax.tree.map(lambda value, a=a, b=b, shape=shape: value[a:b].reshape(shape), values)
        for a, b, shape in zip(ends, ends[1:], shapes, strict=False)
    ]


def _next_unit(intervals: Interval, signs: jax.Array, weight: jax.Array) -> jax.Array:
    """The unit of unknown sign whose upper line costs the bound most at 0; -1 if all signs are known.

    This is the part of the score of Bunel et al. 2020 that comes from the offset of the upper line. If no weight is
    negative, so that the bound uses no upper line, the unit is the one whose two lines are furthest apart.
    """
    low, high = intervals
    unsure = (low < 0) & (high > 0) & (signs == 0)
    gap = jnp.where(unsure, -low * high / jnp.where(unsure, high - low, 1), 0)
    cost = jnp.maximum(-weight, 0) * gap
    score = jnp.where((cost > 0).any(), cost, gap)
    return jnp.where(unsure.any(), score.argmax(), -1) if score.size else jnp.array(-1)


def minimizer(row: jax.Array, region: Region) -> jax.Array:
    """A point of the region where the weighted sum is least; of a ball and its box, a point near it."""
    box = box_of(region)
    if not isinstance(region, Ball):
        return jnp.where(row > 0, box.lower, box.upper)
    square = (row**2).sum()
    step = jnp.where(square > 0, region.radius / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return jnp.clip(region.center - step * row, box.lower, box.upper)
