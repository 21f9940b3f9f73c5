r"""Nearest images of other classes, up to rotation, shift, scale and shear.

For an image x and each other class, among the images a of that class and the transforms t of a grid,

    minimise |t(x) - a|    and then    |t^-1(a) - x|    over all t nearby,

so that t^-1(a) is an image of the other class that lies on top of x. The first search is exact (see `nearest`); then
the few nearest are moved onto x by the inverse transform, measured there, and improved by Levenberg-Marquardt steps on
the five numbers of the transform.

Source: Tramèr et al. 2020, algorithm 1. Their code moves what it finds back by the same rotation and shift with other
signs, which is not the inverse.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from invjax import _check
from invjax._progress import progress
from invjax._warps import IDENTITY, affine_grid, unwarp, warp
from invjax.attacks._neighbour_search import NORMS, ReferenceBank, nearest_of, pixels_of
from invjax.types import Array, Images, Labels

_UNITS = np.array([7, 1, 1, 0.12, 0.12], np.float32)  # each moves the pixels of a digit by about one pixel


class Neighbours(NamedTuple):
    """For each of B images one neighbour of each of the K - 1 other classes.

    Attributes:
        images: `[B, K-1, H, W, C]`, moved onto their image; of two values, 0 and 1, if the norm is l0.
        classes: `[B, K-1]`, ascending.
        distance: `[B, K-1]`, from their image in the bank's norm; for l0 the pixels on different sides of 1/2.
        ids: `[B, K-1]`, places in the bank.
        transforms: `[B, K-1, 5]`, t, which moves the image onto the bank's; the neighbour was moved by its inverse.
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
    ink: float | int = 0.85,
) -> Neighbours:
    """For each image the nearest of every other class of the bank, as it lies best on the image.

    A neighbour is never farther than the nearest one without any transform is (in linf: than the nearest in l2 is).

    Args:
        x: `[B, H, W, C]` in [0, 1].
        labels: `[B]`, classes of the bank.
        bank: from `reference_bank`.
        transforms: `[T, 5]`, see `affine_grid`, whose 775 are the default; the result lies within their range.
        candidates: images of each class that are moved onto x before one is chosen.
        steps: of improving each of them; 0 leaves them on the grid.
        ink: share of its brightness that a neighbour keeps on its way through the transform and back; what loses more
            was pushed out of the picture.

    Raises:
        ValueError: images of another size than the bank's, not finite or outside [0, 1]; labels that the bank has
            not; transforms that are not `[T, 5]` with positive scales.
    """
    _check.within("x", x, (0.0, 1.0))
    _check.positive(candidates=candidates)
    if x.shape[1:] != bank.images.shape[1:]:
        raise ValueError(
            f"x must have images of the bank's size {bank.images.shape[1:]}; got {x.shape[1:]}; resize them"
        )
    if labels.shape != x.shape[:1] or not len(x):
        raise ValueError(f"labels must have shape [{len(x)}], one for each of one or more images; got {labels.shape}")
    classes = np.unique(bank.labels)
    if unknown := sorted(set(np.asarray(labels).tolist()) - set(classes.tolist())):
        raise ValueError(f"the bank has no image of the classes {unknown}, but x has; add some, or leave those out")
    grid = affine_grid() if transforms is None else np.asarray(transforms, np.float32)
    if grid.shape[1:] != (5,) or not len(grid):
        raise ValueError(f"transforms must be [T, 5], as affine_grid makes them; got {grid.shape}")
    _check.finite("transforms", grid)
    _check.positive(scale=grid[:, 3])

    members = {c: np.flatnonzero(bank.labels == c) for c in classes.tolist()}
    every = np.concatenate([grid, IDENTITY[None]])
    found = []
    bar = progress(0, len(x), "aligned neighbours")
    for image, label in zip(np.asarray(x, np.float32), np.asarray(labels).tolist(), strict=True):
        others = [c for c in members if c != label]
        # the grid, and the image as it is, so that no neighbour is farther than it would be without the grid
        parts = [
            nearest_of(bank, [members[c] for c in others], pixels_of(queries, bank.norm), count)
            for queries, count in ((np.asarray(_warped(image, grid)), candidates), (image[None], 1))
        ]
        ids = np.concatenate([part[0] for part in parts], axis=1)
        starts = np.concatenate([grid[parts[0][1]], np.broadcast_to(IDENTITY, (len(others), 1, 5))], axis=1)
        images, starts = bank.images[ids.ravel()], starts.reshape(-1, 5)
        low, high = every.min(0), every.max(0)
        improved = _improved(image, images, starts, low, high, NORMS.index(bank.norm), steps, ink)
        moved, distance, transform = (np.asarray(out).reshape(*ids.shape, *out.shape[1:]) for out in improved)
        rows, best = np.arange(len(others)), distance.argmin(1)
        chosen = (part[rows, best] for part in (moved, distance, ids, transform))
        found.append((np.array(others), *chosen))
        bar.update()
    bar.close()
    classes, moved, distance, ids, transform = (np.stack(parts) for parts in zip(*found, strict=True))
    return Neighbours(moved, classes, distance, ids, transform)


_warped = jax.jit(jax.vmap(warp, (None, 0)))


@jax.jit
def _improved(x, images, starts, low, high, norm, steps, ink):
    """Each image moved onto x, its distance and its transform: the best on a descent of the l2 distance."""
    free = (high > low).astype(x.dtype)

    def distance(moved):
        # one of three, and `steps` is traced: compiling takes longer than aligning a hundred images
        gap, pixels = jnp.abs(moved - x), ((moved > 0.5) != (x > 0.5)).sum().astype(x.dtype)
        return jnp.stack([pixels, jnp.sqrt((gap**2).sum()), gap.max()])[norm]

    def one(image, start):
        def look(u):
            """Squared l2 distance, and the distance that counts: infinite where the image left the picture."""
            moved = unwarp(image, u * _UNITS)
            inside = warp(moved, u * _UNITS).sum() >= ink * image.sum()
            return ((moved - x) ** 2).sum(), jnp.where(inside, distance(moved), jnp.inf)

        def step(_, carry):
            u, squared, damping, best, least = carry

            def residual(u):
                moved = (unwarp(image, u * _UNITS) - x).ravel()
                return moved, moved

            jacobian, rest = jax.jacfwd(residual, has_aux=True)(u)
            jacobian = jacobian * free[None]
            hessian = jacobian.T @ jacobian
            ridge = damping * jnp.trace(hessian) / 5 + 1e-6
            new = jnp.clip(u - jnp.linalg.solve(hessian + ridge * jnp.eye(5), jacobian.T @ rest), bottom, top)
            new_squared, new_least = look(new)
            down = new_squared < squared
            best, least = jax.tree.map(partial(jnp.where, new_least < least), (new, new_least), (best, least))
            u, squared = jax.tree.map(partial(jnp.where, down), (new, new_squared), (u, squared))
            return u, squared, jnp.where(down, damping / 4, damping * 4), best, least

        bottom, top, u = low / _UNITS, high / _UNITS, start / _UNITS
        squared, least = look(u)
        *_, best, least = jax.lax.fori_loop(0, steps, step, (u, squared, jnp.float32(0.01), u, least))
        moved = unwarp(image, best * _UNITS)
        return jnp.where(norm == 0, (moved > 0.5).astype(x.dtype), moved), least, best * _UNITS

    return jax.vmap(one)(images, starts)
