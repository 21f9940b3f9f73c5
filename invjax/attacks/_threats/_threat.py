r"""What an adversary may do to one image: stay within a distance `eps` of it and inside the range of pixel values.

A `Threat` is the geometry of one example; attacks map it over a batch. With a box of pixel values `[low, high]`,

    ball(x, eps) = {z : distance(z, x) <= eps} intersected with [low, high]^D.

`eps` may be a traced number. With `eps = 0` every projection returns `x` itself.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from invjax.types import Array, Box, Key, Scalar

Example = Float[Array, "..."]


class Threat(NamedTuple):
    """The geometry of one example, without a batch axis.

    The first six fields are enough for `pgd`, `fgsm` and all combinators. The last three are what Auto-PGD, Square and
    FAB need; an attack refuses a threat that lacks its field.

    Attributes:
        sample: `(key, x, eps) -> z`, a random point of the ball.
        ascent: `(gradient, z, eps) -> step`, a direction of ascent at the point z, of length 1 in the threat's norm
            (the steepest one in linf and l2; l0 has a scale of its own). In l1 and l0 the step moves no coordinate
            that is stuck at the box.
        project: `(z, x, eps) -> z`, a projection into the ball.
        distance: `(z, x) -> scalar`, in the units of `eps`.
        box: the range of pixel values, `(low, high)`.
        name: the name of the threat in recipes and results, such as "linf"; its key in `THREATS`.
        order: the p of an lp norm, `jnp.inf` for linf; None where the distance is not a norm. Auto-PGD and Square
            need it.
        sparse: whether the best steps move few coordinates; Auto-PGD then uses its l1 version.
        to_hyperplane: `(point [D], normal [D], offset) -> step [D]`, the shortest step from the point to the hyperplane
            `normal . z = offset` inside the box; None where it is not implemented. FAB needs it.
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


def check_box(box: Box) -> Box:
    """Return the box.

    Raises:
        ValueError: `low` is not below `high`.
    """
    low, high = box
    if not low < high:
        raise ValueError(f"box must be (low, high) with low < high; got {box}; pixel values usually lie in (0.0, 1.0)")
    return box


def draw(distribution, key, shape, dtype, *arguments):
    """Random values of a shape, drawn along one axis: XLA compiles random numbers of several axes slowly."""
    return distribution(key, (math.prod(shape),), dtype, *arguments).reshape(shape)


def movable(gradient, z, box):
    """The gradient with 0 for each coordinate that is at the edge of the box and would leave it."""
    stuck = ((z <= box[0]) & (gradient < 0)) | ((z >= box[1]) & (gradient > 0))
    return jnp.where(stuck, 0, gradient)


class Descent(NamedTuple):
    """The way from a point to a hyperplane, `normal . (point + step) = offset`, coordinate by coordinate.

    Attributes:
        missing: how much the product with the normal has to fall, at least 0.
        slope: how much the product falls for each unit of a coordinate's change, at least 0.
        cap: how far each coordinate may go inside the box; 0 where the slope is 0, or an infinite box would give
            `0 * inf`.
        direction: the sign of each coordinate's change.
    """

    missing: Array
    slope: Array
    cap: Array
    direction: Array

    def step(self, size: Array) -> Array:
        """The step of these sizes, or the one to the nearest corner where the box does not reach the hyperplane."""
        reachable = (self.slope * self.cap).sum() > self.missing
        return jnp.where(reachable, size, self.cap) * self.direction


def descent(point: Array, normal: Array, offset: Scalar, box: Box) -> Descent:
    """The way from a point `[D]` inside the box to the hyperplane `normal . z = offset`."""
    missing = (normal * point).sum() - offset
    normal, missing = normal * jnp.sign(missing), jnp.abs(missing)  # so that the step lowers the product
    slope = jnp.abs(normal)
    cap = jnp.where(slope > 0, jnp.where(normal > 0, point - box[0], box[1] - point), 0)
    return Descent(missing, slope, cap, -jnp.sign(normal))
