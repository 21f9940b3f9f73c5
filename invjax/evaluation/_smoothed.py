"""Certified accuracy of a smoothed classifier on a data set, as a function of the l2 radius."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from invjax import _check
from invjax._batching import cached, correct, on_device, on_host, over_batches
from invjax._dtypes import check_noise
from invjax._progress import progress
from invjax._store import digest_tree
from invjax.bounds import Smoothed, smoothed, smoothing_radius
from invjax.evaluation._curve import Curve, sorted_radii
from invjax.evaluation._options import Options, check_options, kept
from invjax.types import ApplyFn, Array, Key, Params


def smoothed_curve(
    key: Key,
    apply_fn: ApplyFn,
    params: Params,
    images: Array,
    labels: Array,
    *,
    epsilons: Sequence[float | int] | np.ndarray,
    sigma: float,
    trials: int = 1000,
    selection: int = 100,
    alpha: float = 1e-3,
    options: Options = Options(),  # noqa: B008  an immutable record
) -> Curve:
    """Certified accuracy of the smoothed classifier at each l2 radius, with one compilation for the data set.

    >>> import jax.numpy as jnp
    >>> linear = lambda params, x: x @ params
    >>> images, labels = np.array([[0.9, 0.1], [0.5, 0.45]], np.float32), np.array([0, 0])
    >>> smoothed_curve(
    ...     jax.random.key(0), linear, jnp.eye(2), images, labels, epsilons=[0.0, 0.2, 1.0], sigma=0.25, trials=200
    ... ).accuracy().tolist()
    [0.5, 0.5, 0.0]

    Args:
        key: random key; image i draws from `fold_in(key, i)`.
        apply_fn: `(params, x) -> logits [B, K]`, the base classifier, which needs training with noise.
        params: parameters of the model.
        images: `[N, ...]` floats. Their noisy copies are not clipped.
        labels: `[N]`, the true classes.
        epsilons: the l2 radii of the curve, in units of the images, in any order.
        sigma: standard deviation of the noise, in units of the images.
        trials: number of noisy copies of each image that count its class.
        selection: number of noisy copies of each image that choose its class.
        alpha: probability, for each image, that its radius is wrong.
        options: batch size, mesh, and the folder in which `smoothed.npz` keeps finished batches.

    Returns:
        A `Curve` whose `broken_at` is the certified radius of each image itself, not rounded to a radius of the list.
        It is 0 where the smoothed classifier predicts another class or abstains.

    Raises:
        ValueError: a radius is negative, `sigma` or a count is not positive, `alpha` is outside (0, 1), images are
            integers or contain NaN or are too coarse for the noise, labels have another shape or are out of range, or
            the directory belongs to another run.

    Source: Cohen, Rosenfeld, Kolter 2019, *Certified Adversarial Robustness via Randomized Smoothing*, section 4.
    """
    check_options(options)
    _check.key(key)
    grid = sorted_radii(epsilons)
    smoothing_radius(0, trials, sigma=sigma, alpha=alpha)  # which checks the three
    _check.count(selection=selection)
    _check.real("images", images)
    check_noise("images", images, sigma)
    _check.one_each("labels", labels, images)
    images, labels = on_host(images), on_host(labels)
    right = correct(apply_fn, params, images, labels, options.batch_size, options.mesh)
    store = kept(options, "smoothed.npz", params, images, labels, right,
                 key=digest_tree(key), sigma=sigma, trials=trials, selection=selection, alpha=alpha)  # fmt: skip
    saved = store.load()
    if saved is None:
        count = len(images)
        saved = {"label": np.zeros(count, np.int32), "radius": np.zeros(count, np.float32), "done": np.array(0)}
    label, radius, done = saved["label"], saved["radius"], int(saved["done"])
    run = partial(_program(apply_fn, sigma, trials, selection, alpha), key, params)
    size = options.batch_size
    bar = progress(math.ceil(done / size), math.ceil(len(images) / size), "smoothing")
    for start in range(done, len(images), size):
        part = slice(start, min(start + size, len(images)))
        ids = np.arange(part.start, part.stop, dtype=np.uint32)
        label[part], radius[part] = over_batches(run, [images[part], ids], size, options.mesh)
        store.save(label=label, radius=radius, done=part.stop)
        bar.update()
    bar.close()
    return Curve(grid, np.where(label == labels, radius, 0).astype(np.float64))


@cached
def _program(apply_fn: ApplyFn, sigma: float, trials: int, selection: int, alpha: float) -> Callable[..., Any]:
    """The compiled certificates of one batch."""

    def certify(key, params, x, ids) -> Smoothed:
        model = partial(apply_fn, params)
        return smoothed(key, model, x, sigma=sigma, trials=trials, selection=selection, alpha=alpha, ids=ids)

    return on_device(jax.jit(certify))
