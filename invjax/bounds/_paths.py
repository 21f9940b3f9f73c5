"""Chains of operations of one value, and the values that meet in them.

A program moves, broadcasts and scales values in many ways. A path is a chain of such operations, in the order of the
program; `pushed` says which value of its start each value of its end is.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invjax.bounds._operations import Operation, Variable

Producers = dict[Variable, Operation]
"""The operation that computes each variable."""
Path = list[Operation]
Step = tuple[str, float]
"""The name of an operation of one value with one number, and the number."""

_MOVES = ("reshape", "squeeze", "broadcast_in_dim", "transpose", "convert_element_type", "copy")


def back(value: Variable, producers: Producers, passes: Callable[[Operation], bool]) -> tuple[Variable, Path]:
    """The value before a chain of operations of one value, and the chain in the order of the program."""
    path: Path = []
    while (made := producers.get(value)) is not None and len(made.dependent) == 1 and passes(made):
        path.append(made)
        (value,) = made.dependent
    return value, path[::-1]


def is_move(operation: Operation) -> bool:
    """Whether an operation of one value only moves or repeats values."""
    name = operation.name
    if name == "select_n":
        which = operation.operands[0]
        chosen = None if number_of(which) is None else operation.operands[1 + int(which)]
        return isinstance(chosen, Variable)
    if name == "sub":  # RMS norms of flax subtract a mean of 0
        return isinstance(operation.operands[0], Variable) and number_of(operation.operands[1]) == 0
    return name in _MOVES


def is_scaling(operation: Operation) -> bool:
    """Whether an operation of one value moves values or multiplies them by constants."""
    return is_move(operation) or operation.name == "mul"


def is_step(operation: Operation) -> bool:
    """Whether an operation of one value moves values, or is a step of h with a positive constant."""
    step = step_of(operation)
    return is_move(operation) or (step is not None and step[0] not in ("sqrt", "rsqrt", "integer_pow"))


def step_of(operation: Operation) -> Step | None:
    """The step of h that an operation computes, and its constant; None for a move and for other operations."""
    name = operation.name
    if name in ("sqrt", "rsqrt") or (name == "integer_pow" and operation.params["y"] == -1):
        return name, 0.0
    if name not in ("add", "max", "mul", "div") or len(operation.dependent) != 1:
        return None
    first, second = operation.operands
    number = number_of(second if isinstance(first, Variable) else first)
    if number is None or number < 0 or (name == "div" and isinstance(second, Variable)):
        return None
    return (name, number) if number > 0 or name in ("add", "max") else None


def number_of(operand: Any) -> float | None:
    """The number that a constant is everywhere; None if it is unknown, several numbers or not finite."""
    if isinstance(operand, Variable | jax.core.Tracer) or np.size(operand) == 0:
        return None
    values = np.asarray(operand)
    first = values.flat[0]
    return float(first) if np.isfinite(first) and (values == first).all() else None


def origin(value: Variable, producers: Producers) -> tuple[Variable, np.ndarray]:
    """The variable whose values are moved to these places, and the position in it for each of them."""
    start, path = back(value, producers, is_move)
    return start, pushed(np.arange(math.prod(start.shape)).reshape(start.shape), path)


def pushed(index: np.ndarray, path: Path) -> np.ndarray:
    """An array of positions after a path of operations that move values or change each alone."""
    for operation in path:
        shape = operation.outputs[0].shape
        if operation.name in ("reshape", "squeeze"):
            index = index.reshape(shape)
        elif operation.name == "transpose":
            index = index.transpose(operation.params["permutation"])
        elif operation.name == "broadcast_in_dim":
            places = dict(zip(operation.params["broadcast_dimensions"], index.shape, strict=True))
            index = index.reshape([places.get(axis, 1) for axis in range(len(shape))])
        index = np.broadcast_to(index, shape)
    return index


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same values in the same order, in whatever shapes."""
    return a.size == b.size and bool((a.ravel() == b.ravel()).all())


def scale_of(path: Path, output: Variable) -> jax.Array | None:
    """The product of the constants on a path of moves and multiplications; None if there are none."""
    if all(operation.name != "mul" for operation in path):
        return None
    scale = jnp.ones(path[0].dependent[0].shape, output.dtype)
    for operation in path:
        scale = scale if operation.name == "sub" else operation.of_dependent(scale)
        scale = jnp.broadcast_to(scale, operation.outputs[0].shape)
    return scale
