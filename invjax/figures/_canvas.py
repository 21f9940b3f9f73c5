"""The parts that all figures share: colors, an empty figure, images without ticks, and saving."""

from pathlib import Path
from typing import Any

import numpy as np

from invjax._store import write_file

INK, GRID, PALETTE = "#1b1f24", "#d8dee4", ("#0b6e99", "#d1653a", "#5b8c3e", "#7b5ea7")


def blank(width: float, height: float) -> Any:
    """An empty figure of the given size in inches."""
    try:
        from matplotlib.figure import Figure  # without pyplot: no global state, no display
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "invjax[experiments]"') from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def save(figure: Any, path: str | Path) -> Path:
    """Write `figure` as a PNG, completely or not at all, and return its path.

    Args:
        figure: a figure of matplotlib, as the functions of `invjax.figures` return it.
        path: path of the PNG file; missing folders are created.

    Returns:
        The path of the file.

    Raises:
        OSError: the file could not be written, for example because the disk is full. An older file stays as it was.
    """
    write_file(path, lambda file: figure.savefig(file, format="png"))
    return Path(path)


def show_image(axes: Any, image: np.ndarray) -> None:
    """Draw an image `[H, W, C]`, clipped to [0, 1], without ticks."""
    gray = image.shape[-1] == 1
    axes.imshow(np.clip(image[..., 0] if gray else image, 0, 1), cmap="gray" if gray else None, vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(GRID)
