"""Checks of arguments. Every error says what is wrong, the value, and the fix.

Shapes and dtypes are checked while tracing, at no cost at run time. Values (labels, NaN) can be checked on concrete
arrays only. Inside `jit` these checks do nothing, so functions that take a user's data call them before they compile.
"""

import operator
from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np

from invjax._explain import described

_UNITS = {"eps": "radius, such as 8 / 255"}


def concrete(x: Any) -> bool:
    """Whether the value of `x` is known, so that it can be checked: `x` is not a tracer of `jit`, `vmap` or `grad`."""
    return not isinstance(x, jax.core.Tracer)


def known(x: Any) -> bool:
    """Whether this process can read the value of `x`: it is concrete, and all of it is on devices of this process."""
    return concrete(x) and getattr(x, "is_fully_addressable", True)


def key(value: Any, name: str = "key") -> None:
    """Check that `value` is one random key."""
    given = isinstance(value, jax.Array | np.ndarray)
    typed = given and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    raw = given and value.dtype == np.uint32 and np.ndim(value) > 0  # the data of a key, as `PRNGKey` gives them
    if np.ndim(value) > (0 if typed else 1) and (typed or raw):
        raise ValueError(f"{name} must be one random key; got {len(value)} of them; take one, or map over them")
    if not (typed or raw):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        fix = f"write jax.random.key({value if whole else 'seed'})"
        if not (whole or value is None):
            fix = "it comes before functions, parameters and data, as in jax.random.key(seed)"
        raise ValueError(f"{name} must be a random key; got {described(value)}; {fix}")


def seed(value: Any, name: str = "seed") -> int:
    """The seed as an integer, if it is a whole number from 0 on, or an array of one."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = -1
    if whole < 0:
        key_given = isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
        got = "a random key" if key_given else value
        raise ValueError(f"{name} must be a whole number, 0 or more; got {got}; such as {name}=0")
    return whole


def function(name: str, value: Any, form: str) -> None:
    """Check that `value` can be called; `form` says with which arguments, as in "x -> logits"."""
    if not callable(value):
        record = callable(getattr(value, "apply", None)) and not isinstance(value, Mapping)
        fix = "pass its field apply" if record else "the order is key, functions, parameters, data"
        raise ValueError(f"{name} must be a function {form}; got {described(value)}; {fix}")


def positive(**values: Any) -> None:
    """Check that every keyword is a number above zero, or an array of such numbers."""
    for name, value in values.items():
        if not concrete(value):
            continue
        if not _numeric(value):
            raise ValueError(f"{name} must be a positive number; got {described(value)}")
        if not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} must be positive; got {name}={value}")


def count(**values: Any) -> None:
    """Check that every keyword is a whole number above zero."""
    for name, value in values.items():
        try:
            operator.index(cast(Any, None) if isinstance(value, bool) else value)
        except TypeError as error:
            raise ValueError(f"{name} must be a whole number; got {described(value)}; such as {name}=10") from error
        positive(**{name: value})


def _numeric(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    dtype = np.asarray(value).dtype if dtype is None else dtype
    return any(jax.dtypes.issubdtype(dtype, kind) for kind in (np.number, np.bool_))


def number(name: str, value: Any) -> None:
    """Check that `value` is one number and not negative."""
    if concrete(value) and np.ndim(value) == 0 and not _numeric(value):
        raise ValueError(f"{name} must be one number; got {described(value)}; give the {_UNITS.get(name, 'number')}")
    if np.ndim(value) != 0:
        raise ValueError(
            f"{name} must be one number; got an array of shape {np.shape(value)}; "
            "call once for each, or use evaluation.robustness_curve"
        )
    if concrete(value) and not float(value) >= 0:
        raise ValueError(f"{name} must not be negative; got {name}={value}")


def one_or_each(name: str, value: Any, count: int) -> None:
    """Check that `value` is one number or `count` numbers, none of them negative."""
    if np.ndim(value) == 0:
        number(name, value)
    elif np.shape(value) != (count,):
        raise ValueError(
            f"{name} must be one number, or one for each of the {count} images; got an array of shape "
            f"{np.shape(value)}; for several radii use evaluation.robustness_curve"
        )
    elif concrete(value) and not np.all(np.asarray(value) >= 0):
        raise ValueError(f"{name} must not be negative; got {name}={value}")


def array(name: str, x: Any) -> None:
    """Check that `x` is an array of NumPy or JAX, or has a shape and a dtype like one."""
    if isinstance(x, jax.core.Tracer | jax.Array | np.ndarray | np.generic):
        return
    try:
        np.dtype(x.dtype), tuple(x.shape)
    except (TypeError, AttributeError) as error:
        foreign = type(x).__module__.partition(".")[0] == "torch"
        fix = f"{name}.numpy()" if foreign else f"numpy.asarray({name})"
        raise ValueError(f"{name} must be an array; got {described(x)}; convert it with {fix}") from error


def examples(name: str, x: Any) -> None:
    """Check that `x` is an array `[B, ...]` of one example or more."""
    array(name, x)
    if not x.shape or not x.shape[0]:
        fix = "check the split of the data" if x.shape else f"a single example needs a batch axis, {name}[None]"
        raise ValueError(f"{name} must hold at least one example; got shape {x.shape}; {fix}")


def real(name: str, x: Any) -> None:
    """Check that `x` holds one or more examples of finite floats."""
    examples(name, x)
    floating(name, x)
    finite(name, x)


def ids(value: Any, count: int) -> None:
    """Check that `value` holds one integer for each of `count` images."""
    array("ids", value)
    if value.shape != (count,):
        raise ValueError(f"ids must have shape [{count}], one for each image; got {value.shape}; such as positions")
    if not jax.numpy.issubdtype(value.dtype, jax.numpy.integer):
        raise ValueError(f"ids must be integers; got dtype {value.dtype}; use the positions in the data set")


def one_each(name: str, y: Any, x: Any) -> None:
    """Check that `y` holds one value for each example of `x`."""
    array(name, y)
    if y.shape == x.shape[:1]:
        return
    fix = "pass those of the same images"
    if len(y.shape) == 2 and y.shape[0] == x.shape[0]:
        fix = f"use {name}[:, 0]" if y.shape[1] == 1 else f"use {name}.argmax(1), which undoes a one-hot code"
    elif not y.shape or y.shape == (1,):
        fix = f"a single image needs a batch axis, x[None], and its label, too: numpy.array([{name}])"
    raise ValueError(f"{name} must have shape [{x.shape[0]}], one for each image; got {y.shape}; {fix}")


def within(name: str, x: Any, box: Any) -> None:
    """Check that `x` holds examples of finite floats in `box`, whose ends are numbers or broadcast against `x`."""
    real(name, x)
    if any(np.ndim(end) for end in box):
        _within_ranges(name, x, *box)
    elif concrete(x) and x.size:
        low, high = float(np.min(np.asarray(x))), float(np.max(np.asarray(x)))
        slack = 1e-6 * max(1.0, abs(high))
        if low < box[0] - slack or high > box[1] + slack:
            fix = "scale them"
            if tuple(box) == (0, 1) and low >= 0 and 2 <= high <= 255:
                fix = f"scale them: {name} / 255"
            elif tuple(box) == (0, 1) and low >= -1 and high <= 1:
                fix = f"scale them: ({name} + 1) / 2; for images in [-1, 1] that the model takes so, box=(-1, 1)"
            raise ValueError(
                f"{name} must lie in {box}; got values from {low:.4g} to {high:.4g}; {fix}, or pass the "
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


def per_example(name: str, values: Any, count: int) -> None:
    """Check that a function gave one value for each of `count` images."""
    if values.shape != (count,):
        raise ValueError(
            f"the {name} must give one value for each image, [{count}]; got {values.shape}; leave out the mean"
        )


def sized(name: str, x: Any, shape: tuple[int, ...]) -> None:
    """Check that `x` holds examples of this shape."""
    if x.shape[1:] == shape:
        return
    fix = f"crop or resize them, or build the model for shape={tuple(x.shape[1:])}"
    if x.shape == shape:
        fix = f"a single image needs a batch axis, {name}[None]"
    elif len(shape) > 1 and x.shape[1:] == (shape[-1], *shape[:-1]):
        fix = f"the channel is the last axis, so pass jnp.moveaxis({name}, 1, -1)"
    elif len(shape) > 1 and shape[-1] == 1 and x.shape[1:] == shape[:-1]:
        fix = f"add the axis of the channel, {name}[..., None]"
    raise ValueError(f"{name} must have shape [batch, {', '.join(map(str, shape))}]; got {tuple(x.shape)}; {fix}")


def divisible(what: str, sizes: tuple[int, ...], by: int, fix: str) -> None:
    """Check that each of `sizes` is a multiple of `by`."""
    if any(size % by for size in sizes):
        raise ValueError(f"{what} needs sizes divisible by {by}; got {sizes}; {fix}")


def floating(name: str, x: Any) -> None:
    """Check that `x` is an array with a floating dtype: images in [0, 1] and not bytes."""
    array(name, x)
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


def labels(y: Any, num_classes: int, name: str = "labels") -> None:
    """Check that `y` holds class indices of `num_classes` classes."""
    array(name, y)
    if not jax.numpy.issubdtype(y.dtype, jax.numpy.integer):
        raise ValueError(
            f"{name} must be integer class indices; got dtype {y.dtype}; use argmax on one-hot labels, or "
            f"{name}.astype(int)"
        )
    if concrete(y) and y.size:
        low, high = int(np.min(np.asarray(y))), int(np.max(np.asarray(y)))
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"{name} must be in [0, {num_classes}); got values from {low} to {high}; "
                "check num_classes, or subtract the smallest label"
            )


def one_of(name: str, value: str, choices: Any) -> None:
    """Check that `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
