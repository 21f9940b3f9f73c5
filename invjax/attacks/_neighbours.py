r"""Nearest images of other classes, up to rotation, shift, scale and shear.

For an image x and each other class, over the images a of that class and the transforms t of a grid,

    minimise |t(x) - a|    and then    |t^-1(a) - x|    over all t nearby,

so that t^-1(a) is an image of the other class that lies on top of x. The first search is exact (`nearest_of`). The
inverse transform then moves the nearest few images onto x, and Levenberg-Marquardt steps improve the five numbers of
the transform.

Source: Tramèr et al. 2020, algorithm 1. Their code moves each image back by the same rotation and shift with opposite
signs, which is not the inverse.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from invjax import _check
from invjax._progress import progress
from invjax._warps import IDENTITY, affine_grid, warp
from invjax.attacks._alignment import improved
from invjax.attacks._neighbour_search import nearest_of
from invjax.attacks._reference_bank import NORMS, ReferenceBank, pixels_of
from invjax.types import Array, Images, Labels


class Neighbours(NamedTuple):
    """One neighbour of each of the K - 1 other classes, for each of B images.

    Attributes:
        images: `[B, K-1, H, W, C]`, the neighbours, moved onto their image; for l0 their values are 0 and 1.
        classes: `[B, K-1]`, the classes of the neighbours, ascending.
        distance: `[B, K-1]`, the distance from the image in the bank's norm; for l0 the number of pixels that lie on
            different sides of 1/2.
        ids: `[B, K-1]`, the rows of the neighbours in the bank.
        transforms: `[B, K-1, 5]`, the transforms that move the image onto the bank's image. The inverse of each
            transform moved the neighbour onto the image.
    """

    images: Float[np.ndarray, "batch others height width channel"]
    classes: Int[np.ndarray, "batch others"]
    distance: Float[np.ndarray, "batch others"]
    ids: Int[np.ndarray, "batch others"]
    transforms: Float[np.ndarray, "batch others 5"]


def aligned_neighbours(
    x: Images,
    labels: Labels,
    bank: ReferenceBank,
    *,
    transforms: Float[Array, "transforms 5"] | None = None,
    candidates: int = 4,
    steps: int = 8,
    min_brightness: float | int = 0.85,
) -> Neighbours:
    """Find the nearest image of every other class of the bank, moved onto each image.

    A neighbour is never farther from its image than the nearest unmoved image of its class. In linf, this holds for the
    unmoved image that is nearest in l2.

    Args:
        x: `[B, H, W, C]`, images in [0, 1].
        labels: `[B]`, the classes of x, all of which occur in the bank.
        bank: the images to search, from `reference_bank`.
        transforms: `[T, 5]`; the 775 transforms of `affine_grid()` by default. The improved transforms stay within the
            range of the given transforms and the identity.
        candidates: the number of images of each class that are moved onto x before one is chosen.
        steps: the number of steps that improve each transform; 0 keeps the transforms of the grid.
        min_brightness: the smallest fraction of its brightness that a neighbour may keep when it is moved onto x and
            back. Candidates that lose more are rejected, because a part of them left the frame.

    Returns:
        One neighbour for each image and each other class.

    Raises:
        ValueError: the images have another size than the bank's, are not finite or lie outside [0, 1]; the bank has no
            image of a label; the bank's norm is unknown; or the transforms are not `[T, 5]` with positive scales.
    """
    _check.positive(candidates=candidates)
    grid = _checked_grid(transforms)
    classes = _checked_classes(x, labels, bank)
    members = {c: np.flatnonzero(bank.labels == c) for c in classes}
    found = []
    bar = progress(0, len(x), "aligned neighbours")
    for image, label in zip(np.asarray(x, np.float32), np.asarray(labels).tolist(), strict=True):
        others = {c: rows for c, rows in members.items() if c != label}
        nearest = _neighbours_of(image, list(others.values()), bank, grid, candidates, steps, min_brightness)
        found.append((np.array(list(others)), *nearest))
        bar.update()
    bar.close()
    chosen, moved, distance, ids, transform = (np.stack(parts) for parts in zip(*found, strict=True))
    return Neighbours(moved, chosen, distance, ids, transform)


def _neighbours_of(image, groups, bank, grid, candidates, steps, min_brightness):
    """The neighbour of one image in each group of rows: moved images, distances, rows and transforms."""
    # The nearest unmoved image is a candidate, too, so that the neighbour is never farther than this image.
    parts = [
        nearest_of(bank, groups, pixels_of(queries, bank.norm), count)
        for queries, count in ((np.asarray(_warped(image, grid)), candidates), (image[None], 1))
    ]
    ids = np.concatenate([part[0] for part in parts], axis=1)
    starts = np.concatenate([grid[parts[0][1]], np.broadcast_to(IDENTITY, (len(groups), 1, 5))], axis=1)
    every = np.concatenate([grid, IDENTITY[None]])
    aligned = improved(
        image,
        bank.images[ids.ravel()],
        starts.reshape(-1, 5),
        every.min(0),
        every.max(0),
        NORMS.index(bank.norm),
        steps,
        float(min_brightness),
    )
    moved, distance, transform = (np.asarray(out).reshape(*ids.shape, *out.shape[1:]) for out in aligned)
    rows, best = np.arange(len(groups)), distance.argmin(1)
    return tuple(part[rows, best] for part in (moved, distance, ids, transform))


_warped = jax.jit(jax.vmap(warp, (None, 0)))


def _checked_grid(transforms):
    grid = affine_grid() if transforms is None else np.asarray(transforms, np.float32)
    if grid.shape[1:] != (5,) or not len(grid):
        raise ValueError(f"transforms must be [T, 5], as affine_grid makes them; got {grid.shape}")
    _check.finite("transforms", grid)
    _check.positive(scale=grid[:, 3])
    return grid


def _checked_classes(x, labels, bank):
    """Check x and its labels against the bank, and return the classes of the bank in ascending order."""
    _check.one_of("norm of the bank", bank.norm, NORMS)
    _check.within("x", x, (0.0, 1.0))
    if x.shape[1:] != bank.images.shape[1:]:
        raise ValueError(
            f"x must have images of the bank's size {bank.images.shape[1:]}; got {x.shape[1:]}; resize them"
        )
    _check.one_each("labels", labels, x)
    classes = np.unique(bank.labels).tolist()
    if unknown := sorted(set(np.asarray(labels).tolist()) - set(classes)):
        raise ValueError(f"the bank has no image of the classes {unknown} of x; add some, or leave these images out")
    return classes
