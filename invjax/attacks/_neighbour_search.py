r"""Exact nearest images of every class, to any of many queries.

All distances are one matrix product, |p|^2 - 2 p.q + |q|^2. On a CPU it is taken in the leading principal components V,
with what they leave over as one more coordinate, which bounds the distance from below,

    |p - q|^2  >=  |V'(p - q)|^2 + (|rest of p| - |rest of q|)^2,

and only what the bound does not rule out is computed in full. Black and white images are as far apart, in squares, as
they have pixels that differ; those are counted 32 at a time.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.types import Images, Labels

NORMS = ("l0", "l2", "linf")
_TILE = 2000  # images compared at once


class ReferenceBank(NamedTuple):
    """Labelled images, prepared for the search.

    Attributes:
        images: `[N, H, W, C]`.
        labels: `[N]`.
        norm: 'l0', 'l2' or 'linf', what is to be small.
        pixels: `[N, D]`, what is searched: all values of each image, black and white for l0.
        lower_bounds: `queries [T, D] -> [N]`, each image's squared distance to the nearest query, or a little less.
    """

    images: np.ndarray
    labels: np.ndarray
    norm: str
    pixels: np.ndarray
    lower_bounds: Callable[[np.ndarray], jax.Array]


def reference_bank(images: Images, labels: Labels, *, norm: str, components: int | None = None) -> ReferenceBank:
    """Prepare the images that neighbours are taken from; for 60,000 digits this takes a second or two.

    Args:
        images: `[N, H, W, C]` in [0, 1], such as a training set.
        labels: `[N]`, of two classes or more.
        norm: 'l0', 'l2' or 'linf'. For l0 images are black and white, cut at 1/2. For linf neighbours are searched in
            l2, as published, and chosen and measured in linf.
        components: principal components of the bound. By default 64 on a CPU (for l0 none: pixels are counted there),
            all elsewhere. The result does not depend on it.

    Raises:
        ValueError: images that are not finite floats in [0, 1], labels of another shape, one class only, an unknown
            norm.
    """
    _check.one_of("norm", norm, NORMS)
    _check.within("images", images, (0.0, 1.0))
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must have shape [{len(images)}], one for each image; got {labels.shape}")
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
    """What is compared: all values `[N, D]` of each image, black and white for l0."""
    flat = images.reshape(len(images), -1)
    return (flat > 0.5).astype(np.float32) if norm == "l0" else flat


def _principal(pixels, count):
    """Mean `[D]` and leading principal directions `[D, count]`; of some of the images, for any basis gives a bound."""
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

    return jax.lax.map(one, index, batch_size=_TILE if jax.default_backend() == "cpu" else 10 * _TILE)


def _words(pixels):
    """Black and white pixels `[N, D]`, 32 to a word."""
    bits = np.pad(np.asarray(pixels, bool), ((0, 0), (0, -pixels.shape[1] % 32)))
    return np.packbits(bits, axis=1).view(np.uint32)


def _tiles(words):
    """`[tiles, words of an image, _TILE images]`, filled up with black ones."""
    filled = np.pad(words, ((0, -len(words) % _TILE), (0, 0)))
    return jnp.asarray(filled.reshape(-1, _TILE, words.shape[1]).swapaxes(1, 2))


@jax.jit
def _different_pixels(tiles, queries):
    def of_tile(tile):
        def nearer(i, least):
            # word by word: a reduction over so short an axis would not use the processor's wide registers
            differences = jnp.zeros(tile.shape[1], jnp.uint32)
            for word, query in zip(tile, queries[i], strict=True):
                differences += jax.lax.population_count(word ^ query)
            return jnp.minimum(least, differences)

        return jax.lax.fori_loop(0, len(queries), nearer, jnp.full(tile.shape[1], 2**31, jnp.uint32))

    return jax.lax.map(of_tile, tiles).ravel().astype(jnp.float32)


def nearest_of(
    bank: ReferenceBank, groups: Sequence[np.ndarray], queries: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """In each group of rows of the bank the `count` images nearest to any query `[T, D]`, in l2.

    Returns:
        Their rows and the queries that they are nearest to, `[groups, count]` each, nearest first. A group of fewer
        images has its nearest one again.
    """
    bounds = np.asarray(bank.lower_bounds(queries))
    squares = (queries**2).sum(1)
    slack = 1e-5 * squares.max()  # for rounding
    orders = [group[np.argsort(bounds[group])] for group in groups]
    values, rows = np.full((len(groups), count), np.inf), np.zeros((len(groups), count), int)
    columns = rows.copy()
    start, stop = 0, max(16, count)
    while True:
        # next in line, as far as they may be nearer than the last one kept; every round tightens that
        parts = [
            order[start:stop][bounds[order[start:stop]] <= limit + slack]
            for order, limit in zip(orders, values[:, -1], strict=True)
        ]
        if not sum(part.size for part in parts):
            break
        found = _in_full(bank.pixels, np.concatenate(parts), queries, squares)
        ends = np.cumsum([part.size for part in parts])[:-1]
        for g, (part, value, column) in enumerate(zip(parts, *(np.split(out, ends) for out in found), strict=True)):
            value = np.concatenate([values[g], value])
            kept = np.argsort(value, kind="stable")[:count]
            values[g] = value[kept]
            rows[g] = np.concatenate([rows[g], part])[kept]
            columns[g] = np.concatenate([columns[g], column])[kept]
        start, stop = stop, 4 * stop
    few = np.isinf(values)
    return np.where(few, rows[:, :1], rows), np.where(few, columns[:, :1], columns)


def _in_full(pixels, rows, queries, squares):
    """For each row of `pixels` the squared distance to its nearest query, and which that is."""
    value, column = np.empty(len(rows)), np.empty(len(rows), int)
    for part in (slice(i, i + _TILE) for i in range(0, len(rows), _TILE)):
        some = pixels[rows[part]]
        squared = (some**2).sum(1)[:, None] - 2 * some @ queries.T + squares[None]
        column[part] = squared.argmin(1)
        value[part] = squared.min(1)
    return value, column
