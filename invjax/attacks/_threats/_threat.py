r"""The set of images that an adversary may choose: within a distance `eps` and inside the range of pixel values.

A `Threat` describes this set for one example; attacks map it over a batch. With a box of pixel values `[low, high]`,

    ball(x, eps) = {z : distance(z, x) <= eps} intersected with [low, high]^D.

`eps` may be a traced number. With `eps = 0` every projection returns `x` itself.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from invjax.attacks._roots import newton
from invjax.types import Array, Box, Key, Scalar

Example = Float[Array, "..."]


class Threat(NamedTuple):
    """A distance and a range of pixel values, as functions of one example without a batch axis.

    The first six fields are enough for `pgd`, `fgsm` and all combinators. Auto-PGD, Square and FAB also need some of
    the last three, and refuse a threat that lacks one of them.

    Attributes:
        sample: `(key, x, eps) -> z`, a random point of the ball.
        ascent: `(gradient, z, eps) -> step`, a direction of ascent at the point z, of length 1 in the threat's norm
            (the steepest one in linf and l2; l0 has a scale of its own). In l1 and l0 the step moves no coordinate
            that would leave the box.
        project: `(z, x, eps) -> z`, a projection into the ball.
        distance: `(z, x) -> scalar`, in the units of `eps`.
        box: the range of pixel values, `(low, high)`.
        name: the name of the threat in recipes, results and `THREATS`, such as "linf".
        order: the p of an lp norm, `jnp.inf` for linf; None where the distance is not a norm. Auto-PGD and Square
            need it.
        sparse: whether the best steps move few coordinates; Auto-PGD then uses its l1 version.
        to_hyperplane: `(point [D], normal [D], offset) -> step [D]`, the shortest step from the point to the hyperplane
            `normal . z = offset` inside the box; None where it is not implemented. FAB needs it.
        counts: whether `eps` is a number of pixels, so that a radius between 0 and 1 is a mistake.
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


def check_box(box: Box) -> Box:
    """Check that the box is not empty, and return it.

    Raises:
        ValueError: `low` is not below `high`.
    """
    low, high = box
    if not low < high:
        raise ValueError(f"box must be (low, high) with low < high; got {box}; pixel values usually lie in (0.0, 1.0)")
    return box


def draw(distribution, key, shape, dtype, *arguments):
    """Draw random values along one axis and reshape them, because XLA compiles draws of several axes slowly."""
    return distribution(key, (math.prod(shape),), dtype, *arguments).reshape(shape)


def movable(gradient, z, box):
    """The gradient with 0 for each coordinate that is at the edge of the box and would leave it."""
    stuck = ((z <= box[0]) & (gradient < 0)) | ((z >= box[1]) & (gradient > 0))
    return jnp.where(stuck, 0, gradient)


class Descent(NamedTuple):
    """The step from a point to a hyperplane, `normal . (point + step) = offset`, coordinate by coordinate.

    Attributes:
        missing: the amount by which the product with the normal has to fall, at least 0.
        slope: the fall of the product for each unit of a coordinate's change, at least 0.
        cap: the largest change of each coordinate inside the box. The cap is 0 where the slope is 0, because an
            infinite box would give `0 * inf`.
        direction: the sign of each coordinate's change.
    """

    missing: Array
    slope: Array
    cap: Array
    direction: Array

    def step(self, size: Array) -> Array:
        """The step of these sizes, or the step to the nearest corner if the box does not reach the hyperplane."""
        reachable = (self.slope * self.cap).sum() > self.missing
        return jnp.where(reachable, size, self.cap) * self.direction

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
    """Prepare the step from a point `[D]` inside the box to the hyperplane `normal . z = offset`."""
    missing = (normal * point).sum() - offset
    normal, missing = normal * jnp.sign(missing), jnp.abs(missing)  # so that the step lowers the product
    slope = jnp.abs(normal)
    cap = jnp.where(slope > 0, jnp.where(normal > 0, point - box[0], box[1] - point), 0)
    return Descent(missing, slope, cap, -jnp.sign(normal))
