r"""Labelled images that are prepared for a nearest-neighbour search.

The search computes all squared distances with one matrix product, |p|^2 - 2 p.q + |q|^2. On a CPU the product uses
only the leading principal components V, and the norm of the rest as one more coordinate. The result is a lower bound,

    |p - q|^2  >=  |V'(p - q)|^2 + (|rest of p| - |rest of q|)^2,

and the search computes the full distance only for images that the bound does not exclude. The squared distance of two
black and white images is the number of pixels that differ, which the search counts 32 at a time.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.types import Images, Labels

# These norms are not all threats: the search bounds squared l2 distances, which count the pixels that differ in black
# and white images, so it finds neighbours in l2 and in l0, and candidates for linf.
NORMS = ("l0", "l2", "linf")
"""The norms in which neighbours are measured."""

TILE = 2000
"""The number of images that the search compares at a time."""


class ReferenceBank(NamedTuple):
    """Labelled images, prepared for the search.

    Attributes:
        images: `[N, H, W, C]`, the images in [0, 1].
        labels: `[N]`, class indices.
        norm: the norm in which neighbours are measured: 'l0', 'l2' or 'linf'.
        pixels: `[N, D]`, the flat values of each image; for l0 they are 0 or 1.
        lower_bounds: `queries [T, D] -> [N]`, a lower bound on each image's squared distance to the nearest query.
    """

    images: np.ndarray
    labels: np.ndarray
    norm: str
    pixels: np.ndarray
    lower_bounds: Callable[[np.ndarray], jax.Array]


def reference_bank(images: Images, labels: Labels, *, norm: str, components: int | None = None) -> ReferenceBank:
    """Prepare the images from which neighbours are chosen; for 60,000 digits this takes a second or two.

    Args:
        images: `[N, H, W, C]` in [0, 1], such as a training set.
        labels: `[N]`, class indices of two classes or more.
        norm: 'l0', 'l2' or 'linf'. For l0 the images become black and white, with the threshold 1/2. For linf the
            search finds the images that are nearest in l2, as published, and the linf distance chooses among these.
        components: the number of principal components of the bound. The default is 64 on a CPU (none for l0, where
            the search counts pixels) and all elsewhere. The result of a search does not depend on this number.

    Returns:
        The images with the index of the search.

    Raises:
        ValueError: the images are not finite floats in [0, 1], the labels have another shape, all labels are of one
            class, or the norm is unknown.
    """
    _check.one_of("norm", norm, NORMS)
    _check.within("images", images, (0.0, 1.0))
    _check.one_each("labels", labels, images)
    _check.labels(labels, np.iinfo(np.int32).max)
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"the bank must hold images of two classes or more; got {np.unique(labels).tolist()}; add other classes"
        )
    images, labels = np.asarray(images, np.float32), np.asarray(labels)
    pixels = pixels_of(images, norm)
    on_cpu = jax.default_backend() == "cpu"
    if norm == "l0" and components is None and on_cpu:
        tiles = _tiles(_words(pixels))

        def bounds(queries):
            return _different_pixels(tiles, _words(queries))[: len(images)]

    else:
        size = pixels.shape[1]
        count = min((64 if on_cpu else size) if components is None else components, size)
        _check.positive(components=count)
        center, basis = _principal(pixels, count)
        index = _coordinates(pixels, center, basis)

        def bounds(queries):
            return _nearest_squared(index, _coordinates(queries, center, basis))

    return ReferenceBank(images, labels, norm, pixels, bounds)


def pixels_of(images: np.ndarray, norm: str) -> np.ndarray:
    """Flatten images to the values `[N, D]` that the search compares, black and white for l0.

    Args:
        images: `[N, H, W, C]` in [0, 1].
        norm: 'l0', 'l2' or 'linf'.

    Returns:
        The values, `[N, D]` with D = H W C. For l0 each is 1 where the image is above 1/2, and 0 elsewhere.
    """
    flat = images.reshape(len(images), -1)
    return (flat > 0.5).astype(np.float32) if norm == "l0" else flat


def _principal(pixels, count):
    """Mean `[D]` and leading principal directions `[D, count]` of some images: any basis gives a bound."""
    some = pixels[:: max(1, len(pixels) // 8000)]
    center = some.mean(0)
    if count == pixels.shape[1]:
        return jnp.asarray(center), jnp.eye(count, dtype=pixels.dtype)
    _, vectors = np.linalg.eigh((some - center[None]).T @ (some - center[None]))
    return jnp.asarray(center), jnp.asarray(vectors[:, ::-1][:, :count])


@jax.jit
def _coordinates(pixels, center, basis):
    rest = pixels - center[None]
    inside = jnp.matmul(rest, basis, precision="highest")
    outside = (rest**2).sum(1) - (inside**2).sum(1)
    return jnp.concatenate([inside, jnp.sqrt(jnp.maximum(outside, 0))[:, None]], 1)


@jax.jit
def _nearest_squared(index, queries):
    squares = (queries**2).sum(1)

    def one(row):
        return (squares - 2 * jnp.matmul(queries, row, precision="highest")).min() + (row**2).sum()

    return jax.lax.map(one, index, batch_size=TILE if jax.default_backend() == "cpu" else 10 * TILE)


def _words(pixels):
    """Pack black and white pixels `[N, D]` into words of 32 bits."""
    bits = np.pad(np.asarray(pixels, bool), ((0, 0), (0, -pixels.shape[1] % 32)))
    return np.packbits(bits, axis=1).view(np.uint32)


def _tiles(words):
    """Arrange words as `[tiles, words of an image, TILE images]`; black images fill the last tile."""
    filled = np.pad(words, ((0, -len(words) % TILE), (0, 0)))
    return jnp.asarray(filled.reshape(-1, TILE, words.shape[1]).swapaxes(1, 2))


@jax.jit
def _different_pixels(tiles, queries):
    def of_tile(tile):
        def nearer(i, least):
            # the loop goes word by word, because XLA does not vectorize a reduction over such a short axis
            differences = jnp.zeros(tile.shape[1], jnp.uint32)
            for word, query in zip(tile, queries[i], strict=True):
                differences += jax.lax.population_count(word ^ query)
            return jnp.minimum(least, differences)

        return jax.lax.fori_loop(0, len(queries), nearer, jnp.full(tile.shape[1], 2**31, jnp.uint32))

    return jax.lax.map(of_tile, tiles).ravel().astype(jnp.float32)
