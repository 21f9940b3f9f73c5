r"""Bounds of normalizations, `y_i = d_i h(S)` with `S = sum_j d_j^2`, which `_normalizations` finds.

Let n be the number of values of a group, c the center of a box, r its radii, and d(c) the deviations in the center.

- `S <= sum_j (|d_j(c)| + r_j)^2`, because the mean is the point with the smallest sum of squared distances.
- `S >= 2 <p, x> - |p|^2` for every p of mean 0, because the squared length of d - p is not negative. If p consists of
  the deviations of the points that are next to a common value t, some t between the least upper and the largest lower
  end gives the minimum of S.
- `S = S(c) + 2 <d(c), x - c> + q`, where q is at least 0 and at most the squared length of the radii.
- `S >= k d_i^2`, where k is `n / (n - 1)` for deviations from the mean, since the others sum to -d_i, and 1 otherwise.
  Hence `|y_i| <= |d_i| h(max(S, k d_i^2))`, which increases with |d_i|, because `-S h'(S)` is at most `h(S) / 2`.
- `d_i h(S) = a h(S) + b d_i - a b + (d_i - a) (h(S) - b)`, where the last product is at most that of the largest
  factors. Between two points, h is convex: it lies above its tangent, and furthest above it at one of the points.
"""

import math

import jax
import jax.numpy as jnp

from invjax.bounds import _enclosures, _interval
from invjax.bounds._enclosures import Between, Enclosure, Exact
from invjax.bounds._normalizations import DEVIATIONS, NAME, SQUARES, Divisor
from invjax.bounds._normalizations import deviations as deviations_of
from invjax.bounds._regions import Interval
from invjax.types import Array

Axes = tuple[int, ...]


def deviations(x: Interval, axes: Axes) -> Interval:
    """The exact interval of the deviations from the mean."""
    low, high = x
    middle, radius = low / 2 + high / 2, high / 2 - low / 2
    change = radius + (radius.sum(axes, keepdims=True) - 2 * radius) / _count(low, axes)
    center = deviations_of(middle, axes)
    return Interval(center - change, center + change)


def deviations_enclosure(x: Interval, axes: Axes) -> Enclosure:
    """The deviations are linear."""
    return Exact(lambda v: deviations_of(v, axes), has_offset=False)


def squares(x: Interval, axes: Axes, centered: bool) -> Interval:
    """An interval of the sum of squares; it is exact below, and above if the center is the mean of the group."""
    low, high = x
    total = jnp.square(jnp.maximum(jnp.abs(low), jnp.abs(high))).sum(axes, keepdims=True)
    finite = jnp.isfinite(total)  # where a square overflows, a difference of squares may be NaN
    low, high = (jnp.where(finite, end, 0) for end in (low, high))
    if centered:
        mean = (low / 2 + high / 2).mean(axes, keepdims=True)
        low, high = low - mean, high - mean
        total = jnp.square(jnp.maximum(jnp.abs(low), jnp.abs(high))).sum(axes, keepdims=True)
        least = _least_deviations(low, high, axes)
    else:
        least = jnp.square(jnp.maximum(jnp.maximum(low, -high), 0)).sum(axes, keepdims=True)
    return Interval(jnp.where(finite, least, 0), jnp.where(finite, total, jnp.inf))


def _least_deviations(low: Array, high: Array, axes: Axes) -> Array:
    """A lower bound of the sum of squared deviations from the mean; bisection finds the best common value."""
    fixed_low, fixed_high = jax.lax.stop_gradient((low, high))
    sums = lambda v: v.sum(axes, keepdims=True)  # noqa: E731

    def halved(_, ends):
        middle = ends[0] / 2 + ends[1] / 2
        beyond = sums(jnp.clip(middle, fixed_low, fixed_high) - middle) > 0
        return jnp.where(beyond, middle, ends[0]), jnp.where(beyond, ends[1], middle)

    between = high.min(axes, keepdims=True), low.max(axes, keepdims=True)
    first, last = jax.lax.fori_loop(0, _BISECTIONS, halved, jax.lax.stop_gradient(between))
    point = deviations_of(jnp.clip(first / 2 + last / 2, fixed_low, fixed_high), axes)
    return jnp.maximum(sums(2 * jnp.minimum(point * low, point * high) - jnp.square(point)), 0)


_BISECTIONS = 12


def squares_between(x: Interval, axes: Axes, centered: bool) -> Enclosure:
    """The tangent in the center, and the tangent raised by the squared length of the radii."""
    middle, radius = x.lower / 2 + x.upper / 2, x.upper / 2 - x.lower / 2
    center = deviations_of(middle, axes) if centered else middle

    total = jnp.square(jnp.maximum(jnp.abs(x.lower), jnp.abs(x.upper))).sum(axes, keepdims=True)
    nothing = jnp.where(jnp.isfinite(total), 0, jnp.nan)  # a square may overflow

    def tangent(v, rise):
        return (center * (2 * (v - middle) + center) + rise).sum(axes, keepdims=True) + nothing

    return Between(lambda v: tangent(v, 0), lambda v: tangent(v, jnp.square(radius)))


def normalization(d: Interval, s: Interval, shape: tuple[int, ...], h: Divisor, least: float) -> Interval:
    """An interval of `d h(S)`, unbounded where S may overflow or h may be infinite."""
    known = jnp.isfinite(s.upper) & (s.lower >= h.finite_from)
    low, high = (jnp.where(known, end, 1) for end in s)

    def upper(d):
        of_s = h.function(jnp.where(d > 0, jnp.maximum(low, least * jnp.square(d)), high))
        return jnp.where(known, d * of_s, jnp.inf).reshape(shape)

    return Interval(-upper(-d.lower), upper(d.upper))


def normalization_between(d: Interval, s: Interval, shape: tuple[int, ...], h: Divisor, least: float) -> Enclosure:
    """Parallel planes, and the interval where S varies by more than a factor of 4.

    The choice depends on exact comparisons only, because XLA may compute a number twice and round it in two ways.
    """
    usable = (s.lower >= h.smooth_from) & (s.upper <= 4 * jnp.maximum(s.lower, h.scale))
    known = normalization(d, s, d.lower.shape, h, least)
    (d_low, d_high), (s_low, s_high) = (
        (jnp.where(usable, end, 1) for end in d),
        (jnp.where(usable, end, 1) for end in s),
    )
    a, radius, at = d_low / 2 + d_high / 2, d_high / 2 - d_low / 2, s_low / 2 + s_high / 2
    value, slope = jax.jvp(h.function, (at,), (jnp.ones_like(at),))
    at_low, at_high = h.function(s_low), h.function(s_high)
    bend = jnp.maximum(at_low - value - slope * (s_low - at), at_high - value - slope * (s_high - at))
    b, rest = at_low / 2 + at_high / 2, radius * (at_low / 2 - at_high / 2)
    slopes = [jnp.where(usable, part, 0) for part in (b, a * slope)]

    def plane(rise, end):
        constant = jnp.where(usable, a * (value - slope * at - b) + rise, end)
        return lambda d, s: (slopes[0] * d + slopes[1] * s + constant).reshape(shape)

    return Between(
        plane(jnp.minimum(a * bend, 0) - rest, known.lower), plane(jnp.maximum(a * bend, 0) + rest, known.upper)
    )


def _count(x: Array, axes: Axes) -> int:
    return max(math.prod(x.shape[axis] for axis in axes), 1)


for _name, _rule, _enclosure in (
    (DEVIATIONS, deviations, deviations_enclosure),
    (SQUARES, squares, squares_between),
    (NAME, normalization, normalization_between),
):
    _interval.register_whole(_name, _rule)
    _enclosures.register_whole(_name, _enclosure)
