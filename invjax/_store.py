"""Arrays kept between runs: whole files only, and only of the same inputs."""

import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np


def digest(directory: Any, *arrays: Any) -> str:
    """A hash of all values, where there is something to compare it with."""
    if directory is None:
        return ""
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(arrays))).hexdigest()


class Kept:
    """Arrays in a `.npz` that is written whole or not at all, and refused if it was made from other inputs."""

    def __init__(self, path: Path | None, **identity: Any):
        self.path, self.identity = path, {name: np.asarray(value) for name, value in identity.items()}

    def load(self) -> dict[str, np.ndarray] | None:
        if self.path is None or not self.path.exists():
            return None
        with np.load(self.path) as file:
            arrays = dict(file)
        for name, value in self.identity.items():
            if not np.array_equal(arrays.pop(name, None), value, equal_nan=value.dtype.kind == "f"):
                raise ValueError(f"{self.path} belongs to another run: its {name} differs; give another directory")
        return arrays

    def save(self, **arrays: Any) -> None:
        if self.path is not None and jax.process_index() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_name(self.path.name + ".part")
            with part.open("wb") as file:
                contents: dict[str, Any] = {**arrays, **self.identity}
                np.savez(file, **contents)
            os.replace(part, self.path)
