"""Run a function over a whole data set in batches of one shape."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from invjax import _check
from invjax.training import shard_batch
from invjax.types import ApplyFn, Params


def over_batches(
    function: Callable[..., Any], arrays: Sequence[Any], batch_size: int = 500, mesh: Mesh | None = None
) -> Any:
    """`function(*batch)` for consecutive batches, joined along the first axis, as host arrays.

    The last batch is padded with copies of its first example, so that there is one compilation, and the padding is
    dropped.

    Args:
        function: arrays of `[B, ...]` in, a pytree of arrays `[B, ...]` out; jit it first.
        arrays: of one length N; anything that takes a slice.
        batch_size: B; with a mesh, rounded up to a multiple of its size.
        mesh: spread each batch over these devices.

    Returns:
        The pytree that `function` returns, with leaves `[N, ...]`.
    """
    _check.positive(batch_size=batch_size)
    if mesh is not None:
        batch_size += -batch_size % mesh.size
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"arrays must have one length, at least 1; got {sorted(lengths)}; check the data's split")
    (total,) = lengths
    pieces = []
    for start in range(0, total, batch_size):
        batch = [np.asarray(array[start : start + batch_size]) for array in arrays]
        size = len(batch[0])
        batch = [np.concatenate([b, np.repeat(b[:1], batch_size - size, axis=0)]) for b in batch]
        out = function(*(shard_batch(mesh, batch) if mesh is not None else batch))
        pieces.append(jax.tree.map(lambda leaf, size=size: _on_host(leaf)[:size], out))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def correct(
    apply_fn: ApplyFn, params: Params, images: Any, labels: np.ndarray, batch_size: int = 500, mesh: Mesh | None = None
) -> np.ndarray:
    """Where the model is right, `[N]`.

    Raises:
        ValueError: the model does not give logits `[N, K]`, or gives NaN; labels of another shape or out of range.
    """
    logits = over_batches(partial(jax.jit(apply_fn), params), [images], batch_size, mesh)
    if logits.ndim != 2 or labels.shape != (len(images),):
        raise ValueError(
            f"the model must give logits [{len(images)}, classes] and labels be [{len(images)}]; got {logits.shape} "
            f"and {labels.shape}"
        )
    _check.labels(labels, logits.shape[1])
    _check.finite("the model's logits", logits)
    return logits.argmax(1) == labels


def shrinking(ids: np.ndarray, batch_size: int, multiple: int = 1) -> Iterator[tuple[np.ndarray, int]]:
    """Cut what is left of a data set into batches of few different shapes: `(ids, size to pad them to)`.

    Full batches first; the rest is padded to a power of two times `multiple`, at most `batch_size`.

    >>> [(len(part), size) for part, size in shrinking(np.arange(11), 4)]
    [(4, 4), (4, 4), (3, 4)]
    >>> [(len(part), size) for part, size in shrinking(np.arange(3), 256)]
    [(3, 4)]
    """
    for start in range(0, len(ids), batch_size):
        part = ids[start : start + batch_size]
        yield part, min(batch_size, multiple * 2 ** math.ceil(math.log2(max(len(part) / multiple, 1))))


def _on_host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)
