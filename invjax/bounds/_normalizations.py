"""Normalizations that a program computes in several operations and that bounds treat as one.

Layer norm, group norm, instance norm, RMS norm and the division by a length multiply each value by a factor that all
values of its group have in common:

    y_i = d_i * h(S),    S = sum_j d_j^2,

where d is x or its deviation from the mean of the group, and h(S) is for example `1 / sqrt(S / n + eps)`. Interval
arithmetic forgets that a large d_i makes S large. `normalization` finds such products. Libraries move, broadcast and
scale the factors in many ways, so it compares which values and which groups meet in each product, and not the
operations in between.

A function h is accepted if it divides by one square root. Then `-S h'(S) / h(S)` is at most 1/2, because a square root
halves this elasticity, and neither the sum nor the maximum with a positive constant raises it.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax.bounds._operations import Operation, Variable
from invjax.bounds._paths import (
    Path,
    Producers,
    back,
    equal,
    is_scaling,
    is_step,
    origin,
    pushed,
    scale_of,
    step_of,
)
from invjax.types import Array

DEVIATIONS, SQUARES, NAME = "deviations from the mean", "sum of squares", "normalization"

_STEPS: dict[str, Callable[[Any, float], Any]] = {
    "add": lambda v, c: v + c,
    "max": jnp.maximum,
    "mul": lambda v, c: v * c,
    "div": lambda v, c: v / c,
    "sqrt": lambda v, _: jnp.sqrt(v),
    "rsqrt": lambda v, _: 1 / jnp.sqrt(v),
    "integer_pow": lambda v, _: 1 / v,
}
_INVERSES: dict[str, Callable[[float, float], float]] = {
    "add": lambda v, c: v - c,
    "max": lambda v, c: v,
    "mul": lambda v, c: v / c,
    "div": lambda v, c: v * c,
    "sqrt": lambda v, _: v * v,
}
_LARGE = 1e38
"""Values of bfloat16 and float32 reach it. In float16 the squares overflow where their quotient does not."""


class Divisor(NamedTuple):
    """A function h that divides by one square root.

    Attributes:
        function: h.
        finite_from: the least S at which h is finite.
        smooth_from: the least S from which on h is convex and smooth.
        scale: an S below which h hardly changes.
    """

    function: Callable[[Any], Any]
    finite_from: float
    smooth_from: float
    scale: float


class _Groups(NamedTuple):
    """The sum over groups of a function of values.

    Attributes:
        source: the values.
        axes: the axes of the sum.
        output: the sums.
    """

    source: Variable
    axes: tuple[int, ...]
    output: Variable

    @property
    def size(self) -> int:
        """The number of values of a group."""
        return math.prod(self.source.shape[axis] for axis in self.axes)

    def of_sums(self) -> np.ndarray:
        """The number of the group of each sum."""
        return np.arange(math.prod(self.output.shape)).reshape(self.output.shape)

    def of_values(self) -> np.ndarray:
        """The number of the group of each value."""
        kept = [1 if axis in self.axes else size for axis, size in enumerate(self.source.shape)]
        return np.broadcast_to(np.arange(math.prod(kept)).reshape(kept), self.source.shape)


def normalization(operation: Operation, producers: Producers) -> Path | None:
    """The operations that replace a product which ends a normalization; None for any other operation."""
    if operation.name != "mul" or len(operation.dependent) != 2:
        return None
    first, second = operation.operands
    return _of_factors(operation, first, second, producers) or _of_factors(operation, second, first, producers)


def _of_factors(operation: Operation, values: Variable, factor: Variable, producers: Producers) -> Path | None:
    """The normalization, if the first factor is d and the second is h(S), each times a constant."""
    inverse, scaling = back(factor, producers, is_scaling)
    path = _inverse_root(inverse, producers)
    found = None if path is None else _squares(path[0].dependent[0], producers)
    if path is None or found is None:
        return None
    groups, centered = found
    known, index = origin(groups.source, producers)
    start, moving = back(values, producers, lambda op: is_scaling(op) and known not in op.outputs)
    met = [(groups, [*path, *scaling])]
    used = [producers[groups.output], *path, *scaling, *moving]
    if centered:
        difference = producers.get(start)
        mean = None if difference is None else _mean(difference, groups, producers)
        if difference is None or mean is None:
            return None
        start, moving = difference.operands[0], [difference, *moving]
        met.append((mean[0], [*mean[1], *moving]))
        used += [*mean[1], difference]
    own, own_index = origin(start, producers)
    if own is not known or any(v.largest < _LARGE for op in used for v in op.outputs):
        return None
    met_values = [(own_index, moving, index), *((sums.of_sums(), way, groups.of_values()) for sums, way in met)]
    if not all(equal(pushed(at, [*way, operation]), wanted) for at, way, wanted in met_values):
        return None
    scales = [s for way in (scaling, moving) if (s := scale_of(way, operation.outputs[0])) is not None]
    return _replaced(operation, groups, centered, path, scales)


def _replaced(operation: Operation, groups: _Groups, centered: bool, path: Path, scales: list[jax.Array]) -> Path:
    """The deviations, their sum of squares, the normalization, and the multiplications by its scales."""
    (output,), line, source = operation.outputs, operation.line, groups.source
    axes, dtype, found = groups.axes, output.dtype, []

    def apply(name, function, operands, shape, params):
        result = Variable(shape, dtype, output.largest)
        found.append(Operation(name, function, operands, (result,), False, params, line))
        return result

    sums = tuple(1 if axis in axes else size for axis, size in enumerate(source.shape))
    d = source
    if centered:
        d = apply(DEVIATIONS, lambda x: deviations(x, axes), (source,), source.shape, {"axes": axes})
    of_groups = {"axes": axes, "centered": centered}
    s = apply(SQUARES, lambda x: squares(x, axes, centered), (source,), sums, of_groups)
    h = _divisor(path, groups.size if centered else 1)
    # the squares of other deviations sum to at least d^2 / (n - 1)
    least = groups.size / max(groups.size - 1, 1) if centered else 1.0
    params = {"shape": output.shape, "h": h, "least": least}
    y = apply(NAME, lambda d, s: (d * h.function(s)).reshape(output.shape), (d, s), output.shape, params)
    for scale in scales:
        y = apply("mul", lambda y, c: y * c, (y, scale), output.shape, {})
    return [*found[:-1], found[-1]._replace(outputs=(output,))]


def deviations(x: Array, axes: tuple[int, ...]) -> Array:
    """The deviations from the mean over some axes."""
    return x - x.mean(axes, keepdims=True)


def squares(x: Array, axes: tuple[int, ...], centered: bool) -> Array:
    """The sum over some axes of the squares, or of the squared deviations from the mean; the axes have length 1."""
    return jnp.square(deviations(x, axes) if centered else x).sum(axes, keepdims=True)


def _divisor(path: Path, count: int) -> Divisor:
    """The function h of the steps on a path, applied to S divided by the number of values."""
    steps = [("div", float(count)), *(step for each in path if (step := step_of(each)) is not None)]

    def before(place, value):  # the S at which the value reaches this place
        return reduce(lambda v, step: _INVERSES[step[0]](v, step[1]), steps[:place][::-1], value)

    kinks = [before(i, number) for i, (name, number) in enumerate(steps) if name == "max"]
    added = [before(i, number) for i, (name, number) in enumerate(steps) if name == "add" and number > 0]
    finite_from = 0.0 if added or max(kinks, default=0.0) > 0 else float(np.finfo(np.float32).tiny)
    function = lambda s: reduce(lambda v, step: _STEPS[step[0]](v, step[1]), steps, s)  # noqa: E731
    return Divisor(
        function, finite_from, max([finite_from, *(1.001 * kink for kink in kinks)]), max(added, default=0.0)
    )


def _inverse_root(value: Variable, producers: Producers) -> Path | None:
    """The operations from a sum of squares to h(S), of which exactly one is a square root."""
    last = producers.get(value)
    if last is None or len(last.dependent) != 1:
        return None
    if last.name == "rsqrt":
        _, before = back(last.dependent[0], producers, is_step)
        return [*before, last]
    if last.name != "integer_pow" or last.params["y"] != -1:
        return None
    root, after = back(last.dependent[0], producers, is_step)
    made = producers.get(root)
    if made is None or made.name != "sqrt":
        return None
    _, before = back(made.dependent[0], producers, is_step)
    return [*before, made, *after, last]


def _squares(sums: Variable, producers: Producers) -> tuple[_Groups, bool] | None:
    """The groups whose squares are added, and whether these are the squares of deviations from the mean."""
    made = producers.get(sums)
    if made is not None and made.name == "jnp.var":
        return _Groups(made.operands[0], made.params["axes"], sums), True
    if made is None or made.name != "reduce_sum":
        return None
    square = producers.get(made.dependent[0])
    if square is None or not (square.name == "square" or (square.name == "integer_pow" and square.params["y"] == 2)):
        return None
    if square.outputs[0].largest < _LARGE:
        return None
    return _Groups(square.operands[0], tuple(map(int, made.params["axes"])), sums), False


def _mean(difference: Operation, groups: _Groups, producers: Producers) -> tuple[_Groups, Path] | None:
    """The sums that a difference subtracts after division by the number of values, and the path to the difference."""
    if difference.name != "sub" or len(difference.dependent) != 2:
        return None
    sums, path = back(difference.operands[1], producers, lambda op: is_step(op) and op.name not in ("add", "max"))
    made = producers.get(sums)
    if made is None or made.name != "reduce_sum":
        return None
    factor = _divisor(path, 1).function(1.0)
    if abs(factor * groups.size - 1) > 1e-6:
        return None
    found = _Groups(made.operands[0], tuple(map(int, made.params["axes"])), sums)
    (start, index), (own, own_index) = origin(groups.source, producers), origin(found.source, producers)
    same = start is own and found.source.shape == groups.source.shape and equal(index, own_index)
    return (found, path) if same and found.axes == groups.axes else None
