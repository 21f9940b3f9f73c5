"""Random pieces of textures: ten synthetic families, or crops of photographs."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from invjax import _check
from invjax._store import local_path
from invjax.data._require import require

Texture = Callable[[np.random.Generator, int, tuple[int, int]], Float[np.ndarray, "count height width"]]
"""`(rng, count, (height, width)) -> [count, height, width]`: random pieces of one texture, in any unit."""


def grating(angle: float | int, period: float | int = 5) -> Texture:
    """Sine waves with a random phase.

    Args:
        angle: the direction in which the wave runs, in degrees; 0 is along a row.
        period: the wavelength in pixels.
    """

    def draw(rng, count, shape):
        rows, columns = np.indices(shape)
        along = columns * np.cos(np.radians(angle)) + rows * np.sin(np.radians(angle))
        return np.sin(2 * np.pi * (along[None] / period + rng.random((count, 1, 1))))

    return draw


def checkerboard(rng: np.random.Generator, count: int, shape: tuple[int, int], cell: int = 3) -> np.ndarray:
    """The `Texture` of squares of `cell` pixels, shifted at random.

    Args:
        rng: the source of the random shifts.
        count: the number of images N.
        shape: `(height, width)` of the images, in pixels.
        cell: the side of a square, in pixels.

    Returns:
        The images `[N, H, W]`, of values 0 and 1.
    """
    shift = rng.integers(0, 2 * cell, (count, 2, 1, 1))
    rows, columns = (np.indices(shape)[None] + shift).swapaxes(0, 1) // cell
    return (rows + columns) % 2.0


def rings(rng: np.random.Generator, count: int, shape: tuple[int, int], period: float | int = 5) -> np.ndarray:
    """The `Texture` of circular waves of `period` pixels around a random point of the image.

    Args:
        rng: the source of the random centers.
        count: the number of images N.
        shape: `(height, width)` of the images, in pixels.
        period: the wavelength in pixels.

    Returns:
        The images `[N, H, W]`, of values in [-1, 1].
    """
    center = rng.random((count, 2, 1, 1)) * np.reshape(shape, (1, 2, 1, 1))
    radius = np.sqrt(((np.indices(shape)[None] - center) ** 2).sum(1))
    return np.sin(2 * np.pi * radius / period)


def noise(exponent: float | int) -> Texture:
    """Gaussian noise whose amplitude is proportional to `frequency ** exponent`: -1 is pink, 0 white, 1 blue.

    Args:
        exponent: the power of the frequency to which the amplitude is proportional.

    Returns:
        The texture: a function `(rng, count, (height, width)) -> [count, height, width]`.
    """

    def draw(rng, count, shape):
        spectrum = np.fft.rfft2(rng.standard_normal((count, *shape)))
        frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
        frequency[0, 0] = 1  # the mean is subtracted later
        return np.fft.irfft2(spectrum * frequency[None] ** exponent, shape)

    return draw


def dots(rng: np.random.Generator, count: int, shape: tuple[int, int], spacing: float | int = 5) -> np.ndarray:
    """The `Texture` of bright round dots on a square lattice, shifted at random.

    Args:
        rng: the source of the random shifts.
        count: the number of images N.
        shape: `(height, width)` of the images, in pixels.
        spacing: the distance between neighbouring dots, in pixels.

    Returns:
        The images `[N, H, W]`, of values in [exp(-2), exp(2)].
    """
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
"""Ten synthetic families of textures, in the order of the classes."""


def textures_in(folder: str | os.PathLike[str], shorter_side: int | None = None) -> dict[str, Texture]:
    """Random crops of the photographs in a folder, one texture for each file (png, jpg, jpeg), sorted by name.

    Args:
        folder: a folder with one photograph for each class; colors become gray.
        shorter_side: resize each photograph first, so that its shorter side has this many pixels: a crop of 28 pixels
            from a large photograph may show nothing of its texture.

    Returns:
        The textures by file name, without the ending.

    Raises:
        ValueError: the folder does not exist or holds no photograph, or a file is damaged or has more than 8 bits a
            channel.
        ImportError: Pillow is missing; `invjax[experiments]` installs it.
    """
    files = sorted(
        path for path in local_path(os.fspath(folder)).glob("[!.]*") if path.suffix.lower() in (".png", ".jpg", ".jpeg")
    )
    if not files:
        raise ValueError(f"{folder} has no .png, .jpg or .jpeg files; give a folder with one photograph for each class")
    return {path.stem: partial(_crops, str(path), _read_gray(path, shorter_side)) for path in files}


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
    pillow = require("PIL.Image")
    try:
        with pillow.open(path) as photograph:
            if photograph.mode.startswith(("I", "F")):  # Pillow would clip these at 255
                raise ValueError(f"{path} has mode {photograph.mode}, more than 8 bits a channel; convert it")
            gray = photograph.convert("L")
    except OSError as error:
        raise ValueError(f"{path} is not a readable image ({error}); replace it") from error
    if shorter_side is not None:
        _check.positive(shorter_side=shorter_side)
        scale = shorter_side / min(gray.size)
        gray = gray.resize([max(shorter_side, round(side * scale)) for side in gray.size], pillow.BILINEAR)
    return np.asarray(gray)
