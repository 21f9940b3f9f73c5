"""Named data sets, in the order in which their authors published them.

`digits` is part of scikit-learn. For any other data set `load` searches `data_dir` alone, or without it `$INVJAX_DATA`,
`$TFDS_DATA_DIR` and `~/tensorflow_datasets`, in this order. A folder may hold the four original MNIST files (also
inside `mnist_idx/`, `mnist/` or `MNIST/raw/`), or data sets that TensorFlow Datasets prepared as array_record (also
inside `tfds/`). `load` needs no TensorFlow and downloads nothing.
"""

import os
from pathlib import Path

import numpy as np

from invjax import _check
from invjax._store import local_path
from invjax.data._dataset import Dataset
from invjax.data._idx import idx_files, read_idx_pair
from invjax.data._require import require
from invjax.data._tfds import prepare_command, read_tfds, tfds_files

_NUM_CLASSES = {"digits": 10, "mnist": 10, "cifar10": 10, "imagenet2012": 1000}


def load(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load one split of a named data set, in its published order.

    >>> digits = load("digits", "test")
    >>> digits.images.shape, digits.images.dtype.name, digits.num_classes, digits.levels
    ((360, 8, 8, 1), 'uint8', 10, 17)

    Args:
        name: 'digits' (8x8x1), 'mnist' (28x28x1), 'cifar10' (32x32x3) or 'imagenet2012' (224x224x3, by file name).
        split: 'train' or 'test'. The test split of imagenet2012 is ILSVRC's validation split, whose labels are public.
            The test split of digits is every fifth image of each class, 360 of 1,797; the same people wrote the digits
            of both splits.
        data_dir: the only folder to search. The default is to search `$INVJAX_DATA`, `$TFDS_DATA_DIR` and
            `~/tensorflow_datasets`.

    Returns:
        A `Dataset`. Images decoded from TFDS are cached in `$INVJAX_CACHE`, by default `~/.cache/invjax`. For
        imagenet2012 only the labels are cached: its first load reads every record once, undecoded (6 GB for test, 140
        GB for train).

    Raises:
        ValueError: the name or the split is unknown, or a file is damaged.
        FileNotFoundError: no folder has the data set; the message says how to get it.
        ImportError: a package of `invjax[experiments]` is missing.
    """
    _check.one_of("name", name, _NUM_CLASSES)
    _check.one_of("split", split, ("train", "test"))
    if name == "digits":
        return Dataset(*_digits(split), _NUM_CLASSES[name], levels=17)
    tfds_split = "validation" if (name, split) == ("imagenet2012", "test") else split
    folders = data_folders(data_dir)
    for folder in folders:
        if name == "mnist" and (pair := idx_files(folder, split)):
            return Dataset(*read_idx_pair(*pair), _NUM_CLASSES[name])
        if files := tfds_files(folder, name, tfds_split):
            return Dataset(*read_tfds(files, name, tfds_split), _NUM_CLASSES[name])
    raise FileNotFoundError(_not_found(name, tfds_split, folders))


def data_folders(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """The folders to search: `data_dir` alone, or the usual ones if it is not given."""
    usual = (os.environ.get("INVJAX_DATA"), os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets")
    if data_dir:
        return [local_path(os.fspath(data_dir))]
    return [Path(os.path.expanduser(folder)) for folder in usual if folder]


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    digits = require("sklearn.datasets").load_digits()
    # Every fifth image of the list sorted by class: stratified, and independent of any random generator.
    test = np.zeros(len(digits.target), bool)
    test[np.argsort(digits.target, kind="stable")[::5]] = True
    chosen = test if split == "test" else ~test
    return digits.images[chosen, :, :, None].astype(np.uint8), digits.target[chosen].astype(np.int32)


def _not_found(name: str, split: str, folders: list[Path]) -> str:
    target = folders[0]
    wanted, first = f"{name}/<version>/{name}-{split}.array_record-* (prepared by TFDS)", ""
    if name == "mnist":
        wanted = (
            "the IDX files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
            f"t10k-labels-idx1-ubyte (each may end in .gz), or for {wanted}"
        )
        first = f"Download those four IDX files into {target}. Or p"
    if name == "imagenet2012":
        first = (
            f"Put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {target / 'downloads' / 'manual'} "
            "(TFDS's manual_dir). Then p"
        )

    def note(folder: Path) -> str:
        if not folder.is_dir():
            return " (does not exist)"
        prepared = any((root / name).is_dir() for root in (folder, folder / "tfds"))
        return f" (has {name}, but not this split as array_record: prepare it in a new folder)" if prepared else ""

    searched = "\n".join(f"  {folder}{note(folder)}" for folder in folders)
    return (
        f"{name} was not found. Looked for {wanted} in\n{searched}\n"
        f"{first or 'P'}repare it (this step needs tensorflow, reading does not) with\n"
        f"  {prepare_command(name, target)}\nTo use another folder, pass data_dir or set INVJAX_DATA."
    )
