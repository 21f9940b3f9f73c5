"""Root finding for the projections: zeros of decreasing, piecewise linear functions, found without sorting."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from invjax._sharding import varying
from invjax.types import Array, Scalar


def newton(
    function: Callable, low: Array, high: Array, start: Array, scale: Scalar, convex: bool = False
) -> Float[Array, ""]:
    """A zero of a decreasing, piecewise linear function, by Newton's method inside a bracket.

    Newton's step is exact on the linear piece that holds the zero. The midpoint replaces every step that leaves the
    bracket, and also every third step, so that the bracket shrinks. A convex function needs no
    midpoints, because Newton's steps from the left never pass its zero.

    Args:
        function: `t -> (value, slope)`.
        low: lower end of the bracket, at least 0; the value there is not negative.
        high: upper end of the bracket; the value there is not positive.
        start: first point, inside the bracket.
        scale: size of the terms that sum to the value. The value counts as zero within a few rounding errors of `scale`
            and of `slope * t`.
        convex: whether the function is convex and `start` is `low`.

    Returns:
        The zero, a scalar.
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
        unsolved = jnp.abs(value) > rounding * (4 * scale - slope * t)
        # the last step, i = 94, is a Newton step and not a midpoint
        return unsolved & (low < high) & (i < 95) & ((slope < 0) | (not convex))

    value, slope = evaluate(start)
    first = varying(value, (start, low, high, value, slope))
    return jax.lax.while_loop(unfinished, step, (*first, 0))[0]


def l1_threshold(size: Array, cap: Array, eps: Scalar) -> Float[Array, ""]:
    """The threshold of the l1 projection: the `t >= 0` with `sum min(max(size - t, 0), cap) = eps`.

    Args:
        size: absolute value of each coordinate's change.
        cap: largest change that the box allows each coordinate.
        eps: radius of the ball.

    Returns:
        The threshold, a scalar; 0 where the sum at `t = 0` is below `eps` already.
    """
    # without the caps the sum is convex in t, and Newton's method from the left never overshoots
    zero, largest = jnp.zeros((), size.dtype), size.max()
    ball = newton(lambda t: (jnp.maximum(size - t, 0).sum() - eps, -(size > t).sum()), zero, largest, zero, eps, True)

    def excess(t):
        rest = jnp.maximum(size - t, 0)
        return jnp.minimum(rest, cap).sum() - eps, -((rest > 0) & (rest < cap)).sum()

    start = jnp.where(jnp.minimum(size, cap).sum() > eps, ball, zero)  # the box alone may keep the sum below eps
    return newton(excess, zero, start, start, eps)
