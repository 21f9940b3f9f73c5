"""Robust accuracy of a model on a data set, as a function of the radius.

Balls are nested, so adversarial error is non-decreasing in eps. `robustness_curve` uses this: each radius attacks only
the images that are still correct.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from invjax import _check
from invjax._batching import cached, on_device, on_host, over_batches
from invjax._dtypes import wide_dtype
from invjax._progress import progress
from invjax._store import digest_tree
from invjax.attacks import Attack, RandomModel
from invjax.attacks.building import bind, check_images, check_radius, sound, warn_of_gradients
from invjax.evaluation._clean import unbroken
from invjax.evaluation._options import Options, check_options, kept
from invjax.types import ApplyFn, Array, Key, Params


class Curve(NamedTuple):
    """The smallest radius that breaks each image, which gives the accuracy at each radius.

    Attributes:
        epsilons: `[E]`, the radii, ascending.
        broken_at: `[N]`, the smallest radius at which the image is misclassified (or not certified); 0 for images that
            are misclassified without any change, infinity for images that withstand every radius.
    """

    epsilons: np.ndarray
    broken_at: np.ndarray

    def accuracy(self) -> np.ndarray:
        """Robust (or certified) accuracy at each radius, `[E]`."""
        return (self.broken_at[None] > self.epsilons[:, None]).mean(1)


def sorted_radii(epsilons: Sequence[float | int] | np.ndarray) -> np.ndarray:
    """The radii as an ascending array.

    Raises:
        ValueError: `epsilons` is not a list of one or more non-negative numbers.
    """
    try:
        grid = np.asarray(epsilons, np.float64)
    except (TypeError, ValueError):
        grid = np.zeros(())
    if grid.ndim != 1 or not grid.size or not (grid >= 0).all():
        one = isinstance(epsilons, float | int)
        fix = f"write [{epsilons}]" if one else "such as [2 / 255, 4 / 255, 8 / 255]"
        raise ValueError(f"epsilons must be a list of non-negative numbers; got {epsilons}; {fix}")
    return np.sort(grid)


def robustness_curve(
    key: Key,
    attack: Attack,
    apply_fn: ApplyFn | RandomModel,
    params: Params,
    images: Array,
    labels: Array,
    *,
    epsilons: Sequence[float | int] | np.ndarray,
    vectorize: bool | None = None,
    options: Options = Options(),  # noqa: B008  an immutable record
) -> Curve:
    """Robust accuracy at each radius, with one compilation of the attack.

    On a CPU the attack runs at the radii in ascending order, each time on the images that are still correct. The cost
    is about that of one radius times the sum of the robust accuracies. On accelerators it runs at all radii at once.

    >>> import jax.numpy as jnp
    >>> from invjax import attacks
    >>> linear = lambda params, x: x @ params
    >>> images, labels = np.array([[0.9, 0.1], [0.5, 0.4]], np.float32), np.array([0, 0])
    >>> curve = robustness_curve(
    ...     jax.random.key(0), attacks.fgsm(), linear, jnp.eye(2), images, labels, epsilons=[0.0, 0.1, 0.5]
    ... )
    >>> curve.accuracy().tolist()
    [1.0, 0.5, 0.0]

    Args:
        key: random key; image i draws from `fold_in(key, i)` at every radius.
        attack: an untargeted attack. Its rule of success (`attacks.top_k`, `attacks.confident`) also decides which
            images are broken without a change.
        apply_fn: `(params, x) -> logits [B, K]`, or a model from `attacks.random_model`.
        params: parameters of the model.
        images: `[N, ...]` floats in the attack's box.
        labels: `[N]`, the true classes.
        epsilons: the radii, in the units of the attack's threat, in any order.
        vectorize: whether the attack runs at all radii at once, on all images; by default, unless the backend is a CPU.
        options: batch size, mesh, and the folder in which `curve.npz` keeps finished radii. A folder with another
            key, attack (by its recipe), model, data or list of radii raises an error.

    Returns:
        The curve, with the smallest radius that breaks each image.

    Raises:
        ValueError: the attack is targeted, a radius is negative, images are NaN or outside of the box, logits are NaN,
            labels have another shape or are out of range, or the directory belongs to another run.
    """
    check_options(options)
    _check.key(key)
    grid = sorted_radii(epsilons)
    vectorize = jax.default_backend() != "cpu" if vectorize is None else vectorize
    check_images(attack, images, "images")
    if attack.targeted:
        raise ValueError(f"attack must be untargeted; got {attack.recipe}; make it with targeted=False")
    for eps in grid:
        check_radius(attack.threat, eps, images, "a radius of epsilons")
    _check.one_each("labels", labels, images)
    images, labels = on_host(images), on_host(labels)
    right = unbroken(key, attack, apply_fn, params, images, labels, options)
    store = kept(options, "curve.npz", params, images, labels, right,
                 attack=attack.recipe, epsilons=grid.tolist(), key=digest_tree(key),
                 **({"draws": apply_fn.draws} if isinstance(apply_fn, RandomModel) else {}))  # fmt: skip
    saved = store.load()
    if saved is None:
        saved = {"broken_at": np.where(right, np.inf, 0.0), "finite": np.ones(len(images), bool), "done": np.array(0)}
    broken_at, done = saved["broken_at"], int(saved["done"])
    finite = saved.get("finite", np.ones(len(images), bool))  # older files lack it

    def attacked(ids, function):
        inputs = [images[ids], labels[ids], ids.astype(np.uint32)]
        return over_batches(function, inputs, options.batch_size, options.mesh)

    radii = np.asarray(grid, wide_dtype(images.dtype))
    if vectorize and done < grid.size:
        ids = np.flatnonzero(right)
        if ids.size:
            hit, smooth = attacked(ids, partial(_program(attack, apply_fn, True), key, params, radii))
            broken_at[ids], finite[ids] = np.where(hit.any(1), grid[hit.argmax(1)], np.inf), smooth.all(1)
        done = grid.size
        store.save(broken_at=broken_at, finite=finite, done=done)
    one = partial(_program(attack, apply_fn, False), key, params)
    bar = progress(done, grid.size, "robustness curve")
    for i in range(done, grid.size):
        ids = np.flatnonzero(np.isinf(broken_at))
        if ids.size:
            hit, smooth = attacked(ids, partial(one, radii[i]))
            broken_at[ids[hit]], finite[ids] = grid[i], finite[ids] & smooth
        store.save(broken_at=broken_at, finite=finite, done=i + 1)
        bar.update()
        bar.set_postfix(correct=int(np.isinf(broken_at).sum()))
    bar.close()
    warn_of_gradients(attack.recipe, finite)
    return Curve(grid, broken_at)


@cached
def _program(attack: Attack, apply_fn: ApplyFn | RandomModel, every: bool) -> Callable[..., Any]:
    """The compiled attack at one radius, or at every radius."""

    def breaks(key, params, eps, x, y, ids):
        result = attack(key, bind(apply_fn, params, key, ids, len(x)), x, y, eps=eps, ids=ids)
        return result.success, sound(result)

    return on_device(jax.jit(jax.vmap(breaks, (None, None, 0, None, None, None), 1) if every else breaks))
