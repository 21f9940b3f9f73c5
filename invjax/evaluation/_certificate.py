r"""What surely holds on a data set: certified accuracy against eps, the lower slice of the sandwich

certified accuracy  <=  accuracy under the worst change  <=  accuracy under any attack.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invjax import _check
from invjax._batching import correct, over_batches
from invjax.bounds import METHODS, certified, l2_ball, linf_box, margins
from invjax.evaluation._curve import Curve
from invjax.types import ApplyFn, Box, Params

REGIONS = {"linf": linf_box, "l2": l2_ball}
"""By the threat's name, the ball that can be certified."""


def certificate_curve(
    apply_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epsilons: Sequence[float | int] | np.ndarray,
    norm: str = "linf",
    method: str = "crown-ibp",
    box: Box = (0.0, 1.0),
    slack: float = 1e-4,
    batch_size: int = 128,
    mesh: Mesh | None = None,
) -> Curve:
    """Certified accuracy at each of `epsilons`: the share of images whose label wins everywhere in the ball.

    Args:
        apply_fn: `(params, x) -> logits`, each image's depending on that image alone.
        params: of the model.
        images: `[N, ...]` in `box`.
        labels: `[N]`.
        epsilons: the radii, in any order.
        norm: 'linf' or 'l2'; for l2 only the CROWN methods use more than the box around the ball.
        method: 'ibp', 'crown-ibp' or 'crown', see `bounds.margins`.
        box: the range of pixels, to which the balls are clipped.
        slack: by which a margin must exceed 0, see `bounds.certified`.
        batch_size: images certified at once.
        mesh: spread each batch over these devices.

    Returns:
        A `Curve`, whose `broken_at` is the smallest radius at which, and beyond which, there is no certificate. What
        is certified at one radius is so at all smaller ones, also where the bounds at those fail to show it.

    Raises:
        ValueError: negative radii, another norm or method, images outside `box`, labels of another shape.
        NotImplementedError: the model has a primitive without a rule; see `bounds.register_rule`.
    """
    _check.one_of("norm", norm, tuple(REGIONS))
    _check.one_of("method", method, METHODS)
    _check.within("images", images, box)
    grid = np.asarray(epsilons, np.float64)
    if grid.ndim != 1 or not grid.size or not (grid >= 0).all():
        raise ValueError(f"epsilons must be a list of numbers that are not negative; got {epsilons}")
    grid, labels = np.sort(grid), np.asarray(labels)
    right = correct(apply_fn, params, images, labels, batch_size, mesh)
    holds = np.zeros((len(labels), len(grid)), bool)
    run = partial(jax.jit(partial(_certified, apply_fn, norm, method, box, slack)), params)
    standing = np.flatnonzero(right)
    for i, eps in enumerate(grid):
        if standing.size:
            certify = partial(run, jnp.asarray(eps, images.dtype))
            holds[standing, i] = over_batches(certify, [images[standing], labels[standing]], batch_size, mesh)
    known = np.logical_or.accumulate(holds[:, ::-1], 1)[:, ::-1]
    first = np.where(known.all(1), np.inf, grid[known.argmin(1)])
    return Curve(grid, np.where(right, first, 0.0))


def _certified(apply_fn, norm, method, box, slack, params, eps, x, labels):
    region = REGIONS[norm](x, eps, box=box)
    return certified(margins(partial(apply_fn, params), region, labels, method=method), slack=slack)
