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
        marks: `{question: {model: fraction}}`, the published fractions, drawn as hollow stars above the intervals.
        xlabel: label of the x axis, to which "%" is added.
        title: title of the figure.
    """
    models = list(next(iter(panels.values())))
    figure = blank(1.55 * len(panels) + 2.4, 0.3 * len(models) + 1.6)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    star = {"markerfacecolor": "white", "markeredgecolor": INK, "markersize": 7, "linestyle": ""}
    names = {}
    for axes, (question, of_models) in zip(grid, panels.items(), strict=True):
        for i, model in enumerate(models):
            percent, low, high = (100 * value for value in of_models[model])
            axes.plot([low, high], [i, i], color=PALETTE[0], linewidth=1.6, alpha=0.6)
            (names["measured, with 95 % interval"],) = axes.plot(percent, i, "o", color=PALETTE[0], markersize=5)
            if model in marks.get(question, {}):
                (names["published"],) = axes.plot(100 * marks[question][model], i - 0.32, "*", **star)
        axes.set_xlim(-4, 104)
        axes.set_ylim(len(models) - 0.5, -0.7)
        axes.set_xticks([0, 50, 100])
        axes.set_title(question, fontsize=9, color=INK)
        axes.set_xlabel(f"{xlabel}, %", fontsize=8, color=INK)
        axes.tick_params(labelsize=8)
        axes.grid(color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_yticks(range(len(models)), models, fontsize=8)
    figure.legend(list(names.values()), list(names), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def interval_curves(
    panels: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]],
    ylabel: str,
    title: str,
    crosses: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]] | None = None,
) -> Any:
    """Fractions against a number, with a confidence interval at each point; each panel has its own x axis.

    Panels with the same lines share one legend.

    Args:
        panels: `{name of x: (x [E], {line: intervals [E, 3]})}`; a row is `(fraction, low, high)`.
        ylabel: label of the y axis, to which "%" is added.
        title: title of the figure.
        crosses: `{name of x: {line: (positions [P], fractions [P])}}`, single values drawn as crosses in the color of
            the line, such as those of trainings that failed.
    """
    figure = blank(3.5 * len(panels) + 0.5, 3.8)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (xlabel, (x, lines)) in zip(grid, panels.items(), strict=True):
        step = np.ptp(x) / max(len(x) - 1, 1)
        for i, (line, intervals) in enumerate(lines.items()):
            percent, low, high = 100 * np.asarray(intervals).T
            shift = 0.06 * step * (i - (len(lines) - 1) / 2)  # so that points do not cover each other
            style = {"color": PALETTE[i % len(PALETTE)], "marker": "osD^v"[i % 5], "linewidth": 1.4, "markersize": 4}
            axes.errorbar(
                x + shift, percent, [percent - low, high - percent], capsize=2, elinewidth=0.8, label=line, **style
            )
            if crosses and line in crosses.get(xlabel, {}):
                at, values = crosses[xlabel][line]
                axes.plot(at + shift, 100 * np.asarray(values), "x", color=style["color"], markersize=6)
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.set_xlabel(xlabel)
        axes.set_ylim(-3, 103)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel(f"{ylabel}, %")
    named = grid[0].get_legend_handles_labels()
    if all(list(lines) == named[1] for _, lines in panels.values()):
        figure.legend(*named, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    else:
        for axes in grid:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
