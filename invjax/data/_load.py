"""Named data sets: bytes, labels, and always the order in which their authors published them.

`digits` travels with scikit-learn. The others are read from disk, from the first of these folders that has them:
`data_dir`, and nothing else, if it is given; otherwise `$INVJAX_DATA`, `$TFDS_DATA_DIR`, `~/tensorflow_datasets`. It
may hold the four original MNIST files (also inside `mnist_idx/`, `mnist/` or `MNIST/raw/`), or data sets prepared by
TensorFlow Datasets as array_record (also inside `tfds/`). Neither needs TensorFlow, and nothing is downloaded.
"""

import dataclasses
import gzip
import hashlib
import importlib
import io
import math
import os
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float32, Int32, Shaped, UInt8

from invjax import _check

_NUM_CLASSES = {"digits": 10, "mnist": 10, "cifar10": 10, "imagenet2012": 1000}

Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LazyImages:
    """Photographs which are read and decoded when they are indexed: `images[key]` follows numpy's rules for one axis.

    Each is resized so that its shorter side is 256 pixels, and cropped to the central 224 x 224.

    Attributes:
        records: `records[i]["image"]` is an encoded photograph.
        order: [N], the record of each image.
    """

    records: Sequence[Any]
    order: np.ndarray
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 224, 224, 3)."""
        return (len(self), 224, 224, 3)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key: Any) -> UInt8[np.ndarray, "*index 224 224 3"]:
        rows = np.asarray(self.order[key])
        images = np.empty((rows.size, *self.shape[1:]), self.dtype)
        with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
            for image, pixels in zip(images, pool.map(self._decode, rows.ravel().tolist()), strict=True):
                image[:] = pixels
        return images.reshape(*rows.shape, *self.shape[1:])

    def _decode(self, row: int) -> np.ndarray:
        pillow = _require("PIL.Image")
        photograph = pillow.open(io.BytesIO(self.records[row]["image"])).convert("RGB")
        width, height = photograph.size
        # Resizing only the square that survives the crop gives the same pixels for less work.
        side = min(width, height) * 224 / 256
        left, top = (width - side) / 2, (height - side) / 2
        return np.asarray(photograph.resize((224, 224), pillow.BILINEAR, box=(left, top, left + side, top + side)))


class Dataset(NamedTuple):
    """One split of a data set, in its published order.

    Attributes:
        images: [N, height, width, channels], integers 0..levels-1. Those of imagenet2012 do not fit in memory: they are
            a `LazyImages`, which has `shape`, `dtype`, `len` and indexing.
        labels: [N], class indices.
        num_classes: number of classes.
        levels: number of intensity levels: 256, or 17 for digits.
    """

    images: UInt8[np.ndarray, "N height width channels"] | LazyImages
    labels: Int32[np.ndarray, " N"]
    num_classes: int
    levels: int


def load(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """One split of a named data set, in its published order.

    Args:
        name: 'digits' (8x8x1), 'mnist' (28x28x1), 'cifar10' (32x32x3) or 'imagenet2012' (224x224x3, by file name).
        split: 'train' or 'test'. The test split of imagenet2012 is ILSVRC's validation split, whose labels are public.
            That of digits is every fifth image of each class, 360 of 1,797; both splits have the same writers.
        data_dir: the only folder to search. Without it: `$INVJAX_DATA`, `$TFDS_DATA_DIR`, `~/tensorflow_datasets`.

    Returns:
        A `Dataset`. What is decoded from TFDS is kept in `$INVJAX_CACHE`, by default `~/.cache/invjax`. Of imagenet2012
        only the labels are: its first load reads every record once, undecoded (6 GB for test, 140 GB for train).

    Raises:
        ValueError: an unknown name or split, or a damaged file.
        FileNotFoundError: none of the folders has it; the message says how to get it there.
        ImportError: a package of `invjax[experiments]` is missing.

    >>> digits = load("digits", "test")
    >>> digits.images.shape, digits.images.dtype.name, digits.num_classes, digits.levels
    ((360, 8, 8, 1), 'uint8', 10, 17)
    """
    _check.one_of("name", name, _NUM_CLASSES)
    _check.one_of("split", split, ("train", "test"))
    if name == "digits":
        return Dataset(*_digits(split), _NUM_CLASSES[name], levels=17)
    tfds_split = "validation" if (name, split) == ("imagenet2012", "test") else split
    usual = (os.environ.get("INVJAX_DATA"), os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets")
    folders = [Path(os.path.expanduser(folder)) for folder in ((data_dir,) if data_dir else usual) if folder]
    for folder in folders:
        if name == "mnist" and (pair := _idx_files(folder, split)):
            return Dataset(*_read_idx_pair(*pair), _NUM_CLASSES[name], levels=256)
        if files := _tfds_files(folder, name, tfds_split):
            return Dataset(*_read_tfds(files, name, tfds_split), _NUM_CLASSES[name], levels=256)
    raise FileNotFoundError(_not_found(name, tfds_split, folders))


def as_float(images: Shaped[Array | np.ndarray, "*shape"], levels: int = 256) -> Float32[Array | np.ndarray, "*shape"]:
    """Intensities in [0, 1]: `images / (levels - 1)`.

    numpy in, numpy out; JAX in, JAX out, also inside `jit`; the same bits everywhere, because this multiplies by the
    reciprocal, which is how XLA compiles a division by a constant.

    Args:
        images: integers 0..levels-1, any shape.
        levels: number of intensity levels, `Dataset.levels`.

    Returns:
        float32, the same shape.

    Raises:
        ValueError: the images are not integers.

    >>> as_float(np.array([0, 4, 16], np.uint8), levels=17)
    array([0.  , 0.25, 1.  ], dtype=float32)
    """
    if not np.issubdtype(images.dtype, np.integer):
        raise ValueError(f"images must be integers 0..{levels - 1}; got dtype {images.dtype}; floats need no as_float")
    return images.astype(np.float32) * np.float32(1 / (levels - 1))


def _digits(split: str) -> Pair:
    digits = _require("sklearn.datasets").load_digits()
    # Every fifth image of the list sorted by class: stratified, and no random generator that may change some day.
    test = np.zeros(len(digits.target), bool)
    test[np.argsort(digits.target, kind="stable")[::5]] = True
    chosen = test if split == "test" else ~test
    return digits.images[chosen, :, :, None].astype(np.uint8), digits.target[chosen].astype(np.int32)


def _idx_files(folder: Path, split: str) -> tuple[Path, Path] | None:
    """The image file and the label file of one split, if both are in one place."""
    prefix = "train" if split == "train" else "t10k"
    for place in (folder, folder / "mnist_idx", folder / "mnist", folder / "MNIST" / "raw"):
        images, labels = (
            min((path for end in ("", ".gz") for path in place.glob(stem + end) if path.is_file()), default=None)
            for stem in (f"{prefix}-images[-.]idx3-ubyte", f"{prefix}-labels[-.]idx1-ubyte")
        )
        if images and labels:
            return images, labels
    return None


def _read_idx_pair(image_file: Path, label_file: Path) -> Pair:
    images, labels = _read_idx(image_file, 3), _read_idx(label_file, 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{image_file} has {len(images)} images but {label_file} has {len(labels)} labels; download both again"
        )
    return images[..., None], labels.astype(np.int32)


def _read_idx(path: Path, dims: int) -> np.ndarray:
    """The bytes of an IDX file: a magic number, `dims` big-endian sizes, data."""
    damaged = f"{path} is not a whole IDX file of {dims} dimensions; download it again"
    data = path.read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":  # not by name: some browsers unpack a file and leave its .gz
            data = gzip.decompress(data)
        magic, *shape = struct.unpack_from(f">{1 + dims}I", data)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ValueError(f"{damaged} ({error})") from error
    start = 4 * (1 + dims)
    if magic != 0x800 + dims or len(data) - start != math.prod(shape):
        raise ValueError(f"{damaged} (magic number {magic:#x}, sizes {shape}, {len(data) - start} bytes of data)")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()  # a copy, because bytes are read-only


def _tfds_files(folder: Path, name: str, split: str) -> list[Path]:
    """The array_record files of the newest version of one split; [] if there are none."""
    # A glob, unlike tfds.builder, finds versions which this TFDS no longer knows, and a cached load never imports it.
    found = [
        path
        for root in (folder, folder / "tfds")
        for path in root.glob(f"{name}/*/{name}-{split}.array_record*")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]  # no 3.0.1.incompleteXYZ
    newest = max((path.parent for path in found), key=lambda v: [int(n) for n in v.name.split(".")], default=None)
    return sorted(path for path in found if path.parent == newest)


def _read_tfds(files: list[Path], name: str, split: str) -> tuple[np.ndarray | LazyImages, np.ndarray]:
    folder = files[0].parent
    decode = _index_by_name if name == "imagenet2012" else _decode_all
    try:
        data, labels = _cached(files, f"{name}-{split}", lambda: decode(_open_records(folder, split), split))
    except (RuntimeError, OSError) as error:  # what array_record and Pillow raise
        raise ValueError(
            f"{folder} is damaged ({error}); delete that folder, then prepare it again with\n  "
            + _prepare_command(name, folder.parents[1])
        ) from error
    return (LazyImages(_open_records(folder, split), data) if name == "imagenet2012" else data), labels


def _open_records(folder: Path, split: str) -> Sequence[Any]:
    """The records of a prepared data set as dicts, their images still encoded."""
    tfds = _require("tensorflow_datasets")
    _require("array_record.python.array_record_data_source")
    return tfds.builder_from_directory(folder).as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def _decode_all(records: Sequence[Any], split: str) -> Pair:
    """Images and labels in published order."""
    pillow = _require("PIL.Image")
    decoded = [(np.asarray(pillow.open(io.BytesIO(record["image"]))), record["label"]) for record in records]
    place = np.argsort(_shuffled(split, len(decoded)))
    images = np.stack([image for image, _ in decoded])[place]
    return images.reshape(*images.shape[:3], -1), np.array([label for _, label in decoded], np.int32)[place]


def _shuffled(split: str, size: int) -> list[int]:
    """The published index of each TFDS record: TFDS sorts them by the md5 of split name and index, across all shards.

    Source: `tensorflow_datasets/core`: `split_builder.py` (the salt), `hashing.py`, `shuffle.py`.
    """
    return sorted(range(size), key=lambda i: hashlib.md5(f"{split}{i}".encode(), usedforsecurity=False).digest())


def _index_by_name(records: Sequence[Any], split: str) -> Pair:
    """The record of each image and its label, in the order of file names."""
    names, labels = zip(*((record["file_name"], record["label"]) for record in records), strict=True)
    order = np.argsort(names)
    return order, np.array(labels, np.int32)[order]


def _cached(files: list[Path], stem: str, decode: Callable[[], Pair]) -> Pair:
    """`decode()`, or what it returned for these very files before."""
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(repr(stamps).encode()).hexdigest()[:12]
    cache = Path(os.path.expanduser(os.environ.get("INVJAX_CACHE") or "~/.cache/invjax"))
    path = cache / f"{stem}-{files[0].parent.name}-{key}.npz"
    # Whatever is wrong with a cache file (absent, half-written, not even a zip), the answer is to decode again.
    with suppress(Exception), path.open("rb") as file:  # np.load(path) leaves a damaged file open
        stored = np.load(file)
        return stored["data"], stored["labels"]
    data, labels = decode()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:  # same disk, so the move below is atomic
            whole = Path(temporary) / path.name
            np.savez(whole, data=data, labels=labels)
            os.replace(whole, path)
    except OSError as error:
        warnings.warn(
            f"{cache} does not take decoded images ({error}), so the next load decodes again; "
            "set INVJAX_CACHE to a folder that can be written",
            stacklevel=4,
        )
    return data, labels


def _require(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'this data set needs {module} ({error}); pip install "invjax[experiments]"') from error


def _prepare_command(name: str, folder: Path) -> str:
    builder = f"tfds.builder('{name}', data_dir='{folder}', file_format='array_record')"
    return f'python -c "import tensorflow_datasets as tfds; {builder}.download_and_prepare()"'


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
        f"  {_prepare_command(name, target)}\nTo use another folder, pass data_dir or set INVJAX_DATA."
    )
