"""Charts of fractions with their confidence intervals."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank

Interval = tuple[float, float, float]
"""`(fraction, low, high)`, each in [0, 1]."""


def interval_dots(
    panels: Mapping[str, Mapping[str, Interval]], marks: Mapping[str, Mapping[str, float]], xlabel: str, title: str
) -> Any:
    """Dots with confidence intervals, one panel for each question and one line for each model.

    Args:
        panels: `{question: {model: interval}}`, with the same models in each.
        marks: `{question: {model: fraction}}`, the published fractions, drawn as hollow stars.
        xlabel: label of the x axis, to which "%" is added.
        title: title of the figure.
    """
    models = list(next(iter(panels.values())))
    figure = blank(2.1 * len(panels) + 2.2, 0.3 * len(models) + 1.5)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (question, of_models) in zip(grid, panels.items(), strict=True):
        for i, model in enumerate(models):
            percent, low, high = (100 * value for value in of_models[model])
            color = PALETTE[i % len(PALETTE)]
            axes.plot([low, high], [i, i], color=color, linewidth=1.6, alpha=0.6)
            axes.plot(percent, i, "o", color=color, markersize=5)
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
    """Fractions against a number, with a confidence interval at each point; each panel has its own x axis.

    Args:
        panels: `{name of x: (x [E], {line: intervals [E, 3]})}`; a row is `(fraction, low, high)`.
        ylabel: label of the y axis, to which "%" is added.
        title: title of the figure.
    """
    figure = blank(3.5 * len(panels) + 0.5, 3.6)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (xlabel, (x, lines)) in zip(grid, panels.items(), strict=True):
        step = np.ptp(x) / max(len(x) - 1, 1)
        for i, (line, intervals) in enumerate(lines.items()):
            percent, low, high = 100 * np.asarray(intervals).T
            aside = x + 0.06 * step * (i - (len(lines) - 1) / 2)  # so that points do not cover each other
            style = {"color": PALETTE[i % len(PALETTE)], "marker": "osD^v"[i % 5], "linewidth": 1.4, "markersize": 4}
            axes.errorbar(
                aside, percent, [percent - low, high - percent], capsize=2, elinewidth=0.8, label=line, **style
            )
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.set_xlabel(xlabel)
        axes.set_ylim(0, 102)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    grid[0].set_ylabel(f"{ylabel}, %")
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
