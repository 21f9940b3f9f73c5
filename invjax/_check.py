"""One wording for every `ValueError`: the value, then the fix.

Shapes and dtypes are checked while tracing, at no cost at run time. Values (labels, NaN) can only be checked on
concrete arrays; inside `jit` those checks do nothing, so the functions that take data from a user call them before they
compile.
"""

from typing import Any

import jax
import numpy as np


def _concrete(x: Any) -> bool:
    return not isinstance(x, jax.core.Tracer)


def positive(**values: Any) -> None:
    """Each keyword is a number above zero."""
    for name, value in values.items():
        if _concrete(value) and not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} must be positive; got {name}={value}")


def divisible(what: str, sizes: tuple[int, ...], by: int, fix: str) -> None:
    """Each of `sizes` is a multiple of `by`."""
    if any(size % by for size in sizes):
        raise ValueError(f"{what} needs sizes divisible by {by}; got {sizes}; {fix}")


def floating(name: str, x: Any) -> None:
    """`x` has a floating dtype: images in [0, 1], not bytes."""
    if not jax.numpy.issubdtype(x.dtype, jax.numpy.floating):
        raise ValueError(
            f"{name} must be floating point; got dtype {x.dtype}; convert bytes with data.as_float({name})"
        )


def finite(name: str, x: Any) -> None:
    """`x` holds no NaN and no infinity."""
    if _concrete(x):
        bad = int(np.sum(~np.isfinite(np.asarray(x))))
        if bad:
            raise ValueError(f"{name} holds {bad} NaN or infinite values of {x.size}; remove them before this call")


def labels(y: Any, num_classes: int) -> None:
    """`y` holds class indices of `num_classes` classes."""
    if not jax.numpy.issubdtype(y.dtype, jax.numpy.integer):
        raise ValueError(f"labels must be integer class indices; got dtype {y.dtype}; use argmax on one-hot labels")
    if _concrete(y) and y.size:
        low, high = int(np.min(np.asarray(y))), int(np.max(np.asarray(y)))
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels must be in [0, {num_classes}); got values from {low} to {high}; "
                "check num_classes, or subtract the smallest label"
            )


def one_of(name: str, value: str, choices: Any) -> None:
    """`value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
