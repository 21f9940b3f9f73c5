r"""The proposals of Square for one image: a square of `+eps` or `-eps` in linf, a moved bump in norms of finite order.

In a norm of finite order, a proposal moves the budget of one square to another square, in the shape of a smooth bump
and its negative. All functions here take one image `[H, W, C]`. Inside a mask, every square covers a pixel of the mask.

Source: Andriushchenko et al. 2020, *Square Attack*, algorithms 2 and 3; the l1 form: Croce & Hein 2021, *Mind the Box*.
"""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from invjax.attacks._threats import Threat, allowed
from invjax.types import Array, Scalar


class Canvas(NamedTuple):
    """The settings of an attack that are the same for all its proposals.

    Attributes:
        threat: the geometry.
        order: the order of the threat's norm.
        eps: the radius.
        shape: `(H, W, C)` of an image.
        patterns: `[sizes, L, L]`, a bump for each side of the schedule, padded to the longest side of the image.
        free: `[H, W, C]`, the values that may change; None if all may.
    """

    threat: Threat
    order: float | int
    eps: Scalar
    shape: tuple[int, ...]
    patterns: Array
    free: Array | None = None


def bump(side: int) -> np.ndarray:
    """A bump `[side, side]` of Euclidean length 1, with two halves of opposite sign that rise to their centers."""

    def half(rows, columns):
        out = np.zeros((rows, columns))
        top, left = rows // 2, columns // 2
        for ring in range(max(top, left) + 1):
            out[max(top - ring, 0) : top + ring + 1, max(left - ring, 0) : left + ring + 1] += 1 / (ring + 1) ** 2
        return out / np.linalg.norm(out)

    upper = side // 2
    halves = [half(upper, side)] if upper else []
    both = np.concatenate([*halves, -half(side - upper, side)])
    return both / np.linalg.norm(both)


def canvas(threat: Threat, eps: Scalar, shape: tuple[int, ...], sides: np.ndarray, dtype: jnp.dtype) -> Canvas:
    """The settings of an attack on images of this shape with squares of these sides."""
    longest = max(shape[:2])
    if threat.order == np.inf:
        patterns = np.zeros((1, longest, longest))
    else:
        patterns = np.stack([np.pad(bump(int(s)), (0, longest - s)) for s in sides])  # square, to be transposed
    free = allowed(threat, jax.ShapeDtypeStruct(shape, dtype))
    return Canvas(threat, cast(float, threat.order), eps, shape, jnp.asarray(patterns, dtype), free)


def _sign(key, shape, like):
    return jax.random.rademacher(key, shape, like.dtype)


def _corner(canvas, key, side):
    """A random position at which a square of this side fits into the image, and covers a pixel of the mask."""
    height, width, _ = canvas.shape
    if canvas.free is not None:
        return _corner_in_mask(canvas, key, side)
    top, left = jax.random.split(key)
    return jax.random.randint(top, (), 0, height - side + 1), jax.random.randint(left, (), 0, width - side + 1)


def _corner_in_mask(canvas, key, side):
    """The corner of a square that holds a random pixel of the mask at a random place."""
    height, width, _ = canvas.shape
    pixel_key, top, left = jax.random.split(key, 3)
    number = jnp.cumsum(canvas.free.any(-1).ravel())  # of each pixel of the mask, from 1
    chosen = jnp.searchsorted(number, jax.random.randint(pixel_key, (), 1, jnp.maximum(number[-1], 1) + 1))
    row, column = chosen // width, chosen % width
    return (
        jnp.clip(row - jax.random.randint(top, (), 0, side), 0, height - side),
        jnp.clip(column - jax.random.randint(left, (), 0, side), 0, width - side),
    )


def _window(corner, side, shape):
    """`[H, W]`, whether a pixel is inside the square."""
    (top, left), rows, columns = corner, jnp.arange(shape[0])[:, None], jnp.arange(shape[1])[None]
    return (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)


def _length(change, order, axes=None):
    """`(sum |change|^order)^(1 / order)` over `axes`, which are kept, or over all axes if None."""
    keep = axes is not None
    if order == 2:
        return jnp.sqrt((change**2).sum(axes, keepdims=keep))
    if order == 1:
        return jnp.abs(change).sum(axes, keepdims=keep)
    return (jnp.abs(change) ** order).sum(axes, keepdims=keep) ** (1 / order)


def _length_inside(change, window, order):
    """The length inside a window, for each channel: `[1, 1, C]`."""
    return _length(change * window[..., None], order, (0, 1))


def _to_surface(canvas, change, image):
    """The point of the ball's surface in the direction of the change."""
    size = _length(change, canvas.order)
    moved = image + change * canvas.eps / jnp.where(size > 0, size, 1)
    return canvas.threat.project(moved, image, canvas.eps)


def stripes(canvas: Canvas, key: Array, image: Array) -> Array:
    """The start in linf: vertical stripes of `+eps` or `-eps` in each channel."""
    _, width, channels = canvas.shape
    return canvas.threat.project(image + canvas.eps * _sign(key, (1, width, channels), image), image, canvas.eps)


def tiles(canvas: Canvas, key: Array, image: Array) -> Array:
    """The start in a norm of finite order: five times five bumps of random sign."""
    height, width, channels = canvas.shape
    side = min(height, width) // 5
    grid = jnp.asarray(np.tile(bump(side), (5, 5)) if side else np.zeros((0, 0)), image.dtype)
    pad = ((0, height - grid.shape[0]), (0, width - grid.shape[1]))
    signs = jnp.repeat(jnp.repeat(_sign(key, (5, 5, channels), image), side, 0), side, 1)
    change = jnp.pad(grid, pad)[..., None] * jnp.pad(signs, (*pad, (0, 0)))
    return _to_surface(canvas, change if canvas.free is None else jnp.where(canvas.free, change, 0), image)


def new_square(canvas: Canvas, key: Array, z: Array, image: Array, side: Array, index: Array) -> Array:
    """The proposal in linf: a square of `+eps` or `-eps` in each channel.

    Args:
        canvas: the settings that all proposals share.
        key: random key.
        z: the best image so far.
        image: the original image.
        side: side of the square.
        index: position of the side among the patterns; not used here.
    """
    corner_key, sign_key = jax.random.split(key)
    window = _window(_corner(canvas, corner_key, side), side, canvas.shape)
    change = 2 * canvas.eps * window[..., None] * _sign(sign_key, (1, 1, canvas.shape[2]), image)
    return canvas.threat.project(z + change, image, canvas.eps)


def moved_bump(canvas: Canvas, key: Array, z: Array, image: Array, side: Array, index: Array) -> Array:
    """The proposal in a norm of finite order: a square receives the budget of another square and all unused budget.

    Args:
        canvas: the settings that all proposals share.
        key: random key.
        z: the best image so far.
        image: the original image.
        side: side of the squares.
        index: position of the side among the patterns.
    """
    order, (height, width, channels) = canvas.order, canvas.shape
    first, second, sign_key, turn_key = jax.random.split(key, 4)
    corner = _corner(canvas, first, side)
    here = _window(corner, side, canvas.shape)
    there = _window(_corner(canvas, second, side), side, canvas.shape)
    change, pattern = z - image, canvas.patterns[index]
    turned = jnp.where(jax.random.bernoulli(turn_key), pattern.T, pattern)
    pattern = jnp.roll(turned[:height, :width], corner, (0, 1))
    unused = jnp.maximum(canvas.eps**order - _length(change, order) ** order, 0) / channels
    budget = (unused + _length_inside(change, here | there, order) ** order) ** (1 / order)
    old = change * here[..., None] / jnp.maximum(_length_inside(change, here, order), 1e-12)
    bumps = pattern[..., None] * _sign(sign_key, (1, 1, channels), image)
    if canvas.free is not None:  # the part inside the mask weighs as much as a whole bump
        bumps = jnp.where(canvas.free, bumps, 0)
        bumps = bumps / jnp.maximum(_length(bumps, 2, (0, 1)), 1e-12)
    new = old + bumps
    new = new * budget / jnp.maximum(_length_inside(new, here, order), 1e-12)
    change = jnp.where(here[..., None], new, jnp.where(there[..., None], 0, change))
    return _to_surface(canvas, change, image)
