"""The l2 threat: the Euclidean length of the change is bounded."""

import jax
import jax.numpy as jnp

from invjax import _box
from invjax._dtypes import wide
from invjax.attacks._threats._threat import Threat, check_box, descent, draw, unlimited
from invjax.types import Box


def _norm(x):
    return jnp.sqrt((x**2).sum())


def l2(box: Box = (0.0, 1.0)) -> Threat:
    """The Euclidean length of the change is at most `eps`.

        distance(z, x) = sqrt(sum_i (z_i - x_i)^2)

    The projection scales the change and then clips it to the box, which shortens it further. The result lies in
    the ball, and it is the nearest point of the ball if no value is clipped.

    >>> l2().project(jnp.array([0.9, 0.5]), jnp.array([0.5, 0.5]), 0.25).tolist()
    [0.75, 0.5]

    Args:
        box: the range of pixel values; `(-inf, inf)` sets no limit. Arrays give each feature a range of its own.

    Raises:
        ValueError: the box is empty, or its ends are arrays that do not fit each other.
    """
    box = check_box(box)

    def project(z, x, eps):
        low, high = _box.ends(box, x)
        if unlimited(eps):
            return jnp.clip(z, low, high)
        length = _norm(z - x)
        return jnp.clip(x + (z - x) * jnp.minimum(1, eps / jnp.where(length > 0, length, 1)), low, high)

    def sample(key, x, eps):
        direction_key, radius_key = jax.random.split(key)
        direction = draw(jax.random.normal, direction_key, x.shape, x.dtype)
        radius = eps * jax.random.uniform(radius_key, (), x.dtype) ** (1 / x.size)
        return project(x + radius * direction / _norm(direction), x, eps)

    def ascent(gradient, z, eps):
        # divide by the largest entry first, because squares of small numbers underflow
        largest = jnp.abs(gradient).max()
        scaled = gradient / jnp.where(largest > 0, largest, 1)
        return scaled / jnp.maximum(_norm(scaled), 1e-12)

    def to_hyperplane(point, normal, offset):
        way = descent(point, normal, offset, box)
        return way.along(way.slope)

    def distance(z, x):
        return _norm(wide(z) - wide(x))

    return Threat(sample, ascent, project, distance, box, "l2", order=2, to_hyperplane=to_hyperplane)
