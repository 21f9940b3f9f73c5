"""Charts of logits: linear response along a direction, and gaps between logits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank


def logits_along(
    eps: np.ndarray, logits: np.ndarray, linear: np.ndarray, crossing: np.ndarray, labels: np.ndarray, title: str
) -> Any:
    """Logits of images along one direction each, with their linear response as dotted lines.

    A dot marks where the prediction changes.

    Args:
        eps: `[C, P]`, positions along the direction.
        logits: `[C, P, K]`, the true logits.
        linear: `[C, P, K]`, the logits that the linear response predicts.
        crossing: `[C]`, the position where the prediction changes.
        labels: `[C]`, the classes drawn in black. The class that is predicted next is in color, the others are gray.
        title: title of the figure.
    """
    figure = blank(2.6 * len(eps) + 0.4, 2.9)
    grid = figure.subplots(1, len(eps), squeeze=False)[0]
    for axes, e, true, predicted, at, label in zip(grid, eps, logits, linear, crossing, labels, strict=True):
        here = np.array([np.interp(at, e, line) for line in true.T])
        winner = int(np.argmax(np.where(np.arange(len(here)) == label, -np.inf, here)))
        for k in range(true.shape[1]):
            color = INK if k == label else PALETTE[1] if k == winner else GRID
            front = 3 if k in (label, winner) else 1
            name = f"class {k}" if k in (label, winner) else None
            axes.plot(e, true[:, k], color=color, linewidth=1.3, zorder=front, label=name)
            if k in (label, winner):
                axes.plot(e, predicted[:, k], color=color, linestyle=":", linewidth=1.1, zorder=front)
        axes.plot(at, here[label], "o", color=PALETTE[1], markersize=4, zorder=4)
        axes.set_xlim(e[0], e[-1])
        axes.set_xlabel("eps")
        axes.legend(frameon=False, fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("logits")
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def predictions(
    true: np.ndarray, predicted: Mapping[str, np.ndarray], window: tuple[float, float], xlabel: str, title: str
) -> Any:
    """Predicted against true values in one panel for each prediction, and all cumulative distributions in a last panel.

    All axes are logarithmic.

    Args:
        true: the true values, `[N]`, positive; infinite where an example has none.
        predicted: `{prediction: values [N]}`.
        window: the range over which distributions are compared, which is shaded.
        xlabel: the name of the values.
        title: title of the figure.
    """
    figure = blank(3 * (len(predicted) + 1) + 0.4, 3.2)
    *scatters, last = figure.subplots(1, len(predicted) + 1)
    finite = np.isfinite(true) & (true > 0)
    for i, (axes, (name, values)) in enumerate(zip(scatters, predicted.items(), strict=True)):
        both = finite & np.isfinite(values) & (values > 0)
        axes.plot(true[both], values[both], ".", markersize=1, color=PALETTE[i], alpha=0.4, rasterized=True)
        ends = np.quantile(true[both], [0.001, 1])
        axes.plot(ends, ends, color=INK, linestyle="--", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(f"true {xlabel}")
        axes.set_ylabel(f"{xlabel}, {name}")
    for i, (name, values) in enumerate({**predicted, "true": true}.items()):
        ordered = np.sort(values[np.isfinite(values) & (values > 0)])
        style = {"color": INK, "linestyle": "--"} if name == "true" else {"color": PALETTE[i]}
        last.plot(ordered, 100 * np.arange(1, len(ordered) + 1) / len(values), linewidth=1.4, label=name, **style)
    last.axvspan(*window, color=GRID, alpha=0.5, linewidth=0)
    last.set_xscale("log")
    last.set_yscale("log")
    last.set_ylim(0.01, 110)
    last.set_xlabel(xlabel)
    last.set_ylabel("examples below, %")
    last.legend(frameon=False, fontsize=8)
    for axes in (*scatters, last):
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def gap_distributions(
    panels: Mapping[str, np.ndarray],
    ranks: Sequence[int],
    exact: Mapping[str, tuple[np.ndarray, Mapping[int, np.ndarray]]],
    title: str,
) -> Any:
    """Cumulative distributions of the gap to the j-th largest logit on logarithmic axes, one panel for each setting.

    Args:
        panels: `{setting: gaps [N, len(ranks)]}`.
        ranks: the rank j of each column.
        exact: `{setting: (gaps [P], {j: cdf [P]})}`, known distributions, drawn as dashed lines.
        title: title of the figure.
    """
    figure = blank(2.5 * len(panels) + 0.4, 3.1)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (situation, gaps) in zip(grid, panels.items(), strict=True):
        for i, j in enumerate(ranks):
            ordered = np.sort(gaps[:, i])
            ordered, fraction = ordered[ordered > 0], (np.arange(len(ordered)) + 1)[ordered > 0] / len(ordered)
            label = rf"$\Delta_{{1,{j}}}$"
            axes.plot(ordered, 100 * fraction, color=PALETTE[i % len(PALETTE)], linewidth=1.4, label=label)
            if situation in exact:
                at, cdf = exact[situation]
                axes.plot(at, 100 * cdf[j], color=INK, linestyle="--", linewidth=0.6)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(0.01, 110)
        axes.set_xlim(left=np.quantile(gaps[:, 0][gaps[:, 0] > 0], 1e-4))
        axes.set_title(situation, fontsize=9, color=INK)
        axes.set_xlabel("gap")
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("examples below, %")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
