r"""How robust a model is on a data set: the whole curve against eps.

Balls are nested, so an image that has fallen at one radius has fallen at every larger one: the curve of the adversarial
error goes up in eps, attacks only what still stands, and never falls.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invjax._batching import correct, over_batches
from invjax._progress import progress
from invjax._store import Kept, digest
from invjax.attacks import Attack
from invjax.attacks.building import check_images
from invjax.types import ApplyFn, Key, Params


class Curve(NamedTuple):
    """Robust accuracy against the radius, one number an image.

    Attributes:
        epsilons: `[E]`, ascending.
        broken_at: `[N]`, the smallest of them at which the image is misclassified; 0 for images that are misclassified
            as they are, infinity for those that withstand all.
    """

    epsilons: np.ndarray
    broken_at: np.ndarray

    def accuracy(self) -> np.ndarray:
        """Robust accuracy at each radius, `[E]`."""
        return (self.broken_at[None] > self.epsilons[:, None]).mean(1)


def robustness_curve(
    key: Key,
    attack: Attack,
    apply_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epsilons: Sequence[float | int] | np.ndarray,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    at_once: bool | None = None,
    directory: str | Path | None = None,
) -> Curve:
    """Robust accuracy at each of `epsilons`, from one compilation.

    Radii go up, and images that have fallen leave: the cost is about that of the mean robust accuracy over the radii
    (each radius ends with a padded batch). On accelerators all radii run at once instead (`at_once`), which is slower
    on CPU and expected, not measured, to be faster there.

    Args:
        key: random key; image i draws from `fold_in(key, i)` at every radius.
        attack: any untargeted attack with a radius.
        apply_fn: `(params, x) -> logits`.
        params: of the model.
        images: `[N, ...]`.
        labels: `[N]`.
        epsilons: the radii, in any order.
        batch_size: images attacked at once.
        mesh: spread each batch over these devices.
        at_once: map over the radii instead of dropping images; default: wherever the backend is not the CPU.
        directory: keep what is done in `curve.npz` there, and go on from it after an interruption. One for each attack:
            other parameters, data or radii are refused, another attack is not noticed.

    Raises:
        ValueError: negative radii, NaN images or logits, labels of another shape or out of range, a `directory` that
            holds another run.
    """
    grid = np.asarray(epsilons, np.float64)
    if grid.ndim != 1 or not grid.size or not (grid >= 0).all():
        raise ValueError(f"epsilons must be a list of numbers that are not negative; got {epsilons}")
    grid = np.sort(grid)
    labels = np.asarray(labels)
    at_once = jax.default_backend() != "cpu" if at_once is None else at_once
    check_images(attack, images, "images")
    standing = correct(apply_fn, params, images, labels, batch_size, mesh)
    kept = Kept(None if directory is None else Path(directory) / "curve.npz", epsilons=grid, standing=standing,
                 key=np.asarray(jax.random.key_data(key)),
                 inputs=digest(directory, params, images, labels))  # fmt: skip
    saved = kept.load()
    broken_at = np.where(standing, np.inf, 0.0) if saved is None else saved["broken_at"]
    done = 0 if saved is None else int(saved["done"])

    def fallen(params, eps, x, y, ids):
        return attack(key, partial(apply_fn, params), x, y, eps=eps, ids=ids).success

    def over(ids, function):
        return over_batches(function, [images[ids], labels[ids], ids.astype(np.uint32)], batch_size, mesh)

    radii = jnp.asarray(grid, images.dtype)
    if at_once:
        if done < grid.size:
            mapped = jax.jit(jax.vmap(fallen, (None, 0, None, None, None), 1))
            ids = np.flatnonzero(standing)
            if ids.size:
                hit = over(ids, partial(mapped, params, radii))
                broken_at[ids] = np.where(hit.any(1), grid[hit.argmax(1)], np.inf)
            kept.save(broken_at=broken_at, done=grid.size)
        return Curve(grid, broken_at)
    one = jax.jit(fallen)
    bar = progress(done, grid.size, "robustness curve")
    for i in range(done, grid.size):
        ids = np.flatnonzero(np.isinf(broken_at))
        if ids.size:
            broken_at[ids[over(ids, partial(one, params, radii[i]))]] = grid[i]
        kept.save(broken_at=broken_at, done=i + 1)
        bar.update()
        bar.set_postfix(standing=int(np.isinf(broken_at).sum()))
    bar.close()
    return Curve(grid, broken_at)
