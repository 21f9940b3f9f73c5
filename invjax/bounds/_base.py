"""What is known about an input, and what follows for the decision.

A region says where the input of one example may lie; it carries the batch axis first, like images. `Interval` is a box,
and also what bounds of any value are. `Ball` is an l2 ball. Both are clipped to the range of pixels, which costs
nothing: no image lies outside.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from invjax import _check
from invjax.types import Array, Box, PerExample, Scalar


class Interval(NamedTuple):
    """Values between two arrays of one shape, ends included: `lower <= value <= upper`."""

    lower: Shaped[Array, "..."]
    upper: Shaped[Array, "..."]


class Ball(NamedTuple):
    """All points of a box that are at most `radius` away from `center` in l2.

    Attributes:
        center: `[B, ...]`.
        radius: `[B]`.
        box: in which the points also lie, `[B, ...]`.
    """

    center: Float[Array, "batch ..."]
    radius: PerExample
    box: Interval


Region = Interval | Ball

Margins = Float[Array, "batch others"]
"""The label's logit minus that of each other class, in the order of the classes: `[B, K - 1]`."""


def linf_box(x: Array, eps: Scalar | Array, *, box: Box = (0.0, 1.0)) -> Interval:
    """All images that differ from `x` by at most `eps` at each value, `[B, ...]`.

    >>> linf_box(jnp.array([[0.25, 1.0]]), 0.5).lower.tolist()
    [[0.0, 0.5]]

    Args:
        x: images, `[B, ...]`.
        eps: the radius, one number.
        box: the range of pixels; infinite for what has none.

    Raises:
        ValueError: integer or NaN images or images outside of `box`; an `eps` that is negative, NaN or an array.
    """
    _check.within("x", x, box)
    _check.number("eps", eps)
    x = jnp.asarray(x)
    eps = jnp.asarray(eps, x.dtype)
    return Interval(jnp.clip(x - eps, *box), jnp.clip(x + eps, *box))


def l2_ball(x: Array, eps: Scalar | Array, *, box: Box = (0.0, 1.0)) -> Ball:
    """All images at most `eps` away from `x` in l2.

    >>> l2_ball(jnp.array([[0.25, 1.0]]), 0.5).radius.tolist()
    [0.5]

    Args:
        x: images, `[B, ...]`.
        eps: the radius, one number.
        box: the range of pixels; infinite for what has none.

    Raises:
        ValueError: as `linf_box`.
    """
    around = linf_box(x, eps, box=box)
    x = jnp.asarray(x)
    return Ball(x, jnp.full(len(x), jnp.asarray(eps, x.dtype)), around)


def certified(margins: Margins, *, slack: float = 1e-4) -> Bool[Array, " batch"]:
    """Where the label wins against every other class, whatever the input in the region.

    Bounds are computed with ordinary rounding, not outward. The float32 bounds of this library's networks differ from
    the same bounds in float64 by less than 1e-5 of the largest logit or bound (`tests/contracts/test_bounds.py`), so a
    margin counts if it exceeds `slack`, which is enough for logits and bounds up to 10. A NaN certifies nothing.

    >>> certified(jnp.array([[0.5, 0.1], [0.5, -0.1]])).tolist()
    [True, False]

    Args:
        margins: `[B, K - 1]`, lower bounds of the label's logit minus each other's, from `margins`.
        slack: for rounding, in units of the logits, not negative.
    """
    _check.number("slack", slack)
    return (jnp.asarray(margins) > slack).all(-1)


def check_region(region: Region) -> None:
    """A box with ends in order, and a ball with a radius.

    Raises:
        ValueError: integer or NaN bounds, a lower bound above its upper bound, arrays of different shapes, a negative
            or NaN radius.
    """
    lower, upper = region.box if isinstance(region, Ball) else region
    for name, end in (("lower", lower), ("upper", upper)):
        _check.floating(name, end)
        _check.finite(name, end)
    if lower.shape != upper.shape or lower.dtype != upper.dtype:
        raise ValueError(
            f"lower and upper must be of one shape and dtype; got {lower.shape} {lower.dtype} and {upper.shape} "
            f"{upper.dtype}; broadcast or convert them first"
        )
    _check_order(lower, upper, "lower", "upper", "swap them, or build the box by linf_box")
    if isinstance(region, Ball):
        if region.center.shape != lower.shape or region.radius.shape != lower.shape[:1]:
            raise ValueError(
                f"a ball needs a center of {lower.shape}, like its box, and one radius an example; got "
                f"{region.center.shape} and {region.radius.shape}; use l2_ball"
            )
        _check.finite("center", region.center)
        _check_order(np.zeros(region.radius.shape), region.radius, "0", "radius", "use l2_ball")


def _check_order(low, high, low_name, high_name, fix):
    if isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer):
        return
    wrong = int((~(np.asarray(low) <= np.asarray(high))).sum())  # a NaN is in no order
    if wrong:
        raise ValueError(f"{low_name} must not be above {high_name}; it is in {wrong} of {np.size(high)} values; {fix}")
