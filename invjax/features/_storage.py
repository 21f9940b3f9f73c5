"""Constructed data sets on disk. Each file is complete, and holds its recipe and a hash of its content."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invjax._store import digest, read_arrays, write_arrays


class Constructed(NamedTuple):
    """A data set that was constructed from a model.

    Attributes:
        images: the constructed images, `[N, ...]`.
        labels: their labels, `[N]`.
        details: `{name: [N, ...]}`, further values of each example.
        recipe: how the data set was made, and from which inputs.
        sha256: hash of images, labels and details.
    """

    images: np.ndarray
    labels: np.ndarray
    details: dict[str, np.ndarray]
    recipe: dict[str, Any]
    sha256: str


def save(path: Path, made: Constructed) -> None:
    """Write a data set; the same data set gives the same bytes.

    Args:
        path: the `.npz` file.
        made: the data set, as it was constructed or loaded.

    Raises:
        ValueError: the arrays do not match their hash, so that the recipe would describe other arrays.
        OSError: the file could not be written; no incomplete file is left.
    """
    if digest({"images": made.images, "labels": made.labels, **made.details}) != made.sha256:
        raise ValueError(f"the arrays do not match their sha256, {made.sha256!r}; pass the `Constructed` unchanged")
    description = {"recipe": np.asarray(json.dumps(made.recipe, sort_keys=True)), "sha256": np.asarray(made.sha256)}
    write_arrays(path, {"images": made.images, "labels": made.labels, **made.details, **description})


def load(path: str | Path) -> Constructed:
    """Read a data set that `save` or one of the constructions wrote.

    Args:
        path: the `.npz` file.

    Raises:
        ValueError: the file is damaged, is not a constructed data set, or does not match its hash.
    """
    arrays = read_arrays(path)
    missing = {"images", "labels", "recipe", "sha256"} - arrays.keys()
    if missing:
        raise ValueError(f"{path} is not a constructed data set: it has no {', '.join(sorted(missing))}")
    recipe, sha256 = json.loads(str(arrays.pop("recipe"))), str(arrays.pop("sha256"))
    if digest(arrays) != sha256:
        raise ValueError(f"the arrays in {path} do not match their sha256; make the data set again")
    images, labels = arrays.pop("images"), arrays.pop("labels")
    return Constructed(images, labels, arrays, recipe, sha256)
