r"""Bounds of functions that `_patterns` recognizes as a whole: softmax and its relatives, variances, and gelu.

    softmax_i = 1 / q_i,    q_i = sum_j exp(x_j - x_i)

is a convex, decreasing function of q_i, and q_i is a convex function of x: a tangent and a chord of each enclose it
between affine functions. The variance is a convex quadratic form: within a box of radius r, its tangent in the center
is at most |r|^2 / n below it.

Sources: Wei et al. 2023, *Convex Bounds on the Softmax Function with Applications to Robustness Verification*, for the
linear bounds of the exponentials; the choice of the points of contact is ours.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from invjax.bounds import _enclosures, _interval
from invjax.bounds._enclosure_rules import nearly_relu
from invjax.bounds._enclosures import Between, Enclosure
from invjax.bounds._interval_rules import increasing, turning
from invjax.bounds._regions import Interval
from invjax.types import Array

Axes = tuple[int, ...]
Affine = Callable[[Array], Array]


def _flat(x: Array, axes: Axes) -> Array:
    """`x` with the axes moved to the end and merged, `[..., n]`."""
    moved = jnp.moveaxis(x, axes, range(-len(axes), 0))
    return moved.reshape(*moved.shape[: moved.ndim - len(axes)], -1)


def _unflat(x: Array, shape: tuple[int, ...], axes: Axes) -> Array:
    """The inverse of `_flat` for an array of this shape."""
    others = [size for axis, size in enumerate(shape) if axis not in axes]
    return jnp.moveaxis(x.reshape(*others, *(shape[axis] for axis in axes)), range(-len(axes), 0), axes)


def _reduced(x: Array, shape: tuple[int, ...], axes: Axes, keepdims: bool) -> Array:
    """A value for each slice, with the axes of length 1 or without them."""
    return x.reshape([1 if axis in axes else size for axis, size in enumerate(shape)]) if keepdims else x


# softmax


def _of_others(x: Array) -> Array:
    """The logsumexp of all other entries, for each entry of the last axis."""
    own = jnp.eye(x.shape[-1], dtype=bool)
    return jax.nn.logsumexp(jnp.where(own, -jnp.inf, x[..., None, :]), -1)


def _odds(x: Interval, axes: Axes) -> tuple[Array, Array]:
    """The least and largest log-odds of each entry, which are exact; NaN stands for no information."""
    lower, upper = (_flat(end, axes) for end in x)
    return lower - _of_others(upper), upper - _of_others(lower)


def softmax(x: Interval, axes: Axes, keepdims: bool) -> Interval:
    """The exact interval of a softmax."""
    least, largest = map(jax.nn.sigmoid, _odds(x, axes))
    ends = jnp.where(jnp.isnan(least), 0, least), jnp.where(jnp.isnan(largest), 1, largest)
    return Interval(*(_unflat(end, x.lower.shape, axes) for end in ends))


def softmax_between(x: Interval, axes: Axes, keepdims: bool) -> Enclosure:
    """Affine functions around a softmax."""
    shape = x.lower.shape
    low, high = (_flat(end, axes) for end in x)
    known = Interval(*(_flat(end, axes) for end in softmax(x, axes, keepdims)))
    chord, tangent = _exponentials(low, high)
    least, largest = 1 / known.upper, 1 / known.lower
    middle = jnp.clip(chord[1] + _differences(chord[0], low / 2 + high / 2), least, largest)
    below = _line_of(known.lower, -1 / middle**2, 2 / middle, chord)
    above = _line_of(known.upper, -1 / (least * largest), 1 / least + 1 / largest, tangent)
    return Between(*(lambda v, f=f: _unflat(f(_flat(v, axes)), shape, axes) for f in (below, above)))


def _exponentials(low: Array, high: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Slopes `[..., n, n]` and offsets `[..., n]` of affine functions above and below `sum_j exp(x_j - x_i)`."""
    own = jnp.eye(low.shape[-1], dtype=bool)
    least = jnp.where(own, 0, low[..., None, :] - high[..., :, None])
    largest = jnp.where(own, 0, high[..., None, :] - low[..., :, None])
    wide = largest > least
    rise = (jnp.exp(largest) - jnp.exp(least)) / jnp.where(wide, largest - least, 1)
    slope = jnp.where(own, 0, jnp.where(wide, rise, jnp.exp(least)))
    chord = slope, 1 + jnp.where(own, 0, jnp.exp(least) - slope * least).sum(-1)
    at = jnp.minimum(least / 2 + largest / 2, least + 1)  # further up the tangent is negative at the lower end
    slope = jnp.where(own, 0, jnp.exp(at))
    return chord, (slope, 1 + jnp.where(own, 0, slope * (1 - at)).sum(-1))


def _differences(slope: Array, x: Array) -> Array:
    """`sum_j slope_ij (x_j - x_i)`."""
    return jnp.einsum("...ij,...j->...i", slope, x, precision="highest") - slope.sum(-1) * x


def _line_of(end: Array, factor: Array, constant: Array, q: tuple[Array, Array]) -> Affine:
    """`constant + factor * q(x)` where that is finite, and a known end elsewhere."""
    slope, offset = factor[..., None] * q[0], constant + factor * q[1]
    finite = jnp.isfinite(slope).all(-1) & jnp.isfinite(offset)
    slope, offset = jnp.where(finite[..., None], slope, 0), jnp.where(finite, offset, end)
    return lambda v: offset + _differences(slope, v)


# logsumexp


def logsumexp(x: Interval, axes: Axes, keepdims: bool) -> Interval:
    """The exact interval of a logsumexp."""
    return increasing(lambda end: jax.nn.logsumexp(end, axes, keepdims=keepdims), x)


def logsumexp_between(x: Interval, axes: Axes, keepdims: bool) -> Enclosure:
    """Affine functions around a logsumexp."""
    lower, upper = _around_logsumexp(x, axes)
    return Between(*(lambda v, f=f: _reduced(f(_flat(v, axes)), v.shape, axes, keepdims) for f in (lower, upper)))


def _around_logsumexp(x: Interval, axes: Axes) -> tuple[Affine, Affine]:
    low, high = (_flat(end, axes) for end in x)
    middle = low / 2 + high / 2
    top = high.max(-1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0)
    at_low, at_high = jnp.exp(low - top), jnp.exp(high - top)
    total = (at_low / 2 + at_high / 2).sum(-1, keepdims=True)
    wide = high > low
    chord = jnp.where(wide, (at_high - at_low) / jnp.where(wide, high - low, 1), at_high) / total

    def around(slope, value):  # through the value in the middle
        usable = jnp.isfinite(slope) & jnp.isfinite(middle)
        slope = jnp.where(usable, slope, 0)
        offset = value - (slope * jnp.where(usable, middle, 0)).sum(-1)
        return lambda v: offset + (slope * jnp.where(usable, v, 0)).sum(-1)

    lower = around(jax.nn.softmax(middle, -1), jax.nn.logsumexp(middle, -1))
    return lower, around(chord, (jnp.log(total) + top)[..., 0])


# variance


def variance(x: Interval, axes: Axes, keepdims: bool) -> Interval:
    """An interval of the variance: the distance from the mean changes by at most the length of the radii."""
    _, length, radius, count = _spread(x, axes)
    ends = jnp.maximum(length - radius, 0), length + radius
    return Interval(*(_reduced(end**2 / count, x.lower.shape, axes, keepdims) for end in ends))


def variance_between(x: Interval, axes: Axes, keepdims: bool) -> Enclosure:
    """The tangent in the center, and the tangent raised by the mean square of the radii."""
    deviation, length, radius, count = _spread(x, axes)
    middle = _flat(x.lower / 2 + x.upper / 2, axes)
    offset = (length**2 - 2 * (deviation * middle).sum(-1)) / count

    def tangent(v, rise):
        of_slices = offset + rise + 2 / count * (deviation * _flat(v, axes)).sum(-1)
        return _reduced(of_slices, v.shape, axes, keepdims)

    return Between(lambda v: tangent(v, 0), lambda v: tangent(v, radius**2 / count))


def _spread(x: Interval, axes: Axes) -> tuple[Array, Array, Array, int]:
    """Of each slice: the deviations of its center from their mean, their length, the length of its radii, its size."""
    low, high = (_flat(end, axes) for end in x)
    middle = low / 2 + high / 2
    deviation = middle - middle.mean(-1, keepdims=True)
    return deviation, _length(deviation), _length(high / 2 - low / 2), low.shape[-1]


def _length(x: Array) -> Array:
    square = (x**2).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), square)  # its gradient at 0 would be NaN


def _register(name: str, rule: Callable[..., Interval], enclosure: Callable[..., Enclosure]) -> None:
    _interval.register_whole(name, rule)
    _enclosures.register_whole(name, enclosure)


def _of_gelu(tanh: bool, turn: float) -> tuple[Callable[..., Interval], Callable[..., Enclosure]]:
    function, lines = lambda x: jax.nn.gelu(x, approximate=tanh), nearly_relu(0.85, 8.0)
    return lambda x, **_: turning(turn)(function, x), lambda x, **_: lines(function, x)


_register("jax.nn.softmax", softmax, softmax_between)
_register("jax.nn.logsumexp", logsumexp, logsumexp_between)
_register("jnp.var", variance, variance_between)
_register("jax.nn.gelu", *_of_gelu(False, -0.7517915))
_register("jax.nn.gelu, approximate", *_of_gelu(True, -0.7524614))
