"""Charts of how sensitive a model is: radii, power laws, linear response, logit gaps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank


def robustness_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str,
    xlabel: str = "radius eps",
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Any:
    """Robust accuracy against the radius, one line a model or an attack.

    Args:
        curves: `{name: (radii [E], accuracy [E] in [0, 1])}`.
        title: above the figure.
        xlabel: what the radius is.
        bands: `{name: (low [E], high [E])}`, intervals of the accuracies.
    """
    figure = blank(5.6, 3.6)
    axes = figure.subplots()
    for i, (name, (radii, accuracy)) in enumerate(curves.items()):
        color, style = PALETTE[i % len(PALETTE)], ("-", "--", ":")[i // len(PALETTE) % 3]
        axes.step(radii, 100 * np.asarray(accuracy), style, where="post", color=color, label=name, linewidth=1.4)
        if bands is not None and name in bands:
            low, high = bands[name]
            axes.fill_between(radii, 100 * low, 100 * high, step="post", color=color, alpha=0.15, linewidth=0)
    axes.set_ylim(0, 102)
    axes.set_xlim(left=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("robust accuracy, %")
    axes.grid(color=GRID, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(title, fontsize=10, color=INK)
    return figure


def sensitivity(smallest: Mapping[str, Mapping[str, np.ndarray]], epsilons: Mapping[str, float], title: str) -> Any:
    """One panel a threat: the share of images that withstand each radius, from the nearest adversarial examples found.

    Args:
        smallest: `{model: {threat: smallest eps of each image [N]}}`; infinity where none was found.
        epsilons: the radius of each threat, a dashed line; a panel ends at twice that.
        title: above the figure.
    """
    threats = list(epsilons)
    figure = blank(2.9 * len(threats) + 0.4, 3.3)
    panels = figure.subplots(1, len(threats), squeeze=False, sharey=True)[0]
    for axes, threat in zip(panels, threats, strict=True):
        radii = np.linspace(0, 2 * epsilons[threat], 201)
        for i, (model, by_threat) in enumerate(smallest.items()):
            standing = 100 * (by_threat[threat][None] > radii[:, None]).mean(1)
            axes.plot(radii, standing, color=PALETTE[i % len(PALETTE)], label=model, linewidth=1.4)
        axes.axvline(epsilons[threat], color=INK, linestyle="--", linewidth=0.8)
        axes.set_title(threat, fontsize=9, color=INK)
        axes.set_xlabel("radius eps")
        axes.set_xlim(0, 2 * epsilons[threat])
        axes.set_ylim(0, 102)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("images that withstand it, %")
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def power_laws(
    panels: Mapping[str, Mapping[str, np.ndarray]], laws: Mapping[str, Mapping[str, tuple[float, float]]], title: str
) -> Any:
    """The share of examples below each eps, both axes logarithmic, one panel a model; dashed, the fitted laws.

    Args:
        panels: `{model: {attack: radii [N]}}`, the smallest eps of each example, infinite where there is none.
        laws: `{model: {attack: (coefficient, exponent)}}`.
        title: above the figure.
    """
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = blank(max(2.5 * columns + 0.4, 5.4), 2.3 * lines + 0.7)  # the title and the legend need some room
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes, (model, by_attack) in zip(grid, panels.items(), strict=False):
        for i, (attack, radii) in enumerate(by_attack.items()):
            color = PALETTE[i % len(PALETTE)]
            finite = np.sort(radii[np.isfinite(radii)])
            share = np.arange(1, len(finite) + 1) / len(radii)
            axes.plot(finite, 100 * share, color=color, linewidth=1.4, label=attack)
            coefficient, exponent = laws[model][attack]
            ends = np.array([finite[0], (0.2 / coefficient) ** (1 / exponent)])
            axes.plot(ends, 100 * coefficient * ends**exponent, color=INK, linestyle="--", linewidth=0.6)
            axes.annotate(
                f"B = {exponent:.2f}",
                (0.97, 0.04 + 0.1 * (len(by_attack) - 1 - i)),
                xycoords="axes fraction",
                color=color,
                fontsize=7,
                ha="right",
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(0.03, 110)
        axes.set_title(model, fontsize=9, color=INK)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for row in range(lines):
        grid[row * columns].set_ylabel("adversarial error, %")
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("eps")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def logits_along(
    eps: np.ndarray, logits: np.ndarray, linear: np.ndarray, crossing: np.ndarray, labels: np.ndarray, title: str
) -> Any:
    """Logits of images along a direction each, and their linear response, dotted; a dot where the prediction flips.

    Args:
        eps: `[C, P]`, positions.
        logits: `[C, P, K]`, true.
        linear: `[C, P, K]`, predicted.
        crossing: `[C]`, where another class takes over.
        labels: `[C]`, drawn in ink; the class that takes over in colour, the others in grey.
        title: above the figure.
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
    """Predicted against true values, one panel a prediction, and the cumulative distributions of all; logarithmic.

    Args:
        true: `[N]`, positive, infinite where there is none.
        predicted: `{prediction: values [N]}`.
        window: the range over which distributions are compared, shaded.
        xlabel: what the values are.
        title: above the figure.
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
    """Cumulative distributions of the gaps to the j-th largest logit, both axes logarithmic, one panel a situation.

    Args:
        panels: `{situation: gaps [N, len(ranks)]}`.
        ranks: the j of each column.
        exact: `{situation: (gaps [P], {j: cdf [P]})}`, dashed, where a law is known.
        title: above the figure.
    """
    figure = blank(2.5 * len(panels) + 0.4, 3.1)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (situation, gaps) in zip(grid, panels.items(), strict=True):
        for i, j in enumerate(ranks):
            ordered = np.sort(gaps[:, i])
            ordered, share = ordered[ordered > 0], (np.arange(len(ordered)) + 1)[ordered > 0] / len(ordered)
            label = rf"$\Delta_{{1,{j}}}$"
            axes.plot(ordered, 100 * share, color=PALETTE[i % len(PALETTE)], linewidth=1.4, label=label)
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
