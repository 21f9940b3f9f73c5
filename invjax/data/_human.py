r"""Invariance examples made from MNIST digits, with the labels that people gave them.

Invariance attacks changed 100 test digits within l0 and linf balls, and the authors edited 50 digits manually, so that
people see another class in many of them. A model that keeps its prediction there is too invariant;
`evaluation.agreement` counts how often a model agrees with people.

Source: Tramèr et al. 2020, section 4, tables 1 and 2; the data are those of their repository
`github.com/ftramer/Excessive-Invariance` (MIT licence).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

from invjax.data._load import data_folders, load

# name: (file of the images, whose name with _labels has people's labels; file of test indices; norm; radius)
_SETS = {
    "l0": ("l0/automated", "indexs", "l0", None),
    "linf 0.3": ("linf/automated_eps03", "indexs", "linf", 0.3),
    "linf 0.4": ("linf/automated_eps04", "indexs", "linf", 0.4),
    "manual linf 0.4": ("linf/manual_eps04", "linf/manual_indexs", "linf", 0.4),
}
_PLACES = ("", "excessive_invariance", "Excessive-Invariance")


class HumanLabelled(NamedTuple):
    """The examples of one attack, with pixel values in [0, 1].

    Attributes:
        images: the images that people were shown.
        human: the class that people saw in each image.
        originals: the MNIST test images from which the examples were made.
        labels: the classes of the originals.
        ids: the indices of the originals in MNIST's test set.
        norm: the norm of the attack, 'l0' or 'linf'.
        eps: the radius of the attack; None for l0, where each example has a radius of its own. The published images of
            radius 0.4 reach 103 / 255, slightly more than 0.4.
    """

    images: Float32[np.ndarray, "N 28 28 1"]
    human: Int32[np.ndarray, " N"]
    originals: Float32[np.ndarray, "N 28 28 1"]
    labels: Int32[np.ndarray, " N"]
    ids: Int32[np.ndarray, " N"]
    norm: str
    eps: float | None

    @property
    def changed(self) -> Bool[np.ndarray, " N"]:
        """Whether the attack succeeded, `[N]`: people see another class than the original's."""
        return self.human != self.labels


def human_labelled(data_dir: str | os.PathLike[str] | None = None) -> dict[str, HumanLabelled]:
    """Load all four sets: 'l0', 'linf 0.3', 'linf 0.4' (100 images each) and 'manual linf 0.4' (50 images).

    In these sets 55, 21, 37 and 44 images are `changed`, which are the published 55, 21, 37 and 88 %. The authors
    published one label for each image; they published neither the single votes nor the images on which people
    disagreed.

    Args:
        data_dir: the only folder to search, both for these files (also inside `excessive_invariance/` or
            `Excessive-Invariance/`) and for MNIST, as `load` does. The default is to search `$INVJAX_DATA`,
            `$TFDS_DATA_DIR` and `~/tensorflow_datasets`.

    Returns:
        The sets by name.

    Raises:
        FileNotFoundError: no folder has the files, or no folder has MNIST; the message says how to get them.
        ValueError: a file is damaged.

    Source: Tramèr et al. 2020, table 1.
    """
    files = [f"{stem}.npy" for images, ids, *_ in _SETS.values() for stem in (images, f"{images}_labels", ids)]
    root = _find(data_folders(data_dir), sorted(set(files)))
    mnist = load("mnist", "test", data_dir)
    sets = {}
    for name, (stem, index, norm, eps) in _SETS.items():
        images = _read(root / f"{stem}.npy", 256, (28, 28))
        human = _read(root / f"{stem}_labels.npy", 10, ())
        ids = _read(root / f"{index}.npy", len(mnist.labels), ())
        if not len(images) == len(human) == len(ids):
            raise ValueError(
                f"{root / stem}.npy has {len(images)} images, {len(human)} labels and {len(ids)} indices; "
                "fetch all of them again"
            )
        ids = ids.astype(np.int32)
        originals = _scaled(mnist.images[ids])
        sets[name] = HumanLabelled(
            _scaled(images[..., None]), human.astype(np.int32), originals, mnist.labels[ids], ids, norm, eps
        )
    return sets


def _scaled(images: np.ndarray) -> np.ndarray:
    # the scale of `as_float`, which refuses the half-integers of one of the sets
    return images.astype(np.float32) * np.float32(1 / 255)


def _find(folders: Sequence[Path], files: list[str]) -> Path:
    """The first folder `invariance_examples` that has all files."""
    missing = {}
    for folder in folders:
        for place in _PLACES:
            root = folder / place / "invariance_examples"
            absent = [file for file in files if not (root / file).is_file()]
            if not absent:
                return root
            if root.is_dir():
                missing[root] = absent
    parts = [f"  {root} lacks {', '.join(absent)}" for root, absent in missing.items()]
    searched = "\n".join(parts or [f"  {folder}" for folder in folders])
    target = folders[0] / _PLACES[1]
    raise FileNotFoundError(
        f"the human-labelled invariance examples were not found. Looked for invariance_examples/ in\n{searched}\n"
        f"Fetch them with\n  git clone https://github.com/ftramer/Excessive-Invariance {target}\n"
        "To use another folder, pass data_dir or set INVJAX_DATA."
    )


def _read(path: Path, levels: int, shape: tuple[int, ...]) -> np.ndarray:
    """An array `[N, *shape]` of numbers from 0 to `levels` - 1."""
    damaged = f"{path} is damaged; fetch it again"
    try:
        values = np.load(path)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{damaged} ({error})") from error
    if values.ndim != 1 + len(shape) or values.shape[1:] != shape:
        raise ValueError(f"{damaged} (shape {values.shape}, not {('N', *shape)})")
    if not (values.size and values.min() >= 0 and values.max() < levels):  # both comparisons are false for NaN
        raise ValueError(f"{damaged} (it should hold numbers from 0 to {levels - 1})")
    return values
