"""Regions of inputs: the sets of images for which a certificate holds.

A region contains one set for each example and carries the batch axis first, like images. `Interval` is a box; it also
holds the lower and upper bounds of any intermediate value. `Ball` is an l2 ball. Both are clipped to the range of
pixel values, which excludes no image.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Shaped

from invjax import _box, _check, _explain
from invjax._dtypes import wide, wide_dtype
from invjax.types import Array, Box, PerExample, Scalar


class Interval(NamedTuple):
    """All values between two arrays of the same shape, ends included: `lower <= value <= upper`.

    Attributes:
        lower: the smallest value of each entry, `[...]`.
        upper: the largest value of each entry, `[...]`.
    """

    lower: Shaped[Array, "..."]
    upper: Shaped[Array, "..."]


class Ball(NamedTuple):
    """All points of a box whose l2 distance from `center` is at most `radius`.

    Attributes:
        center: the centers, `[B, ...]`.
        radius: one radius for each example, `[B]`.
        box: the box that also contains the points, `[B, ...]`.
    """

    center: Float[Array, "batch ..."]
    radius: PerExample
    box: Interval


Region = Interval | Ball


def linf_box(x: Array, eps: Scalar | Array, *, box: Box = (0.0, 1.0)) -> Interval:
    """All images that differ from `x` by at most `eps` at each value.

    >>> linf_box(jnp.array([[0.25, 1.0]]), 0.5).lower.tolist()
    [[0.0, 0.5]]

    Args:
        x: images, `[B, ...]`.
        eps: the radius in the units of `x`, one number or one for each image, `[B]`.
        box: the range of pixel values; `(-inf, inf)` for inputs without a range. Arrays that broadcast against `x` give
            each value a range of its own, such as `(where(mask, 0, x), where(mask, 1, x))` for changes inside a mask.

    Returns:
        An `Interval` of the shape and dtype of `x`. In half precision its ends are rounded outward.

    Raises:
        ValueError: the images are integers, contain NaN or lie outside `box`; `eps` is negative, NaN or an
            array of another shape than `[B]`.
    """
    _check.within("x", x, box)
    _check.one_or_each("eps", eps, len(x))
    x = jnp.asarray(x)
    middle = wide(x)
    eps = jnp.asarray(eps, middle.dtype)
    eps = eps.reshape(eps.shape + (1,) * (x.ndim - 1)) if eps.ndim else eps
    low, high = _box.ends(box, middle)
    return Interval(
        _outward(jnp.clip(middle - eps, low, high), x.dtype, -jnp.inf),
        _outward(jnp.clip(middle + eps, low, high), x.dtype, jnp.inf),
    )


def l2_ball(x: Array, eps: Scalar | Array, *, box: Box = (0.0, 1.0)) -> Ball:
    """All images whose l2 distance from `x` is at most `eps`, which is rounded up in half precision.

    >>> l2_ball(jnp.array([[0.25, 1.0]]), 0.5).radius.tolist()
    [0.5]

    Args:
        x: images, `[B, ...]`.
        eps: the radius in the units of `x`, one number or one for each image, `[B]`.
        box: the range of pixel values; `(-inf, inf)` for inputs without a range. Arrays that broadcast against `x` give
            each value a range of its own, such as `(where(mask, 0, x), where(mask, 1, x))` for changes inside a mask.

    Returns:
        A `Ball` around each image.

    Raises:
        ValueError: as for `linf_box`.
    """
    around = linf_box(x, eps, box=box)
    x = jnp.asarray(x)
    radius = _outward(jnp.asarray(eps, wide_dtype(x.dtype)), x.dtype, jnp.inf)
    return Ball(x, jnp.full(len(x), radius), around)


def _outward(end: jax.Array, dtype: Any, away: float) -> jax.Array:
    """The end in a narrower dtype, rounded towards `away`; a radius below the spacing would vanish otherwise."""
    near = end.astype(dtype)
    if near.dtype == end.dtype:
        return end
    inside = (near.astype(end.dtype) < end) if away > 0 else (near.astype(end.dtype) > end)
    step = jnp.nextafter(near, jnp.asarray(away, dtype)) - near
    return near + jnp.where(inside, lax.stop_gradient(step), 0).astype(dtype)


def box_of(region: Region) -> Interval:
    """The smallest box known to contain the region."""
    return region.box if isinstance(region, Ball) else region


def check_region(region: Region) -> None:
    """Refuse a box whose ends are out of order and a ball without a valid radius.

    Raises:
        ValueError: the ends are integers or NaN, a lower end is above its upper end, the arrays have different shapes,
            or a radius is negative or NaN.
    """
    if not isinstance(region, Interval | Ball):
        raise ValueError(
            f"region must be an Interval or a Ball; got {_explain.described(region)}; use linf_box(x, eps)"
        )
    lower, upper = box_of(region)
    for name, end in (("lower", lower), ("upper", upper)):
        _check.floating(name, end)
        _check.finite(name, end)
    if lower.shape != upper.shape or lower.dtype != upper.dtype:
        raise ValueError(
            f"lower and upper must have the same shape and dtype; got {lower.shape} {lower.dtype} and {upper.shape} "
            f"{upper.dtype}; broadcast or convert them first"
        )
    _check_order(lower, upper, "lower", "upper", "swap them, or build the box with linf_box")
    if isinstance(region, Ball):
        if region.center.shape != lower.shape or region.radius.shape != lower.shape[:1]:
            raise ValueError(
                f"a ball needs a center of shape {lower.shape}, like its box, and one radius for each example; got "
                f"{region.center.shape} and {region.radius.shape}; use l2_ball"
            )
        _check.finite("center", region.center)
        _check_order(np.zeros(region.radius.shape), region.radius, "0", "radius", "use l2_ball")


def _check_order(low, high, low_name, high_name, fix):
    if isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer):
        return
    wrong = int((~(np.asarray(low) <= np.asarray(high))).sum())  # also counts NaN, which compares false
    if wrong:
        raise ValueError(
            f"{high_name} must be at least {low_name}; got {wrong} of {np.size(high)} values below it or NaN; {fix}"
        )
