"""Checks of arguments. Every error says what is wrong, the value, and the fix.

Shapes and dtypes are checked while tracing, at no cost at run time. Values (labels, NaN) can be checked on concrete
arrays only. Inside `jit` these checks do nothing, so functions that take a user's data call them before they compile.
"""

from typing import Any

import jax
import numpy as np


def concrete(x: Any) -> bool:
    """Whether the value of `x` is known, so that it can be checked: `x` is not a tracer of `jit`, `vmap` or `grad`."""
    return not isinstance(x, jax.core.Tracer)


def known(x: Any) -> bool:
    """Whether this process can read the value of `x`: it is concrete, and all of it is on devices of this process."""
    return concrete(x) and getattr(x, "is_fully_addressable", True)


def positive(**values: Any) -> None:
    """Check that every keyword is a number above zero, or an array of such numbers."""
    for name, value in values.items():
        if concrete(value) and not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} must be positive; got {name}={value}")


def number(name: str, value: Any) -> None:
    """Check that `value` is one number and not negative."""
    if np.ndim(value) != 0:
        raise ValueError(
            f"{name} must be one number; got an array of shape {np.shape(value)}; "
            "call once for each, or use evaluation.robustness_curve"
        )
    if concrete(value) and not float(value) >= 0:
        raise ValueError(f"{name} must not be negative; got {name}={value}")


def within(name: str, x: Any, box: Any) -> None:
    """Check that `x` is floating point, finite, and inside `box`, whose ends are numbers or broadcast against `x`."""
    floating(name, x)
    finite(name, x)
    if any(np.ndim(end) for end in box):
        _within_ranges(name, x, *box)
    elif concrete(x) and x.size:
        low, high = float(np.min(np.asarray(x))), float(np.max(np.asarray(x)))
        slack = 1e-6 * max(1.0, abs(high))
        if low < box[0] - slack or high > box[1] + slack:
            raise ValueError(
                f"{name} must lie in {box}; got values from {low:.4g} to {high:.4g}; scale them, or pass the "
                "model's own range as box= of the threat (for a model of standardised images: interop.normalized)"
            )


def _within_ranges(name: str, x: Any, low: Any, high: Any) -> None:
    """Check that each feature of `x` is inside its own range."""
    shapes = [np.shape(end) for end in (low, high)]
    for shape in shapes:
        if not broadcasts(shape, x.shape):
            raise ValueError(
                f"the ends of the box, of shapes {shapes[0]} and {shapes[1]}, do not broadcast against {name} of shape "
                f"{x.shape}; give one value for each feature, or axes of length 1"
            )
    if not all(map(concrete, (x, low, high))):
        return
    low, high, values = np.asarray(low, np.float64), np.asarray(high, np.float64), np.asarray(x, np.float64)
    below = values < low - 1e-6 * np.maximum(1, np.abs(low))
    outside = below | (values > high + 1e-6 * np.maximum(1, np.abs(high)))
    if outside.any():
        first = tuple(int(i) for i in np.argwhere(outside)[0])
        ends = (float(np.broadcast_to(end, x.shape)[first]) for end in (low, high))
        raise ValueError(
            f"{name} must lie in the box; got {int(outside.sum())} of {x.size} values outside of it, the first at "
            f"{first}: {values[first]:.4g} is not in ({', '.join(f'{end:.4g}' for end in ends)}); pass the ranges of "
            "these features as box="
        )


def broadcasts(shape: tuple[int, ...], against: tuple[int, ...]) -> bool:
    """Whether an array of this shape broadcasts against one of the shape `against` without enlarging it."""
    pairs = zip(reversed(shape), reversed(against), strict=False)
    return len(shape) <= len(against) and all(size in (1, full) for size, full in pairs)


def logits_of(logits_fn: Any, x: Any, labels: Any) -> int:
    """Check that `logits_fn(x)` is `[B, K]` with K >= 2, and that there is one label for each example; return K."""
    shape = jax.eval_shape(logits_fn, x)
    if getattr(shape, "ndim", None) != 2 or shape.shape[0] != x.shape[0] or shape.shape[1] < 2:
        raise ValueError(
            f"the model must map images {x.shape} to logits [{x.shape[0]}, classes]; got "
            f"{getattr(shape, 'shape', jax.tree.structure(shape))}; two classes need two logits, such as [-z, z]"
        )
    if labels.shape != x.shape[:1]:
        raise ValueError(
            f"labels must have shape [{x.shape[0]}], one for each image; got {labels.shape}; "
            "use argmax on one-hot labels"
        )
    return shape.shape[1]


def divisible(what: str, sizes: tuple[int, ...], by: int, fix: str) -> None:
    """Check that each of `sizes` is a multiple of `by`."""
    if any(size % by for size in sizes):
        raise ValueError(f"{what} needs sizes divisible by {by}; got {sizes}; {fix}")


def floating(name: str, x: Any) -> None:
    """Check that `x` has a floating dtype: images in [0, 1] and not bytes."""
    if not jax.numpy.issubdtype(x.dtype, jax.numpy.floating):
        raise ValueError(
            f"{name} must be floating point; got dtype {x.dtype}; convert bytes with data.as_float({name})"
        )


def finite(name: str, x: Any) -> None:
    """Check that `x` holds no NaN and no infinity."""
    if concrete(x):
        bad = int(np.sum(~np.isfinite(np.asarray(x))))
        if bad:
            raise ValueError(f"{name} holds {bad} NaN or infinite values of {x.size}; remove them before this call")


def no_nan(name: str, x: Any) -> None:
    """Check that `x` holds no NaN; minus infinity is a legal logit, that of a masked class."""
    if concrete(x):
        bad = int(np.sum(np.isnan(np.asarray(x))))
        if bad:
            raise ValueError(f"{name} holds {bad} NaN values of {x.size}; check the parameters and the images")


def labels(y: Any, num_classes: int) -> None:
    """Check that `y` holds class indices of `num_classes` classes."""
    if not jax.numpy.issubdtype(y.dtype, jax.numpy.integer):
        raise ValueError(f"labels must be integer class indices; got dtype {y.dtype}; use argmax on one-hot labels")
    if concrete(y) and y.size:
        low, high = int(np.min(np.asarray(y))), int(np.max(np.asarray(y)))
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels must be in [0, {num_classes}); got values from {low} to {high}; "
                "check num_classes, or subtract the smallest label"
            )


def one_of(name: str, value: str, choices: Any) -> None:
    """Check that `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
