"""Data sets that TensorFlow Datasets (TFDS) prepared as array_record files, in their published order.

TFDS shuffles the examples when it prepares a data set. Reading undoes the shuffle, and decoded images are cached.
Reading needs the packages `tensorflow_datasets` and `array_record`, but not TensorFlow.
"""

import hashlib
import io
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from invjax.data._dataset import LazyImages
from invjax.data._require import require

Pair = tuple[np.ndarray, np.ndarray]


def tfds_files(folder: Path, name: str, split: str) -> list[Path]:
    """The array_record files of the newest version of one split; an empty list if there are none."""
    # A glob, unlike tfds.builder, finds versions that this TFDS does not know, and a cached load never imports TFDS.
    found = [
        path
        for root in (folder, folder / "tfds")
        for path in root.glob(f"{name}/*/{name}-{split}.array_record*")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)  # not an unfinished 3.0.1.incompleteXYZ
    ]
    newest = max((path.parent for path in found), key=lambda v: [int(n) for n in v.name.split(".")], default=None)
    return sorted(path for path in found if path.parent == newest)


def read_tfds(files: list[Path], name: str, split: str) -> tuple[np.ndarray | LazyImages, np.ndarray]:
    """Images and labels in published order.

    Raises:
        ValueError: a file is damaged.
        ImportError: a package is missing.
    """
    folder = files[0].parent
    decode = _index_by_name if name == "imagenet2012" else _decode_all
    try:
        data, labels = _cached(files, f"{name}-{split}", lambda: decode(open_records(folder, split), split))
    except (RuntimeError, OSError) as error:  # array_record and Pillow raise these
        raise ValueError(
            f"{folder} is damaged ({error}); delete that folder, then prepare it again with\n  "
            + prepare_command(name, folder.parents[1])
        ) from error
    return (LazyImages(open_records(folder, split), data) if name == "imagenet2012" else data), labels


def prepare_command(name: str, folder: Path) -> str:
    """The shell command that prepares a data set in a folder."""
    builder = f"tfds.builder('{name}', data_dir='{folder}', file_format='array_record')"
    return f'python -c "import tensorflow_datasets as tfds; {builder}.download_and_prepare()"'


def open_records(folder: Path, split: str) -> Sequence[Any]:
    """The records of a prepared data set as dicts; their images are still encoded."""
    tfds = require("tensorflow_datasets")
    require("array_record.python.array_record_data_source")
    return tfds.builder_from_directory(folder).as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def _decode_all(records: Sequence[Any], split: str) -> Pair:
    """Images and labels in published order."""
    pillow = require("PIL.Image")
    decoded = [(np.asarray(pillow.open(io.BytesIO(record["image"]))), record["label"]) for record in records]
    place = np.argsort(published_order(split, len(decoded)))
    images = np.stack([image for image, _ in decoded])[place]
    return images.reshape(*images.shape[:3], -1), np.array([label for _, label in decoded], np.int32)[place]


def published_order(split: str, size: int) -> list[int]:
    """The published index of each TFDS record.

    TFDS sorts the records of all shards by the md5 hash of the split's name and the index.

    Source: `tensorflow_datasets/core`: `split_builder.py` (the salt), `hashing.py`, `shuffle.py`.
    """
    return sorted(range(size), key=lambda i: hashlib.md5(f"{split}{i}".encode(), usedforsecurity=False).digest())


def _index_by_name(records: Sequence[Any], split: str) -> Pair:
    """The record of each image and its label, in the order of file names."""
    names, labels = zip(*((record["file_name"], record["label"]) for record in records), strict=True)
    order = np.argsort(names)
    return order, np.array(labels, np.int32)[order]


def _cached(files: list[Path], stem: str, decode: Callable[[], Pair]) -> Pair:
    """The result of `decode()`, from the cache if it was called for the same files before."""
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(repr(stamps).encode()).hexdigest()[:12]
    cache = Path(os.path.expanduser(os.environ.get("INVJAX_CACHE") or "~/.cache/invjax"))
    path = cache / f"{stem}-{files[0].parent.name}-{key}.npz"
    # If the cache file is absent or damaged, the images are decoded again.
    with suppress(Exception), path.open("rb") as file:  # np.load(path) leaves a damaged file open
        stored = np.load(file)
        return stored["data"], stored["labels"]
    data, labels = decode()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:  # on the same disk, so the move below is atomic
            whole = Path(temporary) / path.name
            np.savez(whole, data=data, labels=labels)
            os.replace(whole, path)
    except OSError as error:
        warnings.warn(
            f"decoded images cannot be cached in {cache} ({error}), so the next load decodes them again; "
            "set INVJAX_CACHE to a folder that can be written",
            stacklevel=4,
        )
    return data, labels
