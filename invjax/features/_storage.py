"""Data sets on disk: whole files only, with their recipe and a hash of what they hold."""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

_HASHED = 1024
"""Rows hashed at once."""


class Constructed(NamedTuple):
    """A data set that was made.

    Attributes:
        images: `[N, ...]`.
        labels: `[N]`.
        details: `{name: [N, ...]}`, what else is known of each example.
        recipe: what, by what and from what it was made.
        sha256: of images, labels and details.
    """

    images: np.ndarray
    labels: np.ndarray
    details: dict[str, np.ndarray]
    recipe: dict[str, Any]
    sha256: str


def digest(arrays: Mapping[str, Any]) -> str:
    """SHA-256 of names, dtypes, shapes and values. Arrays only need a length, a dtype, a shape and slices."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name} {array.dtype} {tuple(array.shape)};".encode())
        rows = [array] if not array.shape else (array[i : i + _HASHED] for i in range(0, len(array), _HASHED))
        for some in rows:
            found.update(np.ascontiguousarray(some).tobytes())
    return found.hexdigest()


def digest_tree(tree: Any) -> str:
    """SHA-256 of a pytree of arrays; typed keys count by their data."""

    def plain(leaf):
        if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return digest({jax.tree_util.keystr(path): plain(leaf) for path, leaf in leaves})


def digest_json(value: Any) -> str:
    """SHA-256 of a value that JSON takes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A `.npz` that is there whole or not at all.

    Raises:
        OSError: it could not be written, such as for want of space; nothing of it is left.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            contents: dict[str, Any] = dict(arrays)
            np.savez(file, **contents)
            file.flush()
            os.fsync(file.fileno())  # a full disk may show only here
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(
            f"could not write {path}: {error.strerror or error}; make room and run again: what was written before it "
            "is whole and will be used"
        ) from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz`.

    Raises:
        ValueError: it is damaged.
    """
    try:
        with path.open("rb") as stream, np.load(stream) as file:  # np.load(path) leaves a damaged file open
            return dict(file)
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it") from error


def save(path: Path, made: Constructed) -> None:
    """Write a data set; the same data set gives the same bytes.

    Raises:
        ValueError: it does not hold what its hash is of, so that its recipe would be another's.
        OSError: it could not be written; nothing of it is left.
    """
    if digest({"images": made.images, "labels": made.labels, **made.details}) != made.sha256:
        raise ValueError(f"made is not what was made: its hash is not {made.sha256!r}; save it as it came")
    about = {"recipe": np.asarray(json.dumps(made.recipe, sort_keys=True)), "sha256": np.asarray(made.sha256)}
    write_arrays(path, {"images": made.images, "labels": made.labels, **made.details, **about})


def load(path: str | Path) -> Constructed:
    """A data set that `save`, or a construction, wrote.

    Raises:
        ValueError: the file is damaged, or does not hold what it held when it was made.
    """
    arrays = read_arrays(Path(path))
    missing = {"images", "labels", "recipe", "sha256"} - arrays.keys()
    if missing:
        raise ValueError(f"{path} is not a constructed data set: it has no {', '.join(sorted(missing))}")
    recipe, sha256 = json.loads(str(arrays.pop("recipe"))), str(arrays.pop("sha256"))
    if digest(arrays) != sha256:
        raise ValueError(f"{path} does not hold what it was made with: its hash differs; make it again")
    images, labels = arrays.pop("images"), arrays.pop("labels")
    return Constructed(images, labels, arrays, recipe, sha256)
