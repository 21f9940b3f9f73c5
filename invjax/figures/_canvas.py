"""The parts that all figures share: colors, an empty figure, images without ticks, and saving."""

import io
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from invjax._store import local_path, write_file

INK, GRID = "#1b1f24", "#d8dee4"
PALETTE = ("#0b6e99", "#d1653a", "#5b8c3e", "#7b5ea7", "#c2a019", "#b5467d")


@cache
def _shown_in_notebooks(figure_class: Any) -> Any:
    """A figure that shows itself where it is the value of a notebook's cell.

    Figures are made without pyplot, which has global state, so that notebooks do not know them by themselves.
    """

    class NotebookFigure(figure_class):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return NotebookFigure


def blank(width: float, height: float) -> Any:
    """An empty figure of the given size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "invjax[experiments]"') from error
    return _shown_in_notebooks(Figure)(figsize=(width, height), dpi=150, layout="constrained")


def panel_grid(
    count: int, size: tuple[float, float], xlabel: str, ylabel: str, most: int = 4, share_x: bool = False
) -> tuple[Any, list[Any], Callable[..., Any]]:
    """A figure with so many panels on one y axis, in rows as full as possible.

    Args:
        count: number of panels.
        size: width and height of a panel in inches.
        xlabel: label of the x axis, below the lowest panel of each column.
        ylabel: label of the y axis, beside the first panel of each row.
        most: largest number of panels in a row.
        share_x: whether all panels have the same x axis.

    Returns:
        The figure, the panels row by row, and a function that draws a legend of `(handles, names)`: in an empty place
        of the last row, or below all panels.
    """
    widths = [columns for columns in range(most, 1, -1) if columns <= count] or [1]
    columns = min(widths, key=lambda columns: -count % columns)  # the first one, so the largest one, of the fullest
    rows = -(-count // columns)
    figure = blank(max(columns * size[0] + 0.5, 5.6), rows * size[1] + 0.7)  # room for the title and the legend
    places = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=share_x).ravel()
    for i, axes in enumerate(places[:count]):
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        if i % columns == 0:
            axes.set_ylabel(ylabel)
        if i + columns >= count:
            axes.set_xlabel(xlabel)
            axes.tick_params(labelbottom=True)
    for axes in places[count:]:
        axes.set_axis_off()
    if count < len(places):
        legend = partial(places[count].legend, loc="center", frameon=False, fontsize=9)
    else:
        legend = partial(figure.legend, loc="outside lower center", ncols=columns + 1, frameon=False, fontsize=8)
    return figure, list(places[:count]), legend


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
    path = local_path(path)
    write_file(path, lambda file: figure.savefig(file, format="png"))
    return path


def show_image(axes: Any, image: np.ndarray) -> None:
    """Draw an image `[H, W, C]`, clipped to [0, 1], without ticks."""
    gray = image.shape[-1] == 1
    axes.imshow(np.clip(image[..., 0] if gray else image, 0, 1), cmap="gray" if gray else None, vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(GRID)
