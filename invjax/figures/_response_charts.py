"""Charts of logits: linear response along a direction, and gaps between logits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank, panel_grid


def logits_along(
    eps: np.ndarray,
    logits: np.ndarray,
    linear: np.ndarray,
    crossing: np.ndarray,
    labels: np.ndarray,
    title: str,
    xlabel: str = "eps",
) -> Any:
    """Logits of images along one direction each, with their linear response as dotted lines.

    A dot marks where the prediction changes. The title of a panel says from which class to which.

    Args:
        eps: `[C, P]`, positions along the direction.
        logits: `[C, P, K]`, the true logits.
        linear: `[C, P, K]`, the logits that the linear response predicts.
        crossing: `[C]`, the position where the prediction changes.
        labels: `[C]`, the classes drawn in black. The class that is predicted next is in color, the others are gray.
        title: title of the figure.
        xlabel: label of the x axes.
    """
    figure = blank(2.4 * len(eps) + 0.5, 3.4)
    grid = figure.subplots(1, len(eps), squeeze=False)[0]
    for axes, e, true, predicted, at, label in zip(grid, eps, logits, linear, crossing, labels, strict=True):
        here = np.array([np.interp(at, e, line) for line in true.T])
        winner = int(np.argmax(np.where(np.arange(len(here)) == label, -np.inf, here)))
        roles = {int(label): (INK, "label"), winner: (PALETTE[1], "class that is predicted next")}
        for k in range(true.shape[1]):
            color, role = roles.get(k, (GRID, "other classes"))
            front = 3 if k in roles else 1
            axes.plot(e, true[:, k], color=color, linewidth=1.3, zorder=front, label=role)
            if k in roles:
                axes.plot(e, predicted[:, k], color=color, linestyle=":", linewidth=1.1, zorder=front)
        axes.plot(at, here[label], "o", color=PALETTE[1], markersize=4, zorder=4, label="the prediction changes")
        axes.set_xlim(e[0], e[-1])
        axes.set_xlabel(xlabel)
        axes.set_title(f"from class {label} to class {winner}", fontsize=9, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("logits")
    (dotted,) = grid[0].plot([], [], color=INK, linestyle=":", linewidth=1.1)
    handles, names = grid[0].get_legend_handles_labels()
    by_role = dict(zip(names, handles, strict=True))
    order = ["label", "class that is predicted next", "other classes", "the prediction changes"]
    marks = {name: by_role[name] for name in order if name in by_role} | {"linear response": dotted}
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def predictions(
    true: np.ndarray, predicted: Mapping[str, np.ndarray], window: tuple[float, float], xlabel: str, title: str
) -> Any:
    """Predicted against true values in one panel for each prediction, and all cumulative distributions in a last panel.

    All axes are logarithmic, and those of values have one range. A diagonal shows where a prediction equals the truth.

    Args:
        true: the true values, `[N]`, positive; infinite where an example has none.
        predicted: `{prediction: values [N]}`.
        window: the range over which distributions are compared, which is shaded.
        xlabel: the name of the values.
        title: title of the figure.
    """
    figure = blank(2.9 * (len(predicted) + 1) + 0.4, 3.4)
    *scatters, last = figure.subplots(1, len(predicted) + 1)
    shown = {name: values[np.isfinite(values) & (values > 0)] for name, values in {**predicted, "true": true}.items()}
    every = np.concatenate(list(shown.values()))
    ends = np.array([every.min() / 1.2, every.max() * 1.2])
    for i, (axes, (name, values)) in enumerate(zip(scatters, predicted.items(), strict=True)):
        both = np.isfinite(true) & (true > 0) & np.isfinite(values) & (values > 0)
        axes.plot(true[both], values[both], ".", markersize=1, color=PALETTE[i], alpha=0.4, rasterized=True)
        (diagonal,) = axes.plot(ends, ends, color=INK, linestyle=":", linewidth=0.9)
        axes.set_ylim(ends)
        axes.set_xlabel(f"{xlabel}, true")
        axes.set_ylabel(f"{xlabel}, {name}")
    for i, (name, values) in enumerate(shown.items()):
        style = {"color": INK, "linestyle": "--"} if name == "true" else {"color": PALETTE[i]}
        below = 100 * np.arange(1, len(values) + 1) / len(true)
        last.plot(np.sort(values), below, linewidth=1.4, label=name, **style)
    last.axvspan(*window, color=GRID, alpha=0.5, linewidth=0, label="where distributions are compared")
    last.set_ylim(0.01, 110)
    last.set_xlabel(xlabel)
    last.set_ylabel("examples below, %")
    handles, names = last.get_legend_handles_labels()
    figure.legend([*handles, diagonal], [*names, "prediction = truth"],
                  loc="outside lower center", ncols=len(names) + 1, frameon=False, fontsize=8)  # fmt: skip
    for axes in (*scatters, last):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(ends)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def gap_distributions(
    panels: Mapping[str, np.ndarray],
    ranks: Sequence[int],
    exact: Mapping[str, tuple[np.ndarray, Mapping[int, np.ndarray]]],
    title: str,
    fitted: float | None = None,
) -> Any:
    """Cumulative distributions of the gap to the j-th largest logit on logarithmic axes, one panel for each setting.

    Args:
        panels: `{setting: gaps [N, len(ranks)]}`.
        ranks: the rank j of each column.
        exact: `{setting: (gaps [P], {j: cdf [P]})}`, known distributions, drawn as dashed lines.
        title: title of the figure.
        fitted: the largest fraction of the examples to which a law was fitted; smaller fractions are shaded.
    """
    figure, grid, legend = panel_grid(len(panels), (2.6, 2.6), "gap between logits", "examples below, %")
    marks: dict[str, Any] = {}
    for axes, (situation, gaps) in zip(grid, panels.items(), strict=True):
        for i, j in enumerate(ranks):
            ordered = np.sort(gaps[:, i])
            ordered, fraction = ordered[ordered > 0], (np.arange(len(ordered)) + 1)[ordered > 0] / len(ordered)
            name = rf"$\Delta_{{1,{j}}}$"
            color = PALETTE[i % len(PALETTE)]
            (marks[name],) = axes.plot(ordered, 100 * fraction, color=color, linewidth=1.4, label=name)
            if situation in exact:
                at, cdf = exact[situation]
                (marks["exact law"],) = axes.plot(at, 100 * cdf[j], color=INK, linestyle="--", linewidth=0.6)
        if fitted is not None:
            marks["fractions of the fit"] = axes.axhspan(
                1e-9, 100 * fitted, color=GRID, alpha=0.5, linewidth=0, zorder=0
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(0.01, 110)
        axes.set_xlim(left=np.quantile(gaps[:, 0][gaps[:, 0] > 0], 1e-4))
        axes.set_title(situation, fontsize=9, color=INK)
    legend(list(marks.values()), list(marks))
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
