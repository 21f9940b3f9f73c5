"""Run a function over a whole data set, in batches of one shape that are spread over the devices of a mesh."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial, wraps
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from invjax import _check, _logits
from invjax._dtypes import placeholder
from invjax._progress import progress
from invjax._store import digest_tree
from invjax.types import ApplyFn, Params


def data_mesh(devices: Iterable[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, "data". Each device holds the parameters and takes its part of every batch.

    >>> dict(data_mesh(jax.devices()[:1]).shape)
    {'data': 1}

    Args:
        devices: the devices of the mesh; None uses all of them.

    Returns:
        The mesh, for `shard_batch`, `training.fit` and `evaluation.Options`.
    """
    return Mesh(np.array(list(jax.devices() if devices is None else devices)), ("data",), axis_types=(AxisType.Auto,))


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled function, with host arrays put on the device first: `jax.transfer_guard` refuses implicit transfers.

    Args:
        function: a compiled function of pytrees of arrays.
    """

    def put(leaf):
        return leaf if isinstance(leaf, jax.Array) else jax.device_put(leaf)

    return lambda *arrays: function(*jax.tree.map(put, arrays))


def shard_batch(mesh: Mesh, batch: Any) -> Any:
    """Spread the leading axis of host arrays over the mesh. Arrays without an axis go to every device.

    Each of several hosts passes the same whole batch, as `data.batches` gives it, and keeps its own part.

    Args:
        mesh: a mesh from `data_mesh`, or any mesh of one axis, "data".
        batch: a pytree of arrays `[B, ...]` or scalars.

    Returns:
        The same pytree of device arrays.

    Raises:
        ValueError: the number of devices does not divide B, or the mesh has other axes than "data".
    """
    if mesh.axis_names != ("data",):
        raise ValueError(f"the mesh must have one axis named data; got {mesh}; use data_mesh()")
    for leaf in jax.tree.leaves(batch):
        _check.divisible(f"a batch over {mesh.size} devices", leaf.shape[:1], mesh.size, "change the batch size")

    def spread(leaf):
        sharding = NamedSharding(mesh, PartitionSpec("data") if leaf.ndim else PartitionSpec())
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(spread, batch)


def same_on_hosts(mesh: Mesh | None, what: str, tree: Any, fix: str) -> None:
    """Check by a hash that each of several hosts passes the same values, if the mesh spans all hosts.

    Args:
        mesh: a mesh from `data_mesh`; with None, or on devices of one host, there is nothing to check.
        what: the name of the values in the message.
        tree: a pytree of arrays, whole on every host.
        fix: what to do, the end of the message.

    Raises:
        ValueError: a host passes other values than the first one; all hosts raise the error.
    """
    hosts = set() if mesh is None else {device.process_index for device in mesh.devices.flat}
    if len(hosts) < 2 or len(hosts) < jax.process_count():  # the comparison needs an answer of every host
        return
    own = np.frombuffer(bytes.fromhex(digest_tree(tree)), np.uint32)
    found = np.asarray(multihost_utils.process_allgather(own)).reshape(jax.process_count(), -1)
    differ = np.flatnonzero((found != found[:1]).any(1)).tolist()
    if differ:
        raise ValueError(f"{what} must be the same on every host; got others on hosts {differ} than on host 0; {fix}")


_WHOLE = "pass the same whole arrays on every host, of which each host computes its part"


def over_batches(
    function: Callable[..., Any],
    arrays: Sequence[Any],
    batch_size: int = 500,
    mesh: Mesh | None = None,
    *,
    description: str | None = None,
) -> Any:
    """Call `function(*batch)` on consecutive batches and join the results along the first axis.

    Every batch has the same shape, so the function compiles once: the last batch is padded with copies of its first
    example, and the padding is dropped from the result.

    >>> over_batches(lambda x: 2 * x, [np.arange(5)], batch_size=2)
    array([0, 2, 4, 6, 8])

    Args:
        function: a function of arrays `[B, ...]` that returns a pytree of arrays `[B, ...]`; pass a jitted one.
        arrays: arrays of one length N, or any objects with a length and slices.
        batch_size: B. With a mesh, B is rounded up to a multiple of the number of devices.
        mesh: devices that share each batch; None uses one device.
        description: text of a progress bar over the batches; None shows no bar.

    Returns:
        The pytree that `function` returns, as host arrays `[N, ...]`.

    Raises:
        ValueError: there are no examples, the arrays differ in length, the batch size is not positive, or the function
            returns an array whose first axis is not the batch, such as a mean over it.
    """
    _check.function("function", function, "of arrays [B, ...]")
    _check.count(batch_size=batch_size)
    if mesh is not None:
        batch_size += -batch_size % mesh.size
    arrays = [on_host(array) if isinstance(array, jax.Array) else array for array in arrays]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"arrays must have one length, at least 1; got {sorted(lengths)}; check the split of the data")
    (total,) = lengths
    pieces: list[Any] = []
    bar = None if description is None else progress(0, math.ceil(total / batch_size), description)
    for start in range(0, total, batch_size):
        batch = [np.asarray(array[start : start + batch_size]) for array in arrays]
        size = len(batch[0])
        if not start:
            same_on_hosts(mesh, "data sets", [np.asarray(total), *batch], _WHOLE)
        batch = [np.concatenate([b, np.repeat(b[:1], batch_size - size, axis=0)]) for b in batch]
        out = function(*(shard_batch(mesh, batch) if mesh is not None else batch))
        for leaf in jax.tree.leaves(out):
            if np.shape(leaf)[:1] != (batch_size,):
                raise ValueError(
                    f"the function must return one entry for each of the {batch_size} examples of a batch, the last of "
                    f"which are padding; got shape {np.shape(leaf)}; return values [B, ...] and reduce them afterwards"
                )
        pieces.append(jax.tree.map(lambda leaf, size=size: on_host(leaf)[:size], out))
        if bar is not None:
            bar.update()
    if bar is not None:
        bar.close()
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def correct(
    apply_fn: ApplyFn, params: Params, images: Any, labels: np.ndarray, batch_size: int = 500, mesh: Mesh | None = None
) -> np.ndarray:
    """Whether the model classifies each image correctly, `[N]`.

    >>> correct(lambda params, x: x @ params, np.eye(2), np.array([[3.0, 1.0], [2.0, 5.0]]), np.array([0, 0]))
    array([ True, False])

    Args:
        apply_fn: `(params, x) -> logits [B, K]`.
        params: parameters of the model.
        images: `[N, ...]`, the images to classify.
        labels: `[N]`, the true classes.
        batch_size: number of images in a batch.
        mesh: devices that share each batch; None uses one device.

    Raises:
        ValueError: the model does not return logits `[N, K]` or returns NaN, or labels have another shape or are out of
            range.
    """
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    _check.count(batch_size=batch_size)
    _check.examples("images", images)
    _check.one_each("labels", labels, images)
    example = placeholder((batch_size, *images.shape[1:]), images.dtype)
    _check.labels(labels, _logits.num_classes(partial(jax.jit(apply_fn), params), example, None))
    same_on_hosts(mesh, "parameters", params, "load the same checkpoint on every host")
    logits = over_batches(partial(on_device(jax.jit(apply_fn)), params), [images], batch_size, mesh)
    _check.no_nan("the model's logits", logits)
    return logits.argmax(1) == labels


def shrinking(ids: np.ndarray, batch_size: int, multiple: int = 1) -> Iterator[tuple[np.ndarray, int]]:
    """Cut the remaining examples into batches `(ids, padded size)` of few different shapes.

    All batches but the last are full. The last one is padded to a power of two times `multiple`, at most `batch_size`.

    >>> [(len(part), size) for part, size in shrinking(np.arange(11), 4)]
    [(4, 4), (4, 4), (3, 4)]
    >>> [(len(part), size) for part, size in shrinking(np.arange(3), 256)]
    [(3, 4)]

    Args:
        ids: `[M]`, positions in the data set.
        batch_size: the largest size of a batch.
        multiple: number of devices, which divides every size below `batch_size`.
    """
    for start in range(0, len(ids), batch_size):
        part = ids[start : start + batch_size]
        yield part, min(batch_size, multiple * 2 ** math.ceil(math.log2(max(len(part) / multiple, 1))))


def cached(make: Callable[..., Any]) -> Callable[..., Any]:
    """`functools.lru_cache` for functions that make compiled functions; arguments without a hash are not cached.

    A second call with the same attack and model then compiles nothing.
    """
    kept = lru_cache(maxsize=32)(make)

    @wraps(make)
    def made(*arguments):
        try:
            hash(arguments)
        except TypeError:
            return make(*arguments)
        return kept(*arguments)

    return made


def on_host(leaf: Any) -> np.ndarray:
    """An array as a host array, gathered from all processes."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(jax.device_get(leaf))
