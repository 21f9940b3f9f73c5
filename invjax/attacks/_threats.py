r"""What an adversary may do to one image: stay within a distance `eps` of it, and inside the range of pixel values.

A `Threat` is the geometry of one example; attacks map it over a batch. With a box of pixel values `[low, high]`,

    ball(x, eps) = {z : distance(z, x) <= eps} intersected with [low, high]^D.

`eps` may be a traced number. With `eps = 0` every projection returns `x` itself.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from invjax.types import Array, Box, Key, Scalar

Example = Float[Array, "..."]


class Threat(NamedTuple):
    """The geometry of one example, without a batch axis.

    Attributes:
        sample: `(key, x, eps) -> z`, a random point of the ball.
        ascent: `(gradient, z, eps) -> step`: a direction of ascent at the point z, of length 1 in the threat's norm
            (the steepest in linf and l2; l0 has a scale of its own); l1 and l0 spend nothing on coordinates that are
            stuck at the box.
        project: `(z, x, eps) -> z`: into the ball.
        distance: `(z, x) -> scalar`, in the units of `eps`.
        box: the range of pixel values, `(low, high)`.
        name: "linf", "l2", "l1" or "l0".
    """

    sample: Callable[[Key, Example, Scalar], Example]
    ascent: Callable[[Example, Example, Scalar], Example]
    project: Callable[[Example, Example, Scalar], Example]
    distance: Callable[[Example, Example], Float[Array, ""]]
    box: Box
    name: str


def _check_box(box: Box) -> Box:
    low, high = box
    if not low < high:
        raise ValueError(f"box must be (low, high) with low < high; got {box}; pixel values lie in (0.0, 1.0)")
    return box


def _draw(distribution, key, shape, dtype, *arguments):
    """Random values: as one axis, since the counters of several take XLA most of a second to compile."""
    return distribution(key, (math.prod(shape),), dtype, *arguments).reshape(shape)


def _norm(x):
    return jnp.sqrt((x**2).sum())


def _movable(gradient, z, box):
    """The gradient without what pushes a coordinate out of the box."""
    stuck = ((z <= box[0]) & (gradient < 0)) | ((z >= box[1]) & (gradient > 0))
    return jnp.where(stuck, 0, gradient)


def linf(box: Box = (0.0, 1.0)) -> Threat:
    """Every value may change by at most `eps`.

    >>> linf().project(jnp.array([0.9, 0.2]), jnp.array([0.5, 0.1]), 0.25).tolist()
    [0.75, 0.20000000298023224]

    Args:
        box: the range of pixel values; `(-inf, inf)` for none.
    """
    box = _check_box(box)

    def project(z, x, eps):
        return jnp.clip(jnp.clip(z, x - eps, x + eps), *box)

    return Threat(
        lambda key, x, eps: project(x + eps * _draw(jax.random.uniform, key, x.shape, x.dtype, -1, 1), x, eps),
        lambda gradient, z, eps: jnp.sign(gradient),
        project,
        lambda z, x: jnp.abs(z - x).max(),
        box,
        "linf",
    )


def l2(box: Box = (0.0, 1.0)) -> Threat:
    """The Euclidean length of the change is at most `eps`.

    The projection scales the change and then clips to the box, which makes it shorter still: a point of the ball, and
    the nearest one where nothing is clipped.

    Args:
        box: the range of pixel values; `(-inf, inf)` for none.
    """
    box = _check_box(box)

    def project(z, x, eps):
        length = _norm(z - x)
        return jnp.clip(x + (z - x) * jnp.minimum(1, eps / jnp.where(length > 0, length, 1)), *box)

    def sample(key, x, eps):
        direction_key, radius_key = jax.random.split(key)
        direction = _draw(jax.random.normal, direction_key, x.shape, x.dtype)
        radius = eps * jax.random.uniform(radius_key, (), x.dtype) ** (1 / x.size)
        return project(x + radius * direction / _norm(direction), x, eps)

    def ascent(gradient, z, eps):
        # by the largest entry first: squares of small numbers underflow
        largest = jnp.abs(gradient).max()
        scaled = gradient / jnp.where(largest > 0, largest, 1)
        return scaled / jnp.maximum(_norm(scaled), 1e-12)

    return Threat(sample, ascent, project, lambda z, x: _norm(z - x), box, "l2")


def l1(box: Box = (0.0, 1.0), fraction: float = 0.01) -> Threat:
    r"""The absolute changes sum to at most `eps`.

    `project` is the exact Euclidean projection onto the intersection of ball and box. With `d = z - x` and `c` how far
    each coordinate can go before it hits the box, its solution is `sign(d) min(max(|d| - t, 0), c)` with the `t >= 0`
    for which the absolute values sum to `eps`: one number, found by Newton's method on a piecewise linear function
    instead of by sorting.

    `ascent` spreads its step evenly over the `fraction` share of coordinates with the largest gradient among those not
    stuck at the box. Source: Tramèr & Boneh 2019 (the sparse l1 descent attack), Croce & Hein 2021 (the projection).

    >>> free = l1(box=(-jnp.inf, jnp.inf))
    >>> free.project(jnp.array([3.0, -2.0, 1.0, 0.5]), jnp.zeros(4), 2.0).tolist()
    [1.5, -0.5, 0.0, 0.0]

    Args:
        box: the range of pixel values; `(-inf, inf)` for none.
        fraction: fraction of the coordinates that a step moves, in (0, 1].
    """
    box = _check_box(box)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1]; got {fraction}")

    def project(z, x, eps):
        change = z - x
        size, cap = jnp.abs(change), jnp.where(change > 0, box[1] - x, x - box[0])
        threshold = _l1_threshold(size, cap, eps)
        moved = x + jnp.sign(change) * jnp.clip(size - threshold, 0, cap)
        return jnp.where(eps > 0, jnp.clip(moved, *box), x)  # the clip is for rounding errors

    def sample(key, x, eps):
        direction_key, radius_key = jax.random.split(key)
        direction = _draw(jax.random.laplace, direction_key, x.shape, x.dtype)
        radius = eps * jax.random.uniform(radius_key, (), x.dtype) ** (1 / x.size)
        return project(x + radius * direction / jnp.abs(direction).sum(), x, eps)

    def ascent(gradient, z, eps):
        count = max(1, round(fraction * gradient.size))
        return _top_signs(_movable(gradient, z, box), count)

    return Threat(sample, ascent, project, lambda z, x: jnp.abs(z - x).sum(), box, "l1")


def _top_signs(gradient, count):
    """The signs of the `count` largest entries, divided by their number."""
    size = jnp.abs(gradient)
    smallest = jax.lax.top_k(size.ravel(), count)[0][-1]
    chosen = jnp.where((size >= smallest) & (size > 0), jnp.sign(gradient), 0)
    return chosen / jnp.maximum(jnp.abs(chosen).sum(), 1)


def _l1_threshold(size, cap, eps):
    """The `t >= 0` with `sum min(max(size - t, 0), cap) = eps`; 0 where the sum is below `eps` already."""
    # without the caps the sum is convex in t, and Newton from the left never overshoots
    zero, largest = jnp.zeros((), size.dtype), size.max()
    ball = newton(lambda t: (jnp.maximum(size - t, 0).sum() - eps, -(size > t).sum()), zero, largest, zero, eps, True)

    def excess(t):
        rest = jnp.maximum(size - t, 0)
        return jnp.minimum(rest, cap).sum() - eps, -((rest > 0) & (rest < cap)).sum()

    start = jnp.where(jnp.minimum(size, cap).sum() > eps, ball, zero)  # the box alone may be enough
    return newton(excess, zero, start, start, eps)


def newton(function, low, high, start, scale, convex=False):
    """A zero of a decreasing, piecewise linear function: Newton's step, or the midpoint where that leaves the bracket.

    On the piece that holds the zero Newton's step is exact. Every third step is the midpoint, so that the bracket is
    bound to shrink; a convex function has no need of that, since Newton's steps from the left never pass its zero.

    Args:
        function: `t -> (value, slope)`.
        low: where the value is not negative; at least 0.
        high: where it is not positive.
        start: in between; the nearer, the fewer steps.
        scale: the value counts as zero when it is a few rounding errors of this, or of t at the present slope.
        convex: the function is convex, and `start` is `low`.
    """
    rounding = jnp.finfo(high.dtype).eps

    def evaluate(t):
        value, slope = function(t)
        return value.astype(high.dtype), slope.astype(high.dtype)

    def step(state):
        t, low, high, value, slope, i = state
        low, high = jnp.where(value > 0, t, low), jnp.where(value > 0, high, t)
        straight = t - value / jnp.where(slope < 0, slope, 1)
        inside = (slope < 0) & (low <= straight) & (straight <= high) & (convex | (i % 3 != 2))
        t = jnp.where(inside, straight, (low + high) / 2)
        return t, low, high, *evaluate(t), i + 1

    def unfinished(state):
        t, low, high, value, slope, i = state
        # 95, so that the last step is not a midpoint
        unsolved = jnp.abs(value) > rounding * (4 * scale - slope * t)
        return unsolved & (low < high) & (i < 95) & ((slope < 0) | (not convex))

    return jax.lax.while_loop(unfinished, step, (start, low, high, *evaluate(start), 0))[0]


def l0(box: Box = (0.0, 1.0)) -> Threat:
    """At most `eps` pixels may change, each in all of its channels.

    `project` clips to the box and keeps the `eps` pixels whose change brings the result nearest to `z`: the exact
    projection. An example is `[..., C]`, a pixel is a position. Source: Croce & Hein 2019, *Sparse and Imperceivable
    Adversarial Attacks*, section 3. The ascent step is ours: a step of length s moves each of the `eps` most promising
    pixels by `40 s / eps` of the range. In the projection pixels compete by how far they have moved, so a newcomer has
    to move all the way at once: with smaller steps the pixels of a random start are never replaced.

    Args:
        box: the range of pixel values; finite.
    """
    low, high = _check_box(box)
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(f"l0 needs a finite box, or a pixel could take any value; got {box}")

    def top_pixels(score, eps):
        order = jnp.argsort(-score.ravel(), stable=True)
        rank = jnp.zeros(score.size, jnp.int32).at[order].set(jnp.arange(score.size, dtype=jnp.int32))
        # as integers: a radius between two counts is the lower one, and bfloat16 has no 257
        count = jnp.floor(jnp.minimum(eps, score.size)).astype(jnp.int32)
        return (rank < count).reshape(*score.shape, 1) & (score > 0)[..., None]

    def project(z, x, eps):
        inside = jnp.clip(z, low, high)
        gain = ((z - x) ** 2 - (z - inside) ** 2).sum(-1)
        return jnp.where(top_pixels(gain, eps), inside, x)

    def sample(key, x, eps):
        pixel_key, value_key = jax.random.split(key)
        chosen = top_pixels(_draw(jax.random.uniform, pixel_key, x.shape[:-1], x.dtype, 1e-3), eps)
        return jnp.where(chosen, _draw(jax.random.uniform, value_key, x.shape, x.dtype, low, high), x)

    def ascent(gradient, z, eps):
        gradient = _movable(gradient, z, box)
        moved = jnp.where(top_pixels(jnp.abs(gradient).sum(-1), eps), jnp.sign(gradient), 0)
        return moved * (high - low) * 40 / jnp.maximum(eps, 1)

    def distance(z, x):
        return (z != x).any(-1).sum().astype(x.dtype)

    return Threat(sample, ascent, project, distance, box, "l0")
