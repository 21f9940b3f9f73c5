"""A data set in memory, photographs that are decoded on demand, and the conversion of images to floats in [0, 1]."""

import dataclasses
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float32, Int32, Shaped, UInt8

from invjax import _check
from invjax.data._require import require


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LazyImages:
    """Photographs that are read and decoded when they are indexed: `images[key]` follows numpy's rules for one axis.

    Each photograph is resized so that its shorter side has 256 pixels, then cropped to the central 224 x 224 pixels.

    Attributes:
        records: the encoded photographs; `records[i]["image"]` holds the bytes of one.
        order: `[N]`, the index of each image's record.
    """

    records: Sequence[Any]
    order: np.ndarray
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of all images, `(N, 224, 224, 3)`."""
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
        pillow = require("PIL.Image")
        photograph = pillow.open(io.BytesIO(self.records[row]["image"])).convert("RGB")
        width, height = photograph.size
        # Resizing only the square that survives the crop gives the same pixels for less work.
        side = min(width, height) * 224 / 256
        left, top = (width - side) / 2, (height - side) / 2
        return np.asarray(photograph.resize((224, 224), pillow.BILINEAR, box=(left, top, left + side, top + side)))


class Dataset(NamedTuple):
    """Images with their labels. `load` returns one, and you can build one from your own arrays.

    >>> images = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1), dtype=np.uint8)
    >>> mine = Dataset(images, labels=np.array([0, 1, 2, 0, 1, 2], np.int32), num_classes=3)
    >>> x = as_float(mine.images, mine.levels)  # float32 in [0, 1], as models and attacks take it
    >>> x.shape, x.dtype.name, bool(x.min() >= 0), bool(x.max() <= 1)
    ((6, 28, 28, 1), 'float32', True, True)

    Attributes:
        images: `[N, height, width, channels]`, integers from 0 to levels - 1. The images of imagenet2012 do not fit in
            memory: they are a `LazyImages`, which has `shape`, `dtype`, `len` and indexing.
        labels: `[N]`, class indices from 0 to num_classes - 1.
        num_classes: the number of classes.
        levels: the number of intensity levels: 256 for bytes, 17 for digits.
    """

    images: UInt8[np.ndarray, "N height width channels"] | LazyImages
    labels: Int32[np.ndarray, " N"]
    num_classes: int
    levels: int = 256


def as_float(images: Shaped[Array | np.ndarray, "*shape"], levels: int = 256) -> Float32[Array | np.ndarray, "*shape"]:
    """Convert integers to intensities in [0, 1]: `images / (levels - 1)`.

    A numpy array gives a numpy array and a JAX array gives a JAX array, also inside `jit`. Both give the same bits: the
    images are multiplied by the reciprocal of `levels - 1`, which is how XLA compiles a division by a constant.

    >>> as_float(np.array([0, 4, 16], np.uint8), levels=17)
    array([0.  , 0.25, 1.  ], dtype=float32)

    Args:
        images: integers from 0 to levels - 1, of any shape.
        levels: the number of intensity levels, as in `Dataset.levels`.

    Returns:
        A float32 array of the same shape.

    Raises:
        ValueError: the images are not integers, or are outside of 0..levels - 1. Inside `jit` values cannot be checked.
    """
    if not np.issubdtype(images.dtype, np.integer):
        raise ValueError(
            f"images must be integers 0..{levels - 1}; got dtype {images.dtype}; do not call as_float on floats"
        )
    limits = np.iinfo(images.dtype)
    if images.size and (limits.min < 0 or limits.max >= levels) and _check.known(images):
        low, high = int(images.min()), int(images.max())
        if low < 0 or high >= levels:
            raise ValueError(
                f"images must be integers 0..{levels - 1}; got values from {low} to {high}; pass the levels of the "
                "data set, as_float(data.images, data.levels)"
            )
    return images.astype(np.float32) * np.float32(1 / (levels - 1))
