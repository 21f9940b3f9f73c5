r"""The proposals of Square for one example: a window of `+eps` or `-eps` in linf, a moved bump in other norms.

In a norm of finite order, a proposal moves the budget of one window to another window, in the shape of a smooth bump
and its negative. All functions here take one example on a canvas: an image `[H, W, C]`, whose windows are squares, or a
line `[T, C]`, whose windows are segments. Inside a mask, every
window covers a position of the mask.

Source: Andriushchenko et al. 2020, *Square Attack*, algorithms 2 and 3; the l1 form: Croce & Hein 2021, *Mind the Box*.
"""

from functools import reduce
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from invjax.attacks._threats import Threat
from invjax.types import Array, Scalar


class Canvas(NamedTuple):
    """The settings of an attack that are the same for all its proposals.

    Attributes:
        threat: the geometry.
        order: the order of the threat's norm.
        eps: the radius.
        shape: `(H, W, C)` of an image, or `(T, C)` of a line.
        patterns: `[sizes, L, L]` or `[sizes, L]`, a bump for each side of the schedule, padded to the longest side.
        unordered: whether a window of a line is a random set of its positions, because the order means nothing.
        free: the values that may change, of this shape; None if all may.
    """

    threat: Threat
    order: float | int
    eps: Scalar
    shape: tuple[int, ...]
    patterns: Array
    unordered: bool = False
    free: Array | None = None

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the positions: `(0, 1)` of an image, `(0,)` of a line."""
        return tuple(range(len(self.shape) - 1))


def bump(side: int, dimensions: int = 2) -> np.ndarray:
    """A bump `[side, side]` or `[side]` of Euclidean length 1, with two halves of opposite sign that rise to their
    centers.
    """

    def half(*sizes):
        out = np.zeros(sizes)
        for ring in range(max(sizes) // 2 + 1):
            out[tuple(slice(max(n // 2 - ring, 0), n // 2 + ring + 1) for n in sizes)] += 1 / (ring + 1) ** 2
        return out / np.linalg.norm(out)

    upper, across = side // 2, (side,) * (dimensions - 1)
    halves = [half(upper, *across)] if upper else []
    both = np.concatenate([*halves, -half(side - upper, *across)])
    return both / np.linalg.norm(both)


def canvas(
    threat: Threat,
    eps: Scalar,
    shape: tuple[int, ...],
    sides: np.ndarray,
    dtype: jnp.dtype,
    unordered: bool = False,
    free: Array | None = None,
) -> Canvas:
    """The settings of an attack on examples of this shape with windows of these sides."""
    longest, dimensions = max(shape[:-1]), len(shape) - 1
    if threat.order == np.inf:
        patterns = np.zeros((1, *(longest,) * dimensions))
    else:  # square, to be transposed
        patterns = np.stack([np.pad(bump(int(s), dimensions), (0, longest - s)) for s in sides])
    return Canvas(threat, cast(float, threat.order), eps, shape, jnp.asarray(patterns, dtype), unordered, free)


def _coin(key, shape=()):
    """Fair coins; the probability is a float32 number, so that double precision draws the same ones."""
    return jax.random.bernoulli(key, jnp.float32(0.5), shape)


def _sign(key, shape, like):
    return jnp.where(_coin(key, shape), jnp.ones((), like.dtype), -1)


def _corner(canvas, key, side):
    """A random position at which a window of this side fits into the canvas, and covers a position of the mask."""
    if canvas.free is not None:
        return _corner_in_mask(canvas, key, side)
    sizes = canvas.shape[:-1]
    keys = jax.random.split(key, len(sizes))
    return tuple(jax.random.randint(k, (), 0, n - side + 1, jnp.int32) for k, n in zip(keys, sizes, strict=True))


def _corner_in_mask(canvas, key, side):
    """The corner of a window that holds a random position of the mask at a random place."""
    sizes = canvas.shape[:-1]
    first, *keys = jax.random.split(key, 1 + len(sizes))
    number = jnp.cumsum(canvas.free.any(-1).ravel())  # of each position of the mask, from 1
    chosen = jnp.searchsorted(number, jax.random.randint(first, (), 1, jnp.maximum(number[-1], 1) + 1))
    places = jnp.unravel_index(chosen, sizes)
    return tuple(
        jnp.clip(place - jax.random.randint(k, (), 0, side), 0, size - side)
        for k, place, size in zip(keys, places, sizes, strict=True)
    )


def _window(corner, side, shape):
    """`[H, W]` or `[T]`, whether a position is inside the window."""
    grid = jnp.meshgrid(*map(jnp.arange, shape[:-1]), indexing="ij", sparse=True)
    inside = [(at >= start) & (at < start + side) for at, start in zip(grid, corner, strict=True)]
    return reduce(jnp.logical_and, inside)


def _mixed(canvas, key):
    """A function that puts the positions of an unordered canvas into a random order, and changes no other canvas."""
    if not canvas.unordered:
        return lambda positions: positions
    order = jax.random.permutation(jax.random.fold_in(key, 0), canvas.shape[0])
    return lambda positions: positions[order]


def _inside(change, window):
    """The change inside a window, and 0 elsewhere."""
    return change * window[..., None].astype(change.dtype)


def _length(change, order, axes=None):
    """`(sum |change|^order)^(1 / order)` over `axes`, which are kept, or over all axes if None."""
    keep = axes is not None
    if order == 2:
        return jnp.sqrt((change**2).sum(axes, keepdims=keep))
    if order == 1:
        return jnp.abs(change).sum(axes, keepdims=keep)
    return (jnp.abs(change) ** order).sum(axes, keepdims=keep) ** (1 / order)


def _length_inside(change, window, order):
    """The length inside a window, for each channel: `[1, 1, C]` or `[1, C]`."""
    return _length(_inside(change, window), order, tuple(range(window.ndim)))


def _to_surface(canvas, change, image):
    """The point of the ball's surface in the direction of the change."""
    size = _length(change, canvas.order)
    moved = image + change * canvas.eps / jnp.where(size > 0, size, 1)
    return canvas.threat.project(moved, image, canvas.eps)


def stripes(canvas: Canvas, key: Array, image: Array) -> Array:
    """The start in linf: vertical stripes of `+eps` or `-eps` in each channel; on a line, a sign for each value."""
    *across, width, channels = canvas.shape
    signs = _sign(key, (*[1] * len(across), width, channels), image)
    return canvas.threat.project(image + canvas.eps * signs, image, canvas.eps)


def tiles(canvas: Canvas, key: Array, image: Array) -> Array:
    """The start in a norm of finite order: five times five bumps of random sign, or five on a line."""
    *sizes, channels = canvas.shape
    side, tiled = min(sizes) // 5, (5,) * len(sizes)
    grid = jnp.asarray(np.tile(bump(side, len(sizes)), tiled) if side else np.zeros([0] * len(sizes)), image.dtype)
    pad = tuple((0, size - used) for size, used in zip(sizes, grid.shape, strict=True))
    signs = _sign(key, (*tiled, channels), image)
    for axis in canvas.axes:
        signs = jnp.repeat(signs, side, axis)
    change = jnp.pad(grid, pad)[..., None] * jnp.pad(signs, (*pad, (0, 0)))
    return _to_surface(canvas, change if canvas.free is None else jnp.where(canvas.free, change, 0), image)


def new_square(canvas: Canvas, key: Array, z: Array, image: Array, side: Array, index: Array) -> Array:
    """The proposal in linf: a window of `+eps` or `-eps` in each channel.

    Args:
        canvas: the settings that all proposals share.
        key: random key.
        z: the best image so far.
        image: the original image.
        side: side of the window.
        index: position of the side among the patterns; not used here.
    """
    corner_key, sign_key = jax.random.split(key)
    window = _mixed(canvas, key)(_window(_corner(canvas, corner_key, side), side, canvas.shape))
    signs = _sign(sign_key, (*[1] * window.ndim, canvas.shape[-1]), image)
    change = 2 * canvas.eps * window[..., None].astype(image.dtype) * signs
    return canvas.threat.project(z + change, image, canvas.eps)


def moved_bump(canvas: Canvas, key: Array, z: Array, image: Array, side: Array, index: Array) -> Array:
    """The proposal in a norm of finite order: a window receives the budget of another one and all unused budget.

    Args:
        canvas: the settings that all proposals share.
        key: random key.
        z: the best image so far.
        image: the original image.
        side: side of the windows.
        index: position of the side among the patterns.
    """
    order, (*sizes, channels), mixed = canvas.order, canvas.shape, _mixed(canvas, key)
    first, second, sign_key, turn_key = jax.random.split(key, 4)
    corner = _corner(canvas, first, side)
    here = mixed(_window(corner, side, canvas.shape))
    there = mixed(_window(_corner(canvas, second, side), side, canvas.shape))
    change, pattern = z - image, canvas.patterns[index]
    turned = jnp.where(_coin(turn_key), pattern.T, pattern)
    pattern = mixed(jnp.roll(turned[tuple(slice(size) for size in sizes)], corner, canvas.axes))
    unused = jnp.maximum(canvas.eps**order - _length(change, order) ** order, 0) / channels
    budget = (unused + _length_inside(change, here | there, order) ** order) ** (1 / order)
    old = _inside(change, here) / jnp.maximum(_length_inside(change, here, order), 1e-12)
    bumps = pattern[..., None] * _sign(sign_key, (*[1] * len(sizes), channels), image)
    if canvas.free is not None:  # the part inside the mask weighs as much as a whole bump
        bumps = jnp.where(canvas.free, bumps, 0)
        bumps = bumps / jnp.maximum(_length(bumps, 2, canvas.axes), 1e-12)
    new = old + bumps
    new = new * budget / jnp.maximum(_length_inside(new, here, order), 1e-12)
    change = jnp.where(here[..., None], new, jnp.where(there[..., None], 0, change))
    return _to_surface(canvas, change, image)
