"""Models whose outputs for one image depend on the other images of the batch, such as batch norm in training mode.

Linear bounds see one image at a time, so their certificates would be about another function than such a model.
`check_independent` follows the batch axis from the input through the operations, and refuses a model that sums, sorts
or multiplies along it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from invjax._sharding import typed
from invjax.bounds._graph import trace
from invjax.bounds._operations import Operation, Variable

_BATCH = 13
"""The size of the traced batch, which few other axes have."""
_MIXED = -1
"""In the place of an axis: the operation mixes the entries along the batch axis."""


def check_independent(fn: Callable, images: Any) -> None:
    """Refuse a function that mixes the images of a batch, or that takes batches of one size alone.

    An operation that this module does not know passes, and so does everything that is computed from it.

    Args:
        fn: `x [B, ...] -> [B, ...]`.
        images: an array of the shape of `x`.

    Raises:
        ValueError: an operation mixes the images, or the function takes B images and not one.
    """
    try:
        graph, _ = trace(fn, typed(images, (_BATCH, *images.shape[1:])), recognize=False)
    except (TypeError, ValueError):
        _check_one_image(fn, images)
        return
    axes: dict[Variable, int | None] = {graph.source: 0}
    for operation in graph.operations:
        given = [(i, o) for i, o in enumerate(operation.operands) if isinstance(o, Variable)]
        found = {_followed(operation, i, axes[o]) for i, o in given}
        if _MIXED in found:
            line = f" ({operation.line})" if operation.line else ""
            raise ValueError(
                f"{operation.name!r}{line} mixes the images of a batch, so the outputs for an image depend on the "
                "others; use the model in inference mode, such as with use_running_average=True"
            )
        axes |= dict.fromkeys(operation.outputs, found.pop() if len(found) == 1 else None)


def _check_one_image(fn: Callable, images: Any) -> None:
    """Refuse a function that takes the whole batch and not one image; other errors are those of `trace`."""
    for count in (1, len(images)):
        try:
            jax.eval_shape(fn, typed(images, (count, *images.shape[1:])))
        except (TypeError, ValueError) as error:
            if count > 1:
                return
            cause = error
        else:
            if count == 1:
                return
    raise ValueError(
        f"the model takes {len(images)} images and not one, as bounds need; write x.reshape(len(x), ...) where it "
        f"reshapes a batch"
    ) from cause


def _followed(operation: Operation, position: int, axis: int | None) -> int | None:
    """The batch axis of the outputs, `_MIXED`, or None if it is unknown, given that of the operand at `position`."""
    if axis is None:
        return None
    name, params = operation.name, operation.params
    shape, out = operation.operands[position].shape, operation.outputs[0].shape
    if "axes" in params:  # reductions, and functions along axes
        along = {a % len(shape) for a in params["axes"]}
        return _MIXED if axis in along else axis if len(out) == len(shape) else _without(axis, along)
    if name.startswith("cum"):
        return _MIXED if params["axis"] == axis else axis
    if name.startswith("reduce_window"):
        return _MIXED if params["window_dimensions"][axis] > 1 else axis
    if name in ("sort", "rev"):
        return _MIXED if axis in (params["dimensions"] if name == "rev" else [params["dimension"]]) else axis
    if name == "transpose":
        return params["permutation"].index(axis)
    if name == "broadcast_in_dim":
        return params["broadcast_dimensions"][axis]
    if name == "squeeze":
        return _without(axis, params["dimensions"])
    if name == "reshape":
        ends = {math.prod(out[:k]): k for k in range(len(out) - 1, -1, -1) if out[k] == shape[axis]}
        return ends.get(math.prod(shape[:axis]))
    if name == "dot_general":
        return _of_product(operation, position, axis)
    if name == "conv_general_dilated":
        return _of_convolution(params, position, axis)
    if name in ("slice", "pad", "concatenate", "dynamic_slice", "dynamic_update_slice"):
        return axis if out[axis] == shape[axis] else None
    if name == "canonical_conv":
        return 0 if axis == position == 0 else None
    return axis if all(_broadcasts(np.shape(o), out) for o in operation.operands) else None


def _broadcasts(shape: tuple[int, ...], out: tuple[int, ...]) -> bool:
    """Whether an operand of an elementwise operation has this shape: a number, or all axes of the result."""
    return not shape or (len(shape) == len(out) and all(a in (1, b) for a, b in zip(shape, out, strict=True)))


def _without(axis: int, removed: Any) -> int:
    return axis - sum(a < axis for a in removed)


def _of_product(operation: Operation, position: int, axis: int) -> int | None:
    """The axes of a result are those of the batch dimensions, of the first factor, and of the second factor."""
    contracted, batch = operation.params["dimension_numbers"]
    if axis in contracted[position]:
        return _MIXED
    if axis in batch[position]:
        return list(batch[position]).index(axis)
    used = [{*contracted[i], *batch[i]} for i in (0, 1)]
    free = _without(axis, used[position])
    return len(batch[0]) + free + (len(operation.operands[0].shape) - len(used[0]) if position else 0)


def _of_convolution(params: dict[str, Any], position: int, axis: int) -> int | None:
    numbers = params["dimension_numbers"]
    if position or params["batch_group_count"] > 1:
        return None
    if axis == numbers.lhs_spec[1] and params["feature_group_count"] == 1:
        return _MIXED
    return numbers.out_spec[0] if axis == numbers.lhs_spec[0] else None
