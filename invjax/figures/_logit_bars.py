"""Images with the logits that a classifier gives them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank, show_image


def logit_bars(columns: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> Any:
    """Columns of images with their logits as bars; the bar of the predicted class is colored.

    Args:
        columns: by the title of the column, images `[n, H, W, C]` and their logits `[n, K]`.
        title: title of the figure.

    Returns:
        The figure, with n rows.

    Raises:
        ValueError: there is no column, or the columns have different numbers of images or of classes.
    """
    shapes = {(len(images), *np.shape(logits)) for images, logits in columns.values()}
    if len(shapes) != 1 or any(rows != count for rows, count, _ in shapes):
        raise ValueError(f"each column needs images [n, H, W, C] and logits [n, K] of the same n and K; got {shapes}")
    ((count, _, classes),) = shapes
    figure = blank(2.6 * len(columns), 2.4 * count + 0.9)
    # one row of images and one of bars for each example
    grid = figure.subplots(2 * count, len(columns), height_ratios=[1.6, 1] * count, squeeze=False)
    low = min(np.min(logits) for _, logits in columns.values())
    high = max(np.max(logits) for _, logits in columns.values())
    for column, (name, (images, logits)) in enumerate(columns.items()):
        grid[0, column].set_title(name, fontsize=10, color=INK)
        for row in range(count):
            show_image(grid[2 * row, column], np.asarray(images[row]))
            axes, values = grid[2 * row + 1, column], np.asarray(logits[row])
            colors = [PALETTE[1] if k == values.argmax() else PALETTE[0] for k in range(classes)]
            axes.bar(range(classes), values, color=colors)
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
            axes.set_xticks(range(classes))
            axes.tick_params(labelsize=7, length=0, colors=INK)
            axes.axhline(0, color=GRID, linewidth=0.8)
            for side in ("top", "right", "left"):
                axes.spines[side].set_visible(False)
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel("logits", fontsize=8, color=INK)
    figure.suptitle(title, fontsize=11, color=INK)
    return figure
