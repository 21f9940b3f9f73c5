"""Histograms with medians."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank


def histograms(
    values: Mapping[str, np.ndarray],
    xlabel: str,
    ylabel: str,
    title: str,
    bands: Mapping[str, tuple[float, float]] | None = None,
    bins: int = 30,
) -> Any:
    """Histograms below each other on one x axis, with a dashed line at each median.

    Args:
        values: `{panel: [n]}`; an empty array gives an empty panel.
        xlabel: label of the x axis.
        ylabel: label of the y axes.
        title: title of the figure.
        bands: `{panel: (low, high)}`, the published ranges, which are shaded.
        bins: number of bins on the axis, the same in all panels.
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
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_title(name, fontsize=9, color=INK, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel(xlabel)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
