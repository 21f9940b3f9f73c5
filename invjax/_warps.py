r"""Affine warps of images, and their exact inverses.

A transform is five numbers, `(rotation, down, right, scale, shear)`: degrees counter-clockwise, pixels, pixels, a
factor and a slope. Relative to the image's center it moves the point p = (down, right) to

    T p = scale * R(rotation) [[1, 0], [shear, 1]] p + (down, right)

`unwarp` inverts the whole map. Negated numbers would not, because the inverse steps need the reverse order.
"""

from collections.abc import Sequence
from itertools import product

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from invjax import _check
from invjax.types import Array

Transform = Float[Array, "5"]
"""The numbers `(rotation, down, right, scale, shear)` of an affine transform."""

Image = Float[Array, "height width channel"]
"""One image."""

IDENTITY = np.array([0, 0, 0, 1, 0], np.float32)


def affine_grid(
    *,
    rotation: Sequence[float | int] | np.ndarray = tuple(range(-30, 31, 2)),
    shift: Sequence[float | int] | np.ndarray = (-3, -1.5, 0, 1.5, 3),
    scale: Sequence[float | int] | np.ndarray = (1,),
    shear: Sequence[float | int] | np.ndarray = (0,),
) -> Float[np.ndarray, "transforms 5"]:
    """All combinations of the given numbers; by default the 775 transforms of the published linf attack.

    >>> affine_grid().shape
    (775, 5)

    Args:
        rotation: the angles in degrees, counter-clockwise.
        shift: the shifts in pixels, both down and right.
        scale: the scale factors.
        shear: the slopes of the shears.

    Returns:
        The transforms, `[T, 5]`.

    Raises:
        ValueError: a list is empty, or a scale is not positive.
    """
    for name, values in {"rotation": rotation, "shift": shift, "scale": scale, "shear": shear}.items():
        if not len(values):
            raise ValueError(f"{name} must hold at least one value; got none; use 1 for scale and 0 otherwise")
    _check.positive(scale=np.asarray(scale))
    return np.array(list(product(rotation, shift, shift, scale, shear)), np.float32)


def warp(image: Image, transform: Transform) -> Image:
    """Move an image by T: the pixel at p moves to T p. Interpolation is bilinear, and pixels from outside are zero.

    Args:
        image: `[H, W, C]`.
        transform: `[5]`, the numbers of T: a rotation in degrees, shifts down and right in pixels, a scale that is not
            0, and a slope.

    Returns:
        The moved image, `[H, W, C]`.
    """
    linear, shift = _map(transform)
    (a, b), (c, d) = linear
    inverse = jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])]) / (a * d - b * c)
    return _sampled(image, inverse, -inverse @ shift)


def unwarp(image: Image, transform: Transform) -> Image:
    """Move an image by the inverse of T: the pixel at T p moves to p. The interpolation is that of `warp`.

    Args:
        image: `[H, W, C]`.
        transform: `[5]`, the numbers of T: a rotation in degrees, shifts down and right in pixels, a scale, and a
            slope.

    Returns:
        The moved image, `[H, W, C]`.
    """
    return _sampled(image, *_map(transform))


def _map(transform):
    rotation, down, right, scale, shear = jnp.asarray(transform)
    c, s = jnp.cos(jnp.deg2rad(rotation)), jnp.sin(jnp.deg2rad(rotation))
    linear = scale * jnp.stack([jnp.stack([c - s * shear, -s]), jnp.stack([s + c * shear, c])])
    return linear, jnp.stack([down, right])


def _sampled(image, linear, shift):
    """The image whose value at p is `image(linear p + shift)`, with p relative to the center."""
    height, width, _ = image.shape
    center = jnp.array([(height - 1) / 2, (width - 1) / 2], linear.dtype)
    rows, columns = (jnp.arange(n, dtype=linear.dtype) - m for n, m in zip((height, width), center, strict=True))
    row, column = (
        linear[i, 0] * rows[:, None] + linear[i, 1] * columns[None, :] + (shift + center)[i] for i in range(2)
    )
    # a ring of zeros around the image; points outside are clipped onto it
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    row, column = jnp.clip(row + 1, 0, height + 1), jnp.clip(column + 1, 0, width + 1)
    top, left = jnp.minimum(jnp.floor(row), height), jnp.minimum(jnp.floor(column), width)
    below, beyond = (row - top)[..., None], (column - left)[..., None]
    top, left = top.astype(int), left.astype(int)

    # four gathers: all corners in one would be seven times slower
    def corner(i, j):
        return padded[top + i, left + j]

    return (1 - below) * ((1 - beyond) * corner(0, 0) + beyond * corner(0, 1)) + below * (
        (1 - beyond) * corner(1, 0) + beyond * corner(1, 1)
    )
