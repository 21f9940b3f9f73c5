"""Charts of shares with their intervals: how sure one can be with few images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank

Interval = tuple[float, float, float]
"""`(share, low, high)`, each in [0, 1]."""


def interval_dots(
    panels: Mapping[str, Mapping[str, Interval]], marks: Mapping[str, Mapping[str, float]], xlabel: str, title: str
) -> Any:
    """Dots with intervals, one panel a question and one line a model.

    Args:
        panels: `{question: {model: interval}}`, the same models in each.
        marks: `{question: {model: share}}`, drawn as hollow stars: what was published, where it was.
        xlabel: what the shares are of; "%" is added.
        title: above the figure.
    """
    models = list(next(iter(panels.values())))
    figure = blank(2.1 * len(panels) + 2.2, 0.3 * len(models) + 1.5)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (question, of_models) in zip(grid, panels.items(), strict=True):
        for i, model in enumerate(models):
            share, low, high = (100 * value for value in of_models[model])
            color = PALETTE[i % len(PALETTE)]
            axes.plot([low, high], [i, i], color=color, linewidth=1.6, alpha=0.6)
            axes.plot(share, i, "o", color=color, markersize=5)
            if model in marks.get(question, {}):
                star = {"markerfacecolor": "white", "markeredgecolor": INK, "markersize": 9, "linestyle": ""}
                axes.plot(100 * marks[question][model], i, "*", **star)
        axes.set_xlim(-3, 103)
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.set_title(question, fontsize=9, color=INK)
        axes.grid(color=GRID, linewidth=0.5, axis="x")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_yticks(range(len(models)), models, fontsize=8)
    figure.supxlabel(f"{xlabel}, %", fontsize=9, color=INK)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def interval_curves(panels: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]], ylabel: str, title: str) -> Any:
    """Shares against a number with an interval at each point, one panel a number, each with an axis of its own.

    Args:
        panels: `{what x is: (x [E], {line: intervals [E, 3]})}`; a row is `(share, low, high)`.
        ylabel: what the shares are of; "%" is added.
        title: above the figure.
    """
    figure = blank(3.5 * len(panels) + 0.5, 3.6)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (xlabel, (x, lines)) in zip(grid, panels.items(), strict=True):
        step = np.ptp(x) / max(len(x) - 1, 1)
        for i, (line, intervals) in enumerate(lines.items()):
            share, low, high = 100 * np.asarray(intervals).T
            aside = x + 0.06 * step * (i - (len(lines) - 1) / 2)  # beside each other, not on top
            style = {"color": PALETTE[i % len(PALETTE)], "marker": "osD^v"[i % 5], "linewidth": 1.4, "markersize": 4}
            axes.errorbar(aside, share, [share - low, high - share], capsize=2, elinewidth=0.8, label=line, **style)
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.set_xlabel(xlabel)
        axes.set_ylim(0, 102)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    grid[0].set_ylabel(f"{ylabel}, %")
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
