"""The identity of a run: all values that a constructed data set depends on, with hashes of the large ones."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from invjax._dtypes import placeholder
from invjax._store import digest, digest_tree
from invjax.types import Key, Params


def identity(
    key: Key, step: Any, params: Params, arrays: Sequence[Any], batch_size: int, mesh: Mesh | None
) -> dict[str, Any]:
    """All values that a run depends on, in types that JSON can hold.

    Args:
        key: random key of the run.
        step: the compiled function that makes one batch.
        params: parameters of the model.
        arrays: the inputs, of one length.
        batch_size: examples in a step.
        mesh: the devices of a batch; None is one device.

    Raises:
        ValueError: `step` gives no images or no labels.
    """
    batch = [placeholder((batch_size, *array.shape[1:]), array.dtype) for array in arrays]
    lowered = step.lower(params, key, jax.ShapeDtypeStruct((batch_size,), np.uint32), *batch)
    missing = {"images", "labels"} - lowered.out_info.keys()
    if missing:
        raise ValueError(f"make must give images and labels; it gives no {' and no '.join(sorted(missing))}")
    program = lowered.as_text()
    return {  # readable values first, because a refusal names the first difference
        "examples": len(arrays[0]),
        "shape": list(arrays[0].shape[1:]),
        "batch_size": batch_size,
        "devices": 1 if mesh is None else mesh.size,
        "backend": jax.default_backend(),
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
        "params_sha256": digest_tree(params),
        "inputs_sha256": digest({str(i): array for i, array in enumerate(arrays)}),
        "key_sha256": digest_tree(key),
        "program_sha256": hashlib.sha256(program.encode()).hexdigest(),
    }


def comparable(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of two recipes that must agree for a finished data set to be the wanted one.

    These are all but the machine, and the hash of the compiled program, which depends on the machine, where that
    differs.

    Args:
        found: the recipe of the finished data set.
        wanted: the recipe of this run, with the batch size of the finished data set.
    """
    left_out = {"devices", "backend", "versions"}
    if any(found.get(name) != wanted.get(name) for name in ("backend", "versions")):
        left_out.add("program_sha256")
    return (
        {name: value for name, value in found.items() if name not in left_out},
        {name: value for name, value in wanted.items() if name not in left_out},
    )
