"""The range of pixel values: two numbers, or arrays that give each feature a range of its own."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax._store import digest
from invjax.types import Box


def is_uniform(box: Box) -> bool:
    """Whether all values have the same range: both ends of the box are numbers."""
    return all(np.ndim(end) == 0 for end in box)


def ends(box: Box, like: Any) -> tuple[Any, Any]:
    """The ends of a box in the dtype of `like`, with axes of length 1 until they broadcast against it.

    Args:
        box: the range of pixel values. Numbers are returned as they are.
        like: an example, or a batch of examples.

    Raises:
        ValueError: an end of the box does not broadcast against `like`.
    """

    def fitted(end):
        if np.ndim(end) == 0:
            return end
        end = jnp.asarray(end, like.dtype)
        if not _check.broadcasts(end.shape, like.shape):
            raise ValueError(
                f"the box has an end of shape {end.shape}, which does not broadcast against an example of shape "
                f"{like.shape}; give one value for each feature, or axes of length 1"
            )
        return end.reshape((1,) * (like.ndim - end.ndim) + end.shape)

    low, high = box
    return fitted(low), fitted(high)


def corners(box: Box, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest value of each feature of an example, as host arrays of its shape."""
    low, high = box
    return np.broadcast_to(np.asarray(low), shape), np.broadcast_to(np.asarray(high), shape)


def same(a: Any, b: Any) -> bool:
    """Whether two objects are equal, where tuples and arrays are compared value by value."""
    if a is b:
        return True
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if not (_check.concrete(a) and _check.concrete(b)):
        return False
    return bool(np.array_equal(a, b)) if np.ndim(a) or np.ndim(b) else bool(a == b)


def described(values: Any) -> str:
    """A short text that identifies an array, with its shape and the start of its digest; a number is itself.

    >>> described(np.zeros(3, bool)), described(0.5)
    ('[3]:283311fe', '0.5')
    """
    if not _check.concrete(values):
        return "traced"
    if np.ndim(values) == 0:
        return f"{values:g}"
    return f"{list(values.shape)}:{digest({'': np.asarray(values)})[:8]}"


def text(box: Box) -> str:
    """The box in a recipe."""
    low, high = box
    return f"({described(low)}, {described(high)})"


def shown(box: Box) -> str:
    """The box in a message."""
    return str(box) if is_uniform(box) else text(box)
