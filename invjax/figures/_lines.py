"""Charts of lines against a number."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank, panel_grid


def curves(
    x: np.ndarray,
    panels: Mapping[str, Mapping[str, np.ndarray]],
    xlabel: str,
    ylabel: str,
    title: str,
    dots: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]] | None = None,
) -> Any:
    """Fractions against a number, with one panel for each model and one line for each quantity.

    A line is the mean over seeds, and a band is their range. Panels with the same quantities share one legend.

    Args:
        x: positions on the x axis, `[E]`, ascending.
        panels: `{model: {quantity: values [seeds, E] in [0, 1]}}`.
        xlabel: label of the x axis.
        ylabel: label of the y axis, to which "%" is added.
        title: title of the figure.
        dots: `{model: {quantity: (positions [P], values [P])}}`, drawn as dots in the color of the quantity, such as a
            simulation on the lines of closed forms.
    """
    figure, grid, legend = panel_grid(len(panels), (3.2, 2.7), xlabel, f"{ylabel}, %", most=3)
    for axes, (model, lines) in zip(grid, panels.items(), strict=True):
        for i, (quantity, values) in enumerate(lines.items()):
            color = PALETTE[i % len(PALETTE)]
            values = 100 * np.asarray(values)
            axes.plot(x, values.mean(0), color=color, label=quantity, linewidth=1.4)
            axes.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
            at, found = (dots or {}).get(model, {}).get(quantity, ((), ()))
            if len(at):  # an empty line that is not clipped breaks the layout
                axes.plot(at, 100 * np.asarray(found), "o", color=color, markersize=3, clip_on=False)
        axes.set_title(model, fontsize=9, color=INK)
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(0, 102)
        axes.xaxis.set_major_formatter("{x:g}")  # short, so that labels of neighbours do not meet
    named = grid[0].get_legend_handles_labels()
    if all(list(lines) == named[1] for lines in panels.values()):
        legend(*named)
    else:
        for axes in grid:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def line_panels(
    x: np.ndarray, panels: Mapping[str, Mapping[str, np.ndarray]], xlabel: str, title: str, logarithmic: Sequence[str]
) -> Any:
    """Lines against a number on a logarithmic axis; each quantity has a panel with its own y axis, and a legend below.

    Args:
        x: positions on the x axis, `[E]`, positive and ascending.
        panels: `{quantity: {line: values [E]}}`.
        xlabel: label of the x axis.
        title: title of the figure.
        logarithmic: the quantities whose y axis is logarithmic too.
    """
    figure = blank(2.9 * len(panels) + 0.3, 3.5)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (quantity, lines) in zip(grid, panels.items(), strict=True):
        for i, (name, values) in enumerate(lines.items()):
            axes.plot(x, values, color=PALETTE[i % len(PALETTE)], linewidth=1.4, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log" if quantity in logarithmic else "linear")
        axes.set_xlim(x[0], x[-1])
        axes.set_xlabel(xlabel)
        axes.set_title(quantity, fontsize=9, color=INK)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
