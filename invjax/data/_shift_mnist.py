r"""shiftMNIST: digits with a second cue to their class, and what the cue becomes when the distribution shifts.

In training a cue that is easier than the digit gives the class away; under the shift it is gone, or says nothing. A
classifier that has become invariant to the digit then fails. Two kinds of cue:

- `binary_shift`: one pixel at the left image border, in the row of the class;
- `texture_shift`: the texture behind the digit, one family a class.

and of each three variants:

- "coded": the cue is the label's (the training distribution, D);
- "removed": there is no cue;
- "random": the cue of a class drawn uniformly and independently of the label, so right once in `num_classes` times.

The published shifts D_Adv are "removed" for the binary cue and "random" for the texture. Everything is a function of
numpy arrays and a seed, and an image never depends on those after it: shifting the first n images gives the first n of
the shifted data set. Give the training and the test set different seeds, or they share textures.

Source: Jacobsen, Behrmann, Zemel, Bethge 2019, *Excessive Invariance Causes Adversarial Vulnerability*, figure 8. How
far the code is from the border, the textures and how digits lie over them are not published: here the code is where
public code sets it (row = class, column 0), and the textures are synthetic unless a folder of photographs is given.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from invjax import _check
from invjax.data._load import Dataset, _require

VARIANTS = ("coded", "removed", "random")
"""What the cue is: the label's, absent, or that of a class drawn at random."""

Texture = Callable[[np.random.Generator, int, tuple[int, int]], Float[np.ndarray, "count height width"]]
"""`(rng, count, (height, width)) -> [count, height, width]`: random pieces of one texture, in any unit."""


def binary_shift(data: Dataset, variant: str, seed: int, *, row: int = 0, column: int = 0) -> Dataset:
    """A binary code of the class at the left image border: one pixel at full intensity.

    Class c has the pixel (`row` + c, `column`); classes for which the image is not high enough go on in the next
    column, from the same row (8x8 digits: classes 8 and 9 in column 1). Nothing else is changed, so "removed" is the
    original.

    >>> blank = Dataset(np.zeros((3, 8, 8, 1), np.uint8), np.array([0, 7, 9], np.int32), 10, 256)
    >>> coded = binary_shift(blank, "coded", seed=0)
    >>> np.argwhere(coded.images[..., 0] == 255).tolist()  # image, row, column
    [[0, 0, 0], [1, 7, 0], [2, 1, 1]]

    Args:
        data: images `[N, H, W, C]`, uint8.
        variant: "coded", "removed" or "random".
        seed: of the random codes.
        row: of the first class.
        column: of the first class.

    Returns:
        New images, with the same labels.

    Raises:
        ValueError: an unknown variant; a code that does not fit into the image; images that are not uint8 in memory,
            or brighter than their levels; labels that are not classes.
    """
    images = _checked_images(data, variant)
    height, width = images.shape[1:3]
    per_column = height - row
    last_column = column + (data.num_classes - 1) // max(per_column, 1)
    if not (0 <= row < height and column >= 0 and last_column < width):
        raise ValueError(
            f"a code of {data.num_classes} classes from row={row}, column={column} does not fit into images of "
            f"{height}x{width}; start further up and left"
        )
    images = images.copy()
    if variant != "removed":
        cue = _cues(data, variant, seed)
        images[np.arange(len(cue)), row + cue % per_column, column + cue // per_column] = data.levels - 1
    return data._replace(images=images)


def grating(angle: float | int, period: float | int = 5) -> Texture:
    """Sine waves with a random phase.

    Args:
        angle: in degrees, of the direction in which the wave runs; 0 is along a row.
        period: in pixels.
    """

    def draw(rng, count, shape):
        rows, columns = np.indices(shape)
        along = columns * np.cos(np.radians(angle)) + rows * np.sin(np.radians(angle))
        return np.sin(2 * np.pi * (along[None] / period + rng.random((count, 1, 1))))

    return draw


def checkerboard(rng: np.random.Generator, count: int, shape: tuple[int, int], cell: int = 3) -> np.ndarray:
    """Squares of `cell` pixels, shifted at random. A `Texture`."""
    shift = rng.integers(0, 2 * cell, (count, 2, 1, 1))
    rows, columns = (np.indices(shape)[None] + shift).swapaxes(0, 1) // cell
    return (rows + columns) % 2.0


def rings(rng: np.random.Generator, count: int, shape: tuple[int, int], period: float | int = 5) -> np.ndarray:
    """Waves of `period` pixels around a random point of the image. A `Texture`."""
    center = rng.random((count, 2, 1, 1)) * np.reshape(shape, (1, 2, 1, 1))
    radius = np.sqrt(((np.indices(shape)[None] - center) ** 2).sum(1))
    return np.sin(2 * np.pi * radius / period)


def noise(exponent: float | int) -> Texture:
    """Gaussian noise whose amplitude goes as `frequency ** exponent`: -1 is pink, 0 white, 1 blue."""

    def draw(rng, count, shape):
        spectrum = np.fft.rfft2(rng.standard_normal((count, *shape)))
        frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
        frequency[0, 0] = 1  # the mean is taken off later
        return np.fft.irfft2(spectrum * frequency[None] ** exponent, shape)

    return draw


def dots(rng: np.random.Generator, count: int, shape: tuple[int, int], spacing: float | int = 5) -> np.ndarray:
    """Bright round dots on a square lattice, shifted at random. A `Texture`."""
    position = np.indices(shape)[None] / spacing + rng.random((count, 2, 1, 1))
    return np.exp(np.cos(2 * np.pi * position).sum(1))


TEXTURES: dict[str, Texture] = {
    "grating, 0°": grating(0),
    "grating, 45°": grating(45),
    "grating, 90°": grating(90),
    "grating, 135°": grating(135),
    "checkerboard": checkerboard,
    "rings": rings,
    "white noise": noise(0),
    "pink noise": noise(-1),
    "blue noise": noise(1),
    "dots": dots,
}
"""Ten synthetic families, one a class, in this order."""


def textures_in(folder: str | os.PathLike[str], shorter_side: int | None = None) -> dict[str, Texture]:
    """Random crops of the photographs in a folder, one texture a file (png, jpg, jpeg), in the order of their names.

    Args:
        folder: with one photograph for each class; colours become gray.
        shorter_side: shrink or enlarge them first, so that their shorter side has this many pixels: a 28-pixel crop of
            a large photograph may show nothing of its texture.

    Raises:
        ValueError: no such folder, nothing in it, or a file that is damaged or has more than 8 bits a channel.
        ImportError: Pillow is missing; it comes with `invjax[experiments]`.
    """
    files = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not files:
        raise ValueError(f"{folder} has no .png, .jpg or .jpeg files; give a folder with one photograph for each class")
    return {path.stem: partial(_crops, str(path), _read_gray(path, shorter_side)) for path in files}


def texture_shift(
    data: Dataset,
    variant: str,
    seed: int,
    *,
    textures: Mapping[str, Texture] = TEXTURES,
    brightness: float | int = 0.3,
    contrast: float | int = 0.15,
) -> Dataset:
    r"""A texture behind the digit tells its class, or that of another one: `pixel = digit + (1 - digit) * texture`.

    So the digit is its own opacity: strokes of full intensity stay, whatever the texture. Every piece of texture is
    given the same mean and standard deviation (before it is clipped to [0, 1]), so the cue is its type and not its
    brightness. "removed" has a plain background of that mean.

    >>> blank = Dataset(np.zeros((20, 28, 28, 1), np.uint8), np.arange(20, dtype=np.int32) % 10, 10, 256)
    >>> coded = texture_shift(blank, "coded", seed=0)
    >>> bool((coded.images[0] == coded.images[0][:1]).all())  # class 0: a grating whose rows are all the same
    True

    Args:
        data: images `[N, H, W, C]`, uint8, dark where there is no digit.
        variant: "coded", "removed" or "random".
        seed: of the textures, and of their classes in "random".
        textures: one a class, in order: `TEXTURES`, or those of `textures_in(folder)`.
        brightness: mean of the background, in [0, 1].
        contrast: its standard deviation, in the same unit.

    Returns:
        New images of the same number of levels, with the same labels.

    Raises:
        ValueError: an unknown variant; more or fewer textures than classes; photographs smaller than the images;
            numbers out of range; images that are not uint8 in memory, or brighter than their levels; labels that are
            not classes.
    """
    digits = _checked_images(data, variant)
    _check.positive(contrast=contrast)
    if not 0 <= brightness <= 1:
        raise ValueError(f"brightness must be in [0, 1]; got {brightness}; it is a share of full intensity")
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
            pieces = pieces / np.where(spread > 1e-9, spread, 1)  # a piece of a photograph may be all of one gray
            images[members] = _over(data, digits[members], np.clip(brightness + contrast * pieces, 0, 1))
    return data._replace(images=images)


def _over(data: Dataset, digits: np.ndarray, background: np.ndarray) -> UInt8[np.ndarray, "n height width channels"]:
    """The digits, as opaque as they are bright, over backgrounds `[n, height, width]` in [0, 1]."""
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


def _crops(name: str, photograph: np.ndarray, rng: np.random.Generator, count: int, shape: tuple[int, int]):
    room = np.subtract(photograph.shape, shape)
    if (room < 0).any():
        raise ValueError(
            f"{name} is {photograph.shape[0]}x{photograph.shape[1]}, smaller than the images of {shape[0]}x{shape[1]}; "
            "give a larger photograph, or enlarge it with shorter_side"
        )
    top, left = rng.integers(0, room + 1, (count, 2)).T
    return np.lib.stride_tricks.sliding_window_view(photograph, shape)[top, left].astype(float)


def _read_gray(path: Path, shorter_side: int | None) -> np.ndarray:
    pillow = _require("PIL.Image")
    try:
        with pillow.open(path) as photograph:
            if photograph.mode.startswith(("I", "F")):  # which Pillow would clip at 255
                raise ValueError(f"{path} has mode {photograph.mode}, more than 8 bits a channel; convert it")
            gray = photograph.convert("L")
    except OSError as error:
        raise ValueError(f"{path} is not a readable image ({error}); replace it") from error
    if shorter_side is not None:
        _check.positive(shorter_side=shorter_side)
        scale = shorter_side / min(gray.size)
        gray = gray.resize([max(shorter_side, round(side * scale)) for side in gray.size], pillow.BILINEAR)
    return np.asarray(gray)
