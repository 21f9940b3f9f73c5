"""A classifier on the straight line between two images."""

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from invjax import _check
from invjax._batching import on_device, over_batches
from invjax.analysis._decision_checks import check_finite, check_logits, check_points
from invjax.types import Array, LogitsFn


def decision_segment(
    logits_fn: LogitsFn,
    first: Float[Array, "batch ..."],
    second: Float[Array, "batch ..."],
    *,
    resolution: int = 21,
    batch_size: int = 500,
    mesh: Mesh | None = None,
) -> Float[np.ndarray, "batch points classes"]:
    """The logits on the straight line from each image of `first` to its partner in `second`.

    >>> import jax.numpy as jnp
    >>> halves = lambda x: jnp.stack([x[:, 0], 1 - x[:, 0]], -1)
    >>> decision_segment(halves, jnp.zeros((1, 1)), jnp.ones((1, 1)), resolution=4).argmax(-1).tolist()
    [[1, 1, 0, 0]]

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`; compile it with `jax.jit` first.
        first: start of each line, `[B, ...]`.
        second: end of each line, `[B, ...]`.
        resolution: number R of equally spaced points on each line, both ends included.
        batch_size: number of points per batch.
        mesh: devices over which each batch is spread.

    Returns:
        The logits, `[B, R, K]`.

    Raises:
        ValueError: the batches have different shapes or an integer dtype or contain NaN; the resolution is below 2; the
            logits are not `[B, K]` or not finite.
    """
    _check.function("logits_fn", logits_fn, "x -> logits")
    check_points(first=first, second=second)
    if resolution < 2:
        raise ValueError(f"resolution must be 2 or more points on each line, because both ends count; got {resolution}")
    fractions = np.linspace(0, 1, resolution, dtype=first.dtype).reshape(1, -1, *[1] * (first.ndim - 1))

    def at(start, end):
        x = (1 - fractions) * start[:, None] + fractions * end[:, None]
        logits = on_device(logits_fn)(x.reshape(-1, *x.shape[2:]))
        check_logits(logits, len(start) * resolution)
        return logits.reshape(len(start), resolution, -1)

    logits = over_batches(at, [first, second], max(1, batch_size // resolution), mesh)
    check_finite(logits, "move the ends closer to the data")
    return logits
