"""Figures of images."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank, show_image


def metamer_grid(
    logits_from: np.ndarray,
    metamers: np.ndarray,
    nuisance_from: np.ndarray,
    logits: np.ndarray,
    metamer_logits: np.ndarray,
    title: str,
) -> Any:
    """Logit metamers, with the logits of the original (bars) and of the metamer (dots) under each column.

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
    figure = blank(1.15 * n + 0.9, 5.4)
    grid = figure.subplots(4, n, height_ratios=[1, 1, 1, 1.1], squeeze=False)
    rows = {"logits from": logits_from, "metamer": metamers, "nuisance from": nuisance_from}
    for line, (name, images) in zip(grid, rows.items(), strict=False):
        for axes, image in zip(line, images, strict=True):
            show_image(axes, image)
        line[0].set_ylabel(name, fontsize=9, color=INK)
    low, high = min(logits.min(), metamer_logits.min(), 0), max(logits.max(), metamer_logits.max(), 0)
    margin = 0.06 * (high - low)
    for axes, wanted, found in zip(grid[3], logits, metamer_logits, strict=True):
        colors = [PALETTE[1] if k == wanted.argmax() else PALETTE[0] for k in range(classes)]
        axes.bar(range(classes), wanted, color=colors)
        axes.plot(range(classes), found, "o", color=INK, markersize=2.5)
        axes.axhline(0, color=GRID, linewidth=0.8, zorder=0)
        axes.set_ylim(low - margin, high + margin)
        axes.set_xticks(range(classes) if classes <= 10 else [])
        axes.tick_params(labelsize=6.5, length=0, pad=2, colors=INK)
        axes.tick_params(axis="y", labelleft=axes is grid[3, 0])
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(f"differ by at\nmost {np.abs(wanted - found).max():.0e}", fontsize=7.5, color=INK)
    grid[3, 0].set_ylabel("logits", fontsize=9, color=INK)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Patch(color=PALETTE[0], label="logits of row 1"),
        Patch(color=PALETTE[1], label="the largest one"),
        Line2D([], [], marker="o", color=INK, markersize=3, linestyle="", label="logits of row 2"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
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
    return image_grid({"original": original, **changed}, title, 1.15, captions)


def image_grid(
    rows: Mapping[str, np.ndarray],
    title: str,
    side: float = 0.8,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """Named rows of images.

    Args:
        rows: `{name: [n, H, W, C]}`, with the same n in each; clipped to [0, 1] for display.
        title: title of the figure; it is broken into lines where the figure is narrow.
        side: side of an image, in inches.
        captions: `{name: [n] captions}`, printed under the images of these rows.
    """
    captions = captions or {}
    columns = len(next(iter(rows.values())))
    text = sum(max(caption.count("\n") + 1 for caption in of_row) for of_row in captions.values())
    width = side * columns + 0.6
    title = textwrap.fill(title, int(12.5 * width))  # so that a few columns do not cut it off
    figure = blank(width, (side + 0.05) * len(rows) + 0.14 * text + 0.17 * title.count("\n") + 0.4)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            show_image(axes, image)
        for axes, caption in zip(line, captions.get(name, [""] * columns), strict=True):
            axes.set_xlabel(caption, fontsize=7, color=INK)
        line[0].set_ylabel(name, fontsize=8, color=INK)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
