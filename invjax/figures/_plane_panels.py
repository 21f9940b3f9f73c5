"""Points, curves and arrows on a plane."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank


def plane_panels(
    points: Mapping[str, Mapping[str, np.ndarray]],
    curves: Mapping[str, Mapping[str, np.ndarray]],
    arrows: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    limits: Sequence[Sequence[float | int]],
    labels: tuple[str, str],
    title: str,
    columns: int = 2,
    width: float = 4.0,
) -> Any:
    """Panels of one plane with points, curves and arrows; a name has the same style in all panels.

    Args:
        points: `{panel: {group: [N, 2]}}`, one color for each group.
        curves: `{panel: {name: [P, 2]}}`, drawn in black.
        arrows: `{panel: {name: (from [2], to [2])}}`, one color for each name.
        limits: limits of the two axes, whose units have the same length.
        labels: labels of the two axes.
        title: title of the figure.
        columns: number of panels in a row.
        width: width of a panel, in inches.
    """
    from itertools import chain, cycle

    rows = -(-len(points) // columns)
    (left, right), (bottom, top) = limits
    figure = blank(width * columns + 0.4, rows * (width * (top - bottom) / (right - left) + 0.45) + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    from matplotlib.lines import Line2D

    def names(parts):
        return dict.fromkeys(chain.from_iterable(parts.values()))

    colors = dict(zip([*names(points), *names(arrows)], cycle(PALETTE), strict=False))
    dashes = dict(zip(names(curves), cycle(("-", "--", ":", "-.")), strict=False))
    for axes in grid.ravel()[len(points) :]:
        axes.set_visible(False)
    for axes, (panel, groups) in zip(grid.ravel(), points.items(), strict=False):
        for group, at in groups.items():
            axes.plot(*at.T, ".", markersize=4, markeredgewidth=0, color=colors[group], alpha=0.55, rasterized=True)
        for name, curve in curves.get(panel, {}).items():
            axes.plot(*curve.T, color=INK, linestyle=dashes[name], linewidth=1.2)
        for name, (start, end) in arrows.get(panel, {}).items():
            style = {"arrowstyle": "-|>", "color": colors[name], "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", end, start, arrowprops=style, zorder=5)
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        axes.set_aspect("equal")
        axes.set_title(panel, fontsize=9, color=INK)
        axes.grid(color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
    for axes in grid[-1]:
        axes.set_xlabel(labels[0])
    for axes in grid[:, 0]:
        axes.set_ylabel(labels[1])
    dot: dict[str, Any] = {"marker": "o", "markersize": 4, "linestyle": ""}
    head: dict[str, Any] = {"linewidth": 2.2, "marker": ">", "markersize": 5}
    handles = [
        *(Line2D([], [], color=colors[name], **dot, label=name) for name in names(points)),
        *(Line2D([], [], color=INK, linestyle=dashes[name], linewidth=1.2, label=name) for name in names(curves)),
        *(Line2D([], [], color=colors[name], **head, label=name) for name in names(arrows)),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
