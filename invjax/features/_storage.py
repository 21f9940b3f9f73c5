"""Data sets on disk: whole files only, with their recipe and a hash of what they hold."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invjax._store import digest, read_arrays, write_arrays


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
