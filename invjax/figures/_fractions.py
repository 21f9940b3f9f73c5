"""Bars that divide a whole into its parts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank

_COLORS = (GRID, PALETTE[0], PALETTE[3], PALETTE[1], PALETTE[2])


def stacked_fractions(parts: Mapping[str, Mapping[str, np.ndarray]], title: str) -> Any:
    """One bar for each line, divided into the fractions of its parts, such as `Report.failures` of several models.

    Args:
        parts: `{line: {part: [N] booleans}}`, with the same parts in each; exactly one part is true for each of the N
            images.
        title: title of the figure.

    Raises:
        ValueError: an image is not in exactly one part, or there are more parts than colors.
    """
    names = list(next(iter(parts.values())))
    for line, of_line in parts.items():
        if list(of_line) != names or not (np.sum(list(of_line.values()), 0) == 1).all():
            raise ValueError(f"each image of {line!r} must be in exactly one part of {names}; got {list(of_line)}")
    if len(names) > len(_COLORS):
        raise ValueError(f"there are colors for {len(_COLORS)} parts; got {len(names)}: {names}; merge some")
    figure = blank(6.4, 1.1 + 0.42 * len(parts))
    axes = figure.subplots()
    for row, of_line in enumerate(parts.values()):
        left = 0.0
        for name, color in zip(names, _COLORS, strict=False):
            percent = 100 * float(np.mean(of_line[name]))
            axes.barh(row, percent, 0.7, left=left, color=color, label=None if row else name)
            if percent >= 4:
                dark = color != GRID
                style = {"ha": "center", "va": "center", "fontsize": 7, "color": "white" if dark else INK}
                axes.text(left + percent / 2, row, f"{percent:.0f}", **style)
            left += percent
    axes.set_yticks(range(len(parts)), list(parts), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("images, %", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelsize=8)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
