"""Figures of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invjax.figures._canvas import INK, PALETTE, blank, show_image


def metamer_grid(
    logits_from: np.ndarray,
    metamers: np.ndarray,
    nuisance_from: np.ndarray,
    logits: np.ndarray,
    metamer_logits: np.ndarray,
    title: str,
) -> Any:
    """Logit metamers, with the logits of the original and of the metamer under each column.

    Source: Jacobsen et al. 2019, figure 5.

    Args:
        logits_from: row 1, the images that give the logits, `[n, H, W, C]`.
        metamers: row 2, the metamers, `[n, H, W, C]`; clipped to [0, 1] for display.
        nuisance_from: row 3, the images that give the nuisance, `[n, H, W, C]`.
        logits: the logits of row 1, `[n, K]`.
        metamer_logits: the logits of row 2, `[n, K]`, by encoding the metamers again.
        title: title of the figure.
    """
    n, classes = logits.shape
    figure = blank(1.25 * n + 1.2, 4.1 + 0.15 * classes)
    grid = figure.subplots(4, n, height_ratios=[1, 1, 1, 0.13 * classes], squeeze=False)
    rows = ("logits from", "metamer", "nuisance from")
    for row, images in enumerate((logits_from, metamers, nuisance_from)):
        for column in range(n):
            show_image(grid[row, column], images[column])
        grid[row, 0].set_ylabel(rows[row], fontsize=9, color=INK)
    for column in range(n):
        axes = grid[3, column]
        axes.axis("off")
        top = int(logits[column].argmax())
        for k in range(classes):
            axes.text(
                0.5,
                1 - (k + 0.5) / classes,
                f"{k} {logits[column, k]:7.2f} {metamer_logits[column, k]:7.2f}",
                family="monospace",
                fontsize=6.5,
                ha="center",
                va="center",
                transform=axes.transAxes,
                color=PALETTE[0] if k == top else INK,
                weight="bold" if k == top else "normal",
            )
    grid[3, 0].text(
        -0.25,
        0.5,
        "logits of\nrows 1 and 2",
        fontsize=9,
        color=INK,
        rotation=90,
        ha="center",
        va="center",
        transform=grid[3, 0].transAxes,
    )
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def adversarial_grid(
    original: np.ndarray, changed: Mapping[str, np.ndarray], captions: Mapping[str, Sequence[str]], title: str
) -> Any:
    """Images above their adversarial examples: one column for each image, one row for each attack.

    Args:
        original: the unchanged images, `[n, H, W, C]`.
        changed: their adversarial examples, `{attack: [n, H, W, C]}`.
        captions: `{attack or "original": [n] captions}`, printed under the images.
        title: title of the figure.
    """
    rows = {"original": original, **changed}
    figure = blank(1.15 * len(original) + 0.6, 1.4 * len(rows) + 0.4)
    grid = figure.subplots(len(rows), len(original), squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image, caption in zip(line, images, captions[name], strict=True):
            show_image(axes, image)
            axes.set_xlabel(caption, fontsize=7, color=INK)
        line[0].set_ylabel(name, fontsize=9, color=INK)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def image_grid(rows: Mapping[str, np.ndarray], title: str, side: float = 0.8) -> Any:
    """Named rows of images.

    Args:
        rows: `{name: [n, H, W, C]}`, with the same n in each; clipped to [0, 1] for display.
        title: title of the figure.
        side: side of an image, in inches.
    """
    columns = len(next(iter(rows.values())))
    figure = blank(side * columns + 0.6, (side + 0.05) * len(rows) + 0.4)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            show_image(axes, image)
        line[0].set_ylabel(name, fontsize=8, color=INK)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
