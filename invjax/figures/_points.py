"""Charts of points: two measures against each other."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank


def pareto(
    points: Mapping[str, tuple[tuple[float, float], tuple[float, float]]],
    target: Mapping[str, tuple[float, float]],
    ceiling: float,
    xlabel: str,
    ylabel: str,
    title: str,
) -> Any:
    """One point for each run: x should be small and has a logarithmic axis, y should be large.

    Args:
        points: `{run: ((x, spread of x), (y, spread of y))}`, x positive.
        target: `{name: (x, y)}`, points to compare with, drawn as stars with their names.
        ceiling: the largest possible y, drawn as a dashed line.
        xlabel: label of the x axis.
        ylabel: label of the y axis.
        title: title of the figure.
    """
    figure = blank(6.4, 3.8 + 0.16 * len(points))
    axes = figure.subplots()
    for i, (name, ((x, dx), (y, dy))) in enumerate(points.items()):
        style = {"color": PALETTE[i % len(PALETTE)], "marker": "osD^v"[i // len(PALETTE) % 5]}
        axes.errorbar(x, y, yerr=dy, xerr=dx, linestyle="", markersize=5, elinewidth=0.8, label=name, **style)
    for name, place in target.items():
        axes.plot(*place, "*", color=INK, markersize=9, linestyle="", clip_on=False)
        axes.annotate(name, place, (6, 7), textcoords="offset points", fontsize=8, color=INK)
    axes.axhline(ceiling, color=INK, linestyle="--", linewidth=0.8)
    axes.annotate("chance", (1, ceiling), xycoords=("axes fraction", "data"), fontsize=8, ha="right", va="bottom")
    axes.set_xscale("log")
    from matplotlib.ticker import LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(-0.02 * ceiling, 1.08 * ceiling)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color=GRID, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def scatter_panels(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], ylabel: str, title: str, size: float = 14
) -> Any:
    """Panels of points with one y axis, and one color for each group.

    Args:
        panels: `{label of the x axis: {group: (x [n], y [n])}}`, with the same groups in each.
        ylabel: label of the y axis.
        title: title of the figure.
        size: area of a marker, in square points.
    """
    figure = blank(3.3 * len(panels) + 0.5, 3.5)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (xlabel, groups) in zip(grid, panels.items(), strict=True):
        for i, (group, (x, y)) in enumerate(groups.items()):
            style = {"color": PALETTE[i % len(PALETTE)], "marker": "osD^vP"[i % 6], "linewidths": 0}
            axes.scatter(x, y, s=size, alpha=0.75, label=group, **style)
        axes.set_xlabel(xlabel)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel(ylabel)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
