"""The linf threat: the change of every pixel value is bounded."""

import jax
import jax.numpy as jnp

from invjax import _box
from invjax._dtypes import wide
from invjax.attacks._threats._threat import Threat, check_box, descent, draw
from invjax.types import Box


def linf(box: Box = (0.0, 1.0)) -> Threat:
    """Every value may change by at most `eps`.

        distance(z, x) = max_i |z_i - x_i|

    >>> linf().project(jnp.array([0.9, 0.2]), jnp.array([0.5, 0.1]), 0.25).tolist()
    [0.75, 0.20000000298023224]

    Rows of a table whose features have ranges of their own, such as an age from 18 to 90 and an income from 0:

    >>> table = linf(box=(jnp.array([18.0, 0.0]), jnp.array([90.0, jnp.inf])))
    >>> row = jnp.array([25.0, 2.5])
    >>> table.project(row - 20, row, 10.0).tolist()
    [18.0, 0.0]

    Args:
        box: the range of pixel values; `(-inf, inf)` sets no limit. Arrays give each feature a range of its own.

    Raises:
        ValueError: the box is empty, or its ends are arrays that do not fit each other.
    """
    box = check_box(box)

    def project(z, x, eps):
        return jnp.clip(jnp.clip(z, x - eps, x + eps), *_box.ends(box, x))

    def to_hyperplane(point, normal, offset):
        way = descent(point, normal, offset, box)
        return way.along(jnp.ones_like(way.slope))

    return Threat(
        sample=lambda key, x, eps: project(x + eps * draw(jax.random.uniform, key, x.shape, x.dtype, -1, 1), x, eps),
        ascent=lambda gradient, z, eps: jnp.sign(gradient),
        project=project,
        distance=lambda z, x: jnp.abs(wide(z) - wide(x)).max(),
        box=box,
        name="linf",
        order=jnp.inf,
        to_hyperplane=to_hyperplane,
    )
