"""Points on two spheres, two classifiers of them, and the attack along the last coordinate."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from invjax import _check
from invjax.types import Array, Key, Labels, LogitsFn, PerExample

Points = Float[Array, "batch dimension"]
Radii = tuple[float | int, float | int]


class Moved(NamedTuple):
    """Points after a change of their last coordinate.

    Attributes:
        x: points on the requested sphere, `[B, d]`; a point that cannot reach it stays unchanged.
        possible: whether the point can reach the sphere, `[B]`: the length of its other coordinates is at most the
            radius.
        distance: the change of the last coordinate, `[B]`.
    """

    x: Points
    possible: Bool[Array, " batch"]
    distance: PerExample


def sample(key: Key, *, count: int, dimension: int, radii: Radii) -> tuple[Points, Labels]:
    """Points uniform on the two spheres, and their labels.

    >>> x, labels = sample(jax.random.key(0), count=4, dimension=100, radii=(1, 10))
    >>> labels.tolist(), jnp.linalg.norm(x, axis=1).round(3).tolist()
    ([0, 1, 0, 1], [1.0, 10.0, 1.0, 10.0])

    Args:
        key: random key for the directions.
        count: number N of points; every second point is outer, so the classes are balanced.
        dimension: dimension d of the space, at least 2.
        radii: `(R1, R2)`, inner and outer.

    Returns:
        `x [N, d]` and `labels [N]`, 0 for inner and 1 for outer points.

    Raises:
        ValueError: the count is not positive, the dimension is below 2, or the radii do not satisfy 0 < R1 < R2.
    """
    _check.key(key)
    check_spheres(dimension, radii)
    _check.count(count=count)
    labels = jnp.arange(count, dtype=jnp.int32) % 2
    # drawn along one axis, because XLA compiles random numbers of a matrix more slowly
    directions = jax.random.normal(key, (count * dimension,)).reshape(count, dimension)
    return directions * (jnp.asarray(radii, directions.dtype)[labels] / _length(directions))[:, None], labels


def max_margin(radii: Radii) -> LogitsFn:
    """The logits `[-z, z]`, `z = |x| - t`, of the classifier with the largest margin, `(R2 - R1) / 2` everywhere.

    Args:
        radii: `(R1, R2)`, inner and outer.

    Returns:
        `x [B, d] -> logits [B, 2]`.

    Raises:
        ValueError: the radii do not satisfy 0 < R1 < R2.
    """
    return _by_length(radii, lambda x: x)


def misaligned(radii: Radii) -> LogitsFn:
    """The logits `[-z, z]`, `z = |x_1, ..., x_(d-1)| - t`, of the classifier that ignores the last coordinate.

    >>> misaligned((1, 3))(np.array([[3.0, 4.0, 12.0]])).tolist()
    [[-3.0, 3.0]]

    Args:
        radii: `(R1, R2)`, inner and outer.

    Returns:
        `x [B, d] -> logits [B, 2]`.

    Raises:
        ValueError: the radii do not satisfy 0 < R1 < R2.
    """
    return _by_length(radii, lambda x: x[:, :-1])


def change_last(x: Points, *, radius: float | int, far: bool = False) -> Moved:
    """Move points to the sphere of `radius` along the last coordinate: `x_d -> +- sqrt(radius^2 - |x_1..(d-1)|^2)`.

    An inner point can always move to the outer sphere, and this changes no logit of `misaligned`. An outer point can
    move to the inner sphere with the probability that `reachable` gives.

    >>> inward = change_last(jnp.array([[0.6, 0.8], [3.0, 4.0]]), radius=1)
    >>> inward.possible.tolist()
    [True, False]

    Args:
        x: points, `[B, d]`.
        radius: radius of the target sphere.
        far: whether to take the root with the opposite sign of `x_d`, which is farther away.

    Returns:
        The moved points.

    Raises:
        ValueError: x is not floating point `[B, d]` with d at least 2, or contains NaN; the radius is not positive.
    """
    _check_points(x)
    _check.positive(radius=radius)
    x = jnp.asarray(x)
    last = x[:, -1]
    rest = radius**2 - (x[:, :-1] ** 2).sum(-1)
    # rounding may put a point that is already on the sphere just outside it
    possible = rest >= -8 * jnp.finfo(x.dtype).eps * radius**2
    root = jnp.sqrt(jnp.maximum(rest, 0)) * jnp.where((last < 0) != far, -1, 1)
    moved = jnp.where(possible, root, last)
    return Moved(x.at[:, -1].set(moved), possible, jnp.abs(moved - last))


def _by_length(radii, seen):
    _check_radii(radii)

    def logits_fn(x):
        _check_points(x)
        z = _length(seen(jnp.asarray(x))) - sum(radii) / 2
        return jnp.stack([-z, z], -1)

    return logits_fn


def _length(x):
    """The l2 norm of each row, with a gradient of zero at zero."""
    square = (x**2).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _check_radii(radii):
    if len(radii) != 2 or not 0 < radii[0] < radii[1] < math.inf:
        raise ValueError(f"radii must be (inner, outer) with 0 < inner < outer; got {radii}")


def check_spheres(dimension, radii):
    """Refuse a dimension below 2 and radii that are out of order."""
    _check_radii(radii)
    if dimension < 2:
        raise ValueError(f"dimension must be 2 or more, as one classifier ignores a coordinate; got {dimension}")


def _check_points(x):
    if np.ndim(x) != 2 or np.shape(x)[1] < 2:
        raise ValueError(f"points must have shape [batch, dimension], dimension 2 or more; got {np.shape(x)}")
    _check.floating("points", x)
    _check.finite("points", x)
