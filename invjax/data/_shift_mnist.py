r"""shiftMNIST: digits with a second cue to their class, which changes when the distribution shifts.

In training a cue that is easier to read than the digit tells the class. Under the shift the cue is absent or random,
and a classifier that became invariant to the digit fails. There are two kinds of cue:

- `binary_shift`: one pixel at the left image border, in the row of the class;
- `texture_shift`: the texture behind the digit, one family for each class.

Each has three variants:

- "coded": the cue is that of the label (the training distribution, D);
- "removed": there is no cue;
- "random": the cue is that of a class drawn uniformly and independently of the label, so it agrees with the label for
  one image in `num_classes`.

The published shifts D_Adv are "removed" for the binary cue and "random" for the texture. The functions depend on numpy
arrays and a seed alone, and an image never depends on the images after it: shifting the first n images gives the first
n images of the shifted data set. Give the training and the test set different seeds, because equal seeds give them the
same textures.

Source: Jacobsen, Behrmann, Zemel, Bethge 2019, *Excessive Invariance Causes Adversarial Vulnerability*, figure 8. The
paper does not say how far the pixel is from the border, which textures were used, or how digits are blended with them.
Here the pixel is where public implementations put it (row = class, column 0), and the textures are synthetic unless a
folder of photographs is given.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from invjax import _check
from invjax.data._dataset import Dataset
from invjax.data._textures import TEXTURES, Texture

VARIANTS = ("coded", "removed", "random")
"""Whether the cue is that of the label, absent, or that of a class drawn at random."""


def binary_shift(data: Dataset, variant: str, seed: int, *, row: int = 0, column: int = 0) -> Dataset:
    """Code the class by one pixel of full intensity at the left image border.

    The pixel (`row` + c, `column`) marks class c. Where the image is not high enough for all classes, the code
    continues in the next column, from the same row (8x8 digits: classes 8 and 9 in column 1). No other pixel changes,
    so "removed" returns the original images.

    >>> blank = Dataset(np.zeros((3, 8, 8, 1), np.uint8), np.array([0, 7, 9], np.int32), 10, 256)
    >>> coded = binary_shift(blank, "coded", seed=0)
    >>> np.argwhere(coded.images[..., 0] == 255).tolist()  # image, row, column
    [[0, 0, 0], [1, 7, 0], [2, 1, 1]]

    Args:
        data: images `[N, H, W, C]`, uint8.
        variant: "coded", "removed" or "random".
        seed: the seed of the random codes.
        row: the row of the first class.
        column: the column of the first class.

    Returns:
        New images with the same labels.

    Raises:
        ValueError: the variant is unknown; the code does not fit into the image; the images are not uint8 arrays, or
            are brighter than their levels; or the labels are not class indices.
    """
    images, seed = _checked_images(data, variant), _check.seed(seed)
    height, width = images.shape[1:3]
    per_column = height - row
    last_column = column + (data.num_classes - 1) // max(per_column, 1)
    if not (0 <= row < height and column >= 0 and last_column < width):
        raise ValueError(
            f"a code of {data.num_classes} classes from row={row}, column={column} does not fit into images of "
            f"{height}x{width}; choose a smaller row or column"
        )
    images = images.copy()
    if variant != "removed":
        cue = _cues(data, variant, seed)
        images[np.arange(len(cue)), row + cue % per_column, column + cue // per_column] = data.levels - 1
    return data._replace(images=images)


def texture_shift(
    data: Dataset,
    variant: str,
    seed: int,
    *,
    textures: Mapping[str, Texture] = TEXTURES,
    brightness: float | int = 0.3,
    contrast: float | int = 0.15,
) -> Dataset:
    r"""Put the texture of the digit's class, or of a random one, behind it: `pixel = digit + (1 - digit) * texture`.

    The intensity of the digit is its opacity, so strokes of full intensity do not change. Every piece of texture gets
    the same mean and standard deviation (before it is clipped to [0, 1]), so that the type and not
    the brightness of a texture tells the class.
    "removed" has a plain background of that mean.

    >>> blank = Dataset(np.zeros((20, 28, 28, 1), np.uint8), np.arange(20, dtype=np.int32) % 10, 10, 256)
    >>> coded = texture_shift(blank, "coded", seed=0)
    >>> bool((coded.images[0] == coded.images[0][:1]).all())  # class 0: a grating whose rows are all the same
    True

    Args:
        data: images `[N, H, W, C]`, uint8, dark where there is no digit.
        variant: "coded", "removed" or "random".
        seed: the seed of the textures, and of their classes in "random".
        textures: one texture for each class, in order: `TEXTURES`, or those of `textures_in(folder)`.
        brightness: the mean of the background, in [0, 1].
        contrast: the standard deviation of the background, in the same unit.

    Returns:
        New images of the same number of levels, with the same labels.

    Raises:
        ValueError: the variant is unknown; there are more or fewer textures than classes; photographs are smaller than
            the images; a number is out of range; the images are not uint8 arrays, or are brighter than their levels; or
            the labels are not class indices.
    """
    digits, seed = _checked_images(data, variant), _check.seed(seed)
    _check.positive(contrast=contrast)
    if not 0 <= brightness <= 1:
        raise ValueError(f"brightness must be in [0, 1]; got {brightness}; give it as a fraction of full intensity")
    if len(textures) != data.num_classes:
        raise ValueError(
            f"there must be one texture for each of the {data.num_classes} classes; got {len(textures)}: "
            f"{', '.join(textures)}; add or remove some"
        )
    if variant == "removed":
        return data._replace(images=_over(data, digits, np.full(digits.shape[:3], brightness)))
    images = np.empty_like(digits)
    cue = _cues(data, variant, seed)
    for c, texture in enumerate(textures.values()):
        members = np.flatnonzero(cue == c)
        if members.size:
            pieces = texture(np.random.default_rng((seed, 1 + c)), members.size, digits.shape[1:3])
            pieces = pieces - pieces.mean((1, 2), keepdims=True)
            spread = pieces.std((1, 2), keepdims=True)
            pieces = pieces / np.where(spread > 1e-9, spread, 1)  # a crop of a photograph may have a single gray value
            images[members] = _over(data, digits[members], np.clip(brightness + contrast * pieces, 0, 1))
    return data._replace(images=images)


def _over(data: Dataset, digits: np.ndarray, background: np.ndarray) -> UInt8[np.ndarray, "n height width channels"]:
    """Blend digits over backgrounds `[n, height, width]` in [0, 1]; the intensity of a digit is its opacity."""
    full = data.levels - 1
    return np.round(digits + (full - digits.astype(float)) * background[..., None]).astype(np.uint8)


def _cues(data: Dataset, variant: str, seed: int) -> np.ndarray:
    """The class that each image's cue stands for, `[N]`."""
    if variant == "coded":
        return data.labels
    return np.random.default_rng((seed, 0)).integers(0, data.num_classes, len(data.labels))


def _checked_images(data: Dataset, variant: str) -> np.ndarray:
    _check.one_of("variant", variant, VARIANTS)
    images: Any = data.images
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be a numpy array [N, height, width, channels] of uint8; got {type(images).__name__} of dtype "
            f"{images.dtype} and shape {images.shape}; use load() without as_float()"
        )
    if images.size and images.max() >= data.levels:
        raise ValueError(f"images must be in 0..{data.levels - 1}; got {images.max()}; correct Dataset.levels")
    if data.labels.shape != images.shape[:1]:
        raise ValueError(f"labels must have shape [{len(images)}], one for each image; got {data.labels.shape}")
    _check.labels(data.labels, data.num_classes)
    return images
