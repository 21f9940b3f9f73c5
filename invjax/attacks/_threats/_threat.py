r"""The set of images that an adversary may choose: within a distance `eps` and inside the range of pixel values.

A `Threat` describes this set for one example; attacks map it over a batch. With a box of pixel values `[low, high]`,

    ball(x, eps) = {z : distance(z, x) <= eps} intersected with [low, high]^D.

The ends of the box are numbers, or arrays with a value for each feature. `eps` may be a traced number. With `eps = 0`
every projection returns `x` itself.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from invjax import _box, _check
from invjax.attacks._roots import newton
from invjax.types import Array, Box, Key, Scalar

Example = Float[Array, "..."]


class Threat(NamedTuple):
    """A distance and a range of pixel values, as functions of one example without a batch axis.

    The first six fields are enough for `pgd`, `fgsm` and all combinators. Auto-PGD, Square and FAB also need `order` or
    `to_hyperplane`, and refuse a threat that lacks one of them. Every image that an attack returns is the image itself
    or comes from `project`, so a threat with another projection keeps all attacks in its own region:

        gray = attacks.l2()._replace(name="gray", project=lambda z, x, eps: ...)

    Attributes:
        sample: `(key, x, eps) -> z`, a random point of the ball.
        ascent: `(gradient, z, eps) -> step`, a direction of ascent at the point z, of length 1 in the threat's norm
            (the steepest one in linf and l2; l0 has a scale of its own). In l1 and l0 the step moves no coordinate
            that would leave the box.
        project: `(z, x, eps) -> z`, a projection into the ball. FAB calls it with `eps = math.inf`, which leaves the
            box and every other limit that does not depend on the radius.
        distance: `(z, x) -> scalar`, in the units of `eps`.
        box: the range of pixel values, `(low, high)`: numbers, or arrays that broadcast against one example.
        name: the name of the threat in recipes, results and `THREATS`, such as "linf".
        order: the p of an lp norm, `jnp.inf` for linf; None where the distance is not a norm. Auto-PGD and Square
            need it.
        sparse: whether the best steps move few coordinates; Auto-PGD then uses its l1 version.
        to_hyperplane: `(point, normal, offset) -> step`, the shortest step from the point to the hyperplane
            `(normal * z).sum() = offset` inside the box, all of the shape of an example; None where it is not
            implemented. FAB needs it.
        counts: whether `eps` is a number of pixels, so that a radius between 0 and 1 is a mistake.
        mask: the values that may change, boolean, from `masked`; None allows all. With `for_image` the first axis is
            that of the data set.
        for_image: `id -> Threat`, the threat of the image at this position of the data set; None if the threat is the
            same for all images. Attacks then take every function from the threat of the image.
    """

    sample: Callable[[Key, Example, Scalar], Example]
    ascent: Callable[[Example, Example, Scalar], Example]
    project: Callable[[Example, Example, Scalar], Example]
    distance: Callable[[Example, Example], Float[Array, ""]]
    box: Box
    name: str
    order: float | int | None = None
    sparse: bool = False
    to_hyperplane: Callable | None = None
    counts: bool = False
    mask: Bool[Array, "..."] | None = None
    for_image: Callable[[Any], Any] | None = None

    # a box and a mask may hold arrays, which have no hash and no single truth value
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Threat) and all(map(_box.same, self, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.sample, self.ascent, self.project, self.distance, self.name))


def check_box(box: Box) -> Box:
    """Check that the box is not empty, and return it, with arrays on the host.

    Raises:
        ValueError: `low` is not below `high`. Where they are arrays: they do not broadcast against each other, `low` is
            above `high` for some feature, or no feature has any room.
    """
    low, high = box
    if not (_check.concrete(low) and _check.concrete(high)):
        return box
    if not _box.is_uniform(box):
        return _check_ranges(*(end if np.ndim(end) == 0 else np.asarray(end) for end in box))
    if not low < high:
        raise ValueError(f"box must be (low, high) with low < high; got {box}; pixel values usually lie in (0.0, 1.0)")
    return box


def _check_ranges(low: Any, high: Any) -> Box:
    shapes = np.shape(low), np.shape(high)
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"the ends of the box must have one shape; got {shapes[0]} and {shapes[1]}") from None
    if not np.less_equal(low, high).all():  # also false for NaN
        wrong = int((~np.less_equal(low, high)).sum())
        raise ValueError(
            f"box must have low <= high for every feature; got {wrong} features where low is above high or NaN; swap "
            "their ends"
        )
    if not np.less(low, high).any():
        raise ValueError("box must have low < high for some feature; got low equal to high everywhere")
    return low, high


def unlimited(eps: Scalar) -> bool:
    """Whether the radius is the number infinity, so that the box alone limits a projection."""
    return isinstance(eps, float) and eps == math.inf


def draw(distribution, key, shape, dtype, *arguments):
    """Draw random values along one axis and reshape them, because XLA compiles draws of several axes slowly."""
    flat = (a if np.ndim(a) == 0 else jnp.broadcast_to(a, shape).ravel() for a in arguments)
    return distribution(key, (math.prod(shape),), dtype, *flat).reshape(shape)


def movable(gradient, z, box):
    """The gradient with 0 for each coordinate that is at the edge of the box and would leave it."""
    low, high = _box.ends(box, z)
    stuck = ((z <= low) & (gradient < 0)) | ((z >= high) & (gradient > 0))
    return jnp.where(stuck, 0, gradient)


class Descent(NamedTuple):
    """The step from a point to a hyperplane, `normal . (point + step) = offset`, coordinate by coordinate.

    Points and normals are raveled, `[D]`, and the step has the shape of the example.

    Attributes:
        missing: the amount by which the product with the normal has to fall, at least 0.
        slope: the fall of the product for each unit of a coordinate's change, at least 0.
        cap: the largest change of each coordinate inside the box. The cap is 0 where the slope is 0, because an
            infinite box would give `0 * inf`.
        direction: the sign of each coordinate's change.
        shape: the shape of the example.
    """

    missing: Array
    slope: Array
    cap: Array
    direction: Array
    shape: tuple[int, ...]

    def step(self, size: Array) -> Array:
        """The step of these sizes, or the step to the nearest corner if the box does not reach the hyperplane."""
        reachable = (self.slope * self.cap).sum() > self.missing
        return (jnp.where(reachable, size, self.cap) * self.direction).reshape(self.shape)

    def along(self, rates: Array) -> Array:
        """The step in which each coordinate changes at its own rate until it reaches its cap."""

        def rest(t):
            value = self.missing - (self.slope * jnp.minimum(t * rates, self.cap)).sum()
            return value, -jnp.where(t * rates < self.cap, self.slope * rates, 0).sum()

        zero = jnp.zeros((), self.slope.dtype)
        all_capped = (self.cap / jnp.where(rates > 0, rates, 1)).max()
        time = newton(rest, zero, all_capped, zero, self.missing, True)
        return self.step(jnp.minimum(time * rates, self.cap))


def descent(point: Array, normal: Array, offset: Scalar, box: Box) -> Descent:
    """Prepare the step from a point inside the box to the hyperplane `(normal * z).sum() = offset`."""
    shape = point.shape
    ends = _box.ends(box, point)
    low, high = (end if np.ndim(end) == 0 else jnp.broadcast_to(end, shape).ravel() for end in ends)
    point, normal = point.ravel(), normal.ravel()
    missing = (normal * point).sum() - offset
    normal, missing = normal * jnp.sign(missing), jnp.abs(missing)  # so that the step lowers the product
    slope = jnp.abs(normal)
    cap = jnp.where(slope > 0, jnp.where(normal > 0, point - low, high - point), 0)
    return Descent(missing, slope, cap, -jnp.sign(normal), shape)
