"""Charts of any numbers: bars, curves, points, histograms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank


def readings(
    errors: Mapping[str, Mapping[str, Sequence[float]]],
    chance: float,
    title: str,
    ylabel: str = "test error of a fresh classifier, %",
) -> Any:
    """What fresh classifiers read: one group of bars a classifier, one bar a model, one dot a seed.

    Args:
        errors: `{model: {classifier: error of each seed}}`, in [0, 1].
        chance: the error of guessing, a dashed line.
        title: above the figure.
        ylabel: what is read.
    """
    figure = blank(6.4, 3.4)
    axes = figure.subplots()
    heads = list(next(iter(errors.values())))
    highest = max(max(by_head[head]) for by_head in errors.values() for head in heads)
    width = 0.8 / len(errors)
    for i, (model, by_head) in enumerate(errors.items()):
        for j, values in enumerate(by_head[head] for head in heads):
            x = j + (i - (len(errors) - 1) / 2) * width
            axes.bar(x, 100 * np.mean(values), 0.9 * width, color=PALETTE[i], label=model if j == 0 else None)
            axes.plot([x] * len(values), 100 * np.asarray(values), "o", color=INK, markersize=3)
            axes.annotate(
                f"{100 * np.mean(values):.1f}",
                (x, 100 * np.max(values)),
                fontsize=7,
                ha="center",
                va="bottom",
                xytext=(0, 3),
                textcoords="offset points",
                color=INK,
            )
    axes.axhline(100 * chance, color=INK, linestyle="--", linewidth=0.8)
    axes.annotate("chance", (1, 100 * chance), xycoords=("axes fraction", "data"), fontsize=7, ha="right", va="bottom")
    axes.set_xticks(range(len(heads)), heads)
    axes.set_ylabel(ylabel)
    axes.set_ylim(0, 105 * max(chance, highest))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 0.9))
    axes.set_title(title, fontsize=10, color=INK)
    return figure


def bar_panels(
    values: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    ylabel: str,
    title: str,
    reference: tuple[float, str] | None = None,
) -> Any:
    """Panels of grouped bars on one scale: a bar is the mean, a dot one of its values.

    Args:
        values: `{panel: {group: {bar: values}}}`, the same groups and bars in each panel.
        ylabel: what is drawn, with its unit.
        title: above the figure.
        reference: a dashed line across all panels, and its name.
    """
    figure = blank(2.9 * len(values) + 0.8, 3.4)
    panels = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axes, (panel, groups) in zip(panels, values.items(), strict=True):
        for j, bars in enumerate(groups.values()):
            width = 0.8 / len(bars)
            for i, (name, seen) in enumerate(bars.items()):
                x = j + (i - (len(bars) - 1) / 2) * width
                axes.bar(x, np.mean(seen), 0.9 * width, color=PALETTE[i % len(PALETTE)], label=None if j else name)
                axes.plot([x] * len(seen), seen, "o", color=INK, markersize=3)
                axes.annotate(
                    f"{np.mean(seen):.3g}",
                    (x, np.max(seen)),
                    fontsize=7,
                    ha="center",
                    va="bottom",
                    xytext=(0, 3),
                    textcoords="offset points",
                    color=INK,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                )
        if reference is not None:
            axes.axhline(reference[0], color=INK, linestyle="--", linewidth=0.8)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set_title(panel, fontsize=9, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    if reference is not None:
        name_at = (1, reference[0]), ("axes fraction", "data")
        panels[-1].annotate(f" {reference[1]}", name_at[0], xycoords=name_at[1], fontsize=7, ha="left", va="center")
    highest = max(max(seen) for groups in values.values() for bars in groups.values() for seen in bars.values())
    panels[0].set_ylim(0, 1.1 * max(highest, 0 if reference is None else reference[0]) or 1)
    panels[0].set_ylabel(ylabel)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def curves(x: np.ndarray, panels: Mapping[str, Mapping[str, np.ndarray]], xlabel: str, ylabel: str, title: str) -> Any:
    """Shares against a number, one panel a model, one line a quantity: the mean over seeds, and their range as a band.

    Args:
        x: `[E]`, ascending.
        panels: `{model: {quantity: values [seeds, E] in [0, 1]}}`, the same quantities in each.
        xlabel: what x is.
        ylabel: what the shares are of; "%" is added.
        title: above the figure.
    """
    figure = blank(3.2 * len(panels) + 0.6, 3.4)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (model, lines) in zip(grid, panels.items(), strict=True):
        for i, (quantity, values) in enumerate(lines.items()):
            color = PALETTE[i % len(PALETTE)]
            values = 100 * np.asarray(values)
            axes.plot(x, values.mean(0), color=color, label=quantity, linewidth=1.4)
            axes.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
        axes.set_title(model, fontsize=9, color=INK)
        axes.set_xlabel(xlabel)
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(0, 102)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel(f"{ylabel}, %")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def pareto(
    points: Mapping[str, tuple[tuple[float, float], tuple[float, float]]],
    target: Mapping[str, tuple[float, float]],
    ceiling: float,
    xlabel: str,
    ylabel: str,
    title: str,
) -> Any:
    """Two measures, one point a run: the first on a logarithmic axis, where small is good, the second where large is.

    Args:
        points: `{run: ((x, spread of x), (y, spread of y))}`, x positive.
        target: `{name: (x, y)}`, points to compare with, drawn as stars.
        ceiling: the largest y there can be, a dashed line.
        xlabel: the first measure.
        ylabel: the second.
        title: above the figure.
    """
    figure = blank(6.4, 3.8 + 0.16 * len(points))
    axes = figure.subplots()
    for i, (name, ((x, dx), (y, dy))) in enumerate(points.items()):
        style = {"color": PALETTE[i % len(PALETTE)], "marker": "osD^v"[i // len(PALETTE) % 5]}
        axes.errorbar(x, y, yerr=dy, xerr=dx, linestyle="", markersize=5, elinewidth=0.8, label=name, **style)
    for name, (x, y) in target.items():
        axes.plot(x, y, "*", color=INK, markersize=9, linestyle="", label=name)
    axes.axhline(ceiling, color=INK, linestyle="--", linewidth=0.8)
    axes.annotate("chance", (1, ceiling), xycoords=("axes fraction", "data"), fontsize=7, ha="right", va="bottom")
    axes.set_xscale("log")
    for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(0, 1.08 * ceiling)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color=GRID, linewidth=0.5, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", fontsize=7, frameon=False)
    axes.set_title(title, fontsize=10, color=INK)
    return figure


def histograms(
    values: Mapping[str, np.ndarray],
    xlabel: str,
    ylabel: str,
    title: str,
    bands: Mapping[str, tuple[float, float]] | None = None,
    bins: int = 30,
) -> Any:
    """Histograms under each other on one axis, a dashed line at each median.

    Args:
        values: `{panel: [n]}`; an empty panel stays empty.
        xlabel: what the values are.
        ylabel: what is counted.
        title: above the figure.
        bands: `{panel: (low, high)}`, tinted: where the values should lie.
        bins: on the whole axis, in all panels the same.
    """
    bands = {} if bands is None else bands
    every = np.concatenate([np.ravel(v) for v in values.values()] + [np.ravel(band) for band in bands.values()])
    low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, bins + 1)
    figure = blank(5.6, 1.5 * len(values) + 0.8)
    panels = figure.subplots(len(values), 1, squeeze=False, sharex=True)[:, 0]
    for i, (axes, (name, seen)) in enumerate(zip(panels, values.items(), strict=True)):
        if name in bands:
            label = f"published: {bands[name][0]:g} to {bands[name][1]:g}"
            axes.axvspan(*bands[name], color=GRID, linewidth=0, label=label, zorder=0)
        axes.hist(seen, edges, color=PALETTE[i % len(PALETTE)], rwidth=0.92)
        if np.size(seen):
            axes.axvline(
                np.median(seen), color=INK, linestyle="--", linewidth=0.9, label=f"median {np.median(seen):.2f}"
            )
        axes.set_ylabel(ylabel)
        axes.set_title(name, fontsize=9, color=INK, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel(xlabel)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def scatter_panels(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], ylabel: str, title: str, size: float = 14
) -> Any:
    """Panels of points with one y axis, one colour a group.

    Args:
        panels: `{what x is: {group: (x [n], y [n])}}`, the same groups in each.
        ylabel: what y is.
        title: above the figure.
        size: of a point, in square points.
    """
    figure = blank(3.3 * len(panels) + 0.5, 3.5)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (xlabel, groups) in zip(grid, panels.items(), strict=True):
        for i, (group, (x, y)) in enumerate(groups.items()):
            style = {"color": PALETTE[i % len(PALETTE)], "marker": "osD^v"[i % 5], "linewidths": 0}
            axes.scatter(x, y, s=size, alpha=0.75, label=group, **style)
        axes.set_xlabel(xlabel)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel(ylabel)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def line_panels(
    x: np.ndarray, panels: Mapping[str, Mapping[str, np.ndarray]], xlabel: str, title: str, logarithmic: Sequence[str]
) -> Any:
    """Lines against one number on a logarithmic axis, one panel a quantity, each with an axis and a legend of its own.

    Args:
        x: `[E]`, positive and ascending.
        panels: `{quantity: {line: values [E]}}`.
        xlabel: what x is.
        title: above the figure.
        logarithmic: the quantities whose axis is logarithmic too.
    """
    figure = blank(3.6 * len(panels) + 0.3, 3.3)
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
        axes.legend(frameon=False, fontsize=7)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
