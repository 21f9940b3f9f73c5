"""A whole in its parts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank

_COLOURS = (GRID, PALETTE[0], PALETTE[3], PALETTE[1], PALETTE[2])


def stacked_shares(parts: Mapping[str, Mapping[str, np.ndarray]], title: str, xlabel: str = "images, %") -> Any:
    """One bar a line, cut into the shares of its parts; such as `Report.failures` of several models.

    Args:
        parts: `{line: {part: [N] booleans}}`, the same parts in each, of which exactly one holds for each of N.
        title: above the figure.
        xlabel: what is shared out.

    Raises:
        ValueError: parts that are not one for each, or more of them than there are colours.
    """
    names = list(next(iter(parts.values())))
    for line, of_line in parts.items():
        if list(of_line) != names or not (np.sum(list(of_line.values()), 0) == 1).all():
            raise ValueError(f"each of {line!r} must be in exactly one part, the parts {names}; got {list(of_line)}")
    if len(names) > len(_COLOURS):
        raise ValueError(f"there are colours for {len(_COLOURS)} parts; got {len(names)}: {names}")
    figure = blank(6.4, 1.1 + 0.42 * len(parts))
    axes = figure.subplots()
    for row, of_line in enumerate(parts.values()):
        left = 0.0
        for name, colour in zip(names, _COLOURS, strict=False):
            share = 100 * float(np.mean(of_line[name]))
            axes.barh(row, share, 0.7, left=left, color=colour, label=None if row else name)
            if share >= 4:
                dark = colour != GRID
                axes.text(left + share / 2, row, f"{share:.0f}", ha="center", va="center", fontsize=7,
                          color="white" if dark else INK)  # fmt: skip
            left += share
    axes.set_yticks(range(len(parts)), list(parts), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(xlabel, fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelsize=8)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
