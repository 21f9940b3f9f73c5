"""Certified accuracy of a model on a data set, as a function of the radius.

    certified accuracy  <=  accuracy under the worst change  <=  accuracy under any attack

Bounds give the left side, and attacks give the right side.
"""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from invjax import _box, _check
from invjax._batching import correct, on_device, on_host, over_batches
from invjax._dtypes import wide_dtype
from invjax._progress import progress
from invjax.attacks import THREATS
from invjax.attacks.building import check_radius
from invjax.bounds import METHODS, certified, l2_ball, linf_box, margins
from invjax.evaluation._curve import Curve, sorted_radii
from invjax.evaluation._options import Options, check_options, kept
from invjax.types import ApplyFn, Array, Box, Params

# Certificates exist for these balls alone: `bounds` computes bounds over boxes and over l2 balls.
REGIONS = {"linf": linf_box, "l2": l2_ball}
"""The balls that can be certified, by the name of their norm."""


def certificate_curve(
    apply_fn: ApplyFn,
    params: Params,
    images: Array,
    labels: Array,
    *,
    epsilons: Sequence[float | int] | np.ndarray,
    norm: str = "linf",
    method: str = "crown-ibp",
    box: Box = (0.0, 1.0),
    slack: float = 1e-4,
    options: Options = Options(),  # noqa: B008  an immutable record
) -> Curve:
    """Certified accuracy at each radius: the fraction of images whose label wins everywhere in the ball.

    Args:
        apply_fn: `(params, x) -> logits`; each image's logits depend on that image alone.
        params: parameters of the model.
        images: `[N, ...]` in `box`.
        labels: `[N]`, the true classes.
        epsilons: the radii, in the units of the norm, in any order.
        norm: 'linf' or 'l2'; for 'l2' the method 'ibp' bounds the box around the ball.
        method: one of `bounds.METHODS`, see `bounds.margins`.
        box: the range of pixel values, to which the balls are clipped; arrays give each feature a range of its own.
        slack: the margin by which the label must win, see `bounds.certified`.
        options: batch size, mesh, and the folder in which `certificate.npz` keeps finished radii.

    Returns:
        A `Curve` whose `broken_at` is the smallest radius such that no radius from it on has a certificate. A
        certificate at one radius implies one at every smaller radius, even if the bounds there are too loose.

    Raises:
        ValueError: a radius is negative, the norm or the method is unknown, images lie outside of `box`, labels have
            another shape, or the directory belongs to another run.
        NotImplementedError: the model has a primitive without a rule; see `bounds.register_rule`.
    """
    check_options(options)
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    _check.one_of("norm", norm, tuple(REGIONS))
    _check.one_of("method", method, METHODS)
    _check.within("images", images, box)
    _check.one_each("labels", labels, images)
    grid, images, labels = sorted_radii(epsilons), on_host(images), on_host(labels)
    check_radius(THREATS[norm](box), float(grid[-1]), images, "a radius of epsilons")
    batch_size, mesh = options.batch_size, options.mesh
    right = correct(apply_fn, params, images, labels, batch_size, mesh)
    store = kept(options, "certificate.npz", params, images, labels, right,
                 epsilons=grid.tolist(), norm=norm, method=method, slack=slack,
                 box=tuple(map(float, box)) if _box.is_uniform(box) else _box.text(box))  # fmt: skip
    saved = store.load()
    holds = np.zeros((len(labels), len(grid)), bool) if saved is None else saved["holds"]
    done = 0 if saved is None else int(saved["done"])
    run = partial(on_device(jax.jit(partial(_certified, apply_fn, norm, method, box, slack))), params)
    candidates = np.flatnonzero(right)
    bar = progress(done, grid.size, "certificate")
    for i in range(done, grid.size):
        if candidates.size:
            certify = partial(run, np.asarray(grid[i], wide_dtype(images.dtype)))
            holds[candidates, i] = over_batches(certify, [images[candidates], labels[candidates]], batch_size, mesh)
        store.save(holds=holds, done=i + 1)
        bar.update()
    bar.close()
    known = np.logical_or.accumulate(holds[:, ::-1], 1)[:, ::-1]
    first = np.where(known.all(1), np.inf, grid[known.argmin(1)])
    return Curve(grid, np.where(right, first, 0.0))


def _certified(apply_fn, norm, method, box, slack, params, eps, x, labels):
    region = REGIONS[norm](x, eps, box=box)
    return certified(margins(partial(apply_fn, params), region, labels, method=method), slack=slack)
