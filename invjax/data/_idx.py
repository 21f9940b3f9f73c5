"""The four original files of MNIST, in the IDX format."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np


def idx_files(folder: Path, split: str) -> tuple[Path, Path] | None:
    """The image file and the label file of one split, if both are in the same place."""
    prefix = "train" if split == "train" else "t10k"
    for place in (folder, folder / "mnist_idx", folder / "mnist", folder / "MNIST" / "raw"):
        images, labels = (
            min((path for end in ("", ".gz") for path in place.glob(stem + end) if path.is_file()), default=None)
            for stem in (f"{prefix}-images[-.]idx3-ubyte", f"{prefix}-labels[-.]idx1-ubyte")
        )
        if images and labels:
            return images, labels
    return None


def read_idx_pair(image_file: Path, label_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images `[N, 28, 28, 1]` and labels `[N]`.

    Raises:
        ValueError: a file is damaged, or the two hold different numbers of examples.
    """
    images, labels = _read_idx(image_file, 3), _read_idx(label_file, 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{image_file} has {len(images)} images but {label_file} has {len(labels)} labels; download both again"
        )
    return images[..., None], labels.astype(np.int32)


def _read_idx(path: Path, dims: int) -> np.ndarray:
    """The bytes of an IDX file: a magic number, then `dims` big-endian sizes, then the data."""
    damaged = f"{path} is not a whole IDX file of {dims} dimensions; download it again"
    data = path.read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":  # the bytes decide, because some browsers unpack a file and keep its .gz
            data = gzip.decompress(data)
        magic, *shape = struct.unpack_from(f">{1 + dims}I", data)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ValueError(f"{damaged} ({error})") from error
    start = 4 * (1 + dims)
    if magic != 0x800 + dims or len(data) - start != math.prod(shape):
        raise ValueError(f"{damaged} (magic number {magic:#x}, sizes {shape}, {len(data) - start} bytes of data)")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()  # a copy, because bytes are read-only
