"""Charts of robust accuracy and adversarial error against the radius of the attack."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank


def robustness_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str,
    xlabel: str = "radius eps",
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Any:
    """Robust accuracy against the radius, with one line for each model or attack.

    Args:
        curves: `{name: (radii [E], accuracy [E] in [0, 1])}`.
        title: title of the figure.
        xlabel: label of the x axis.
        bands: `{name: (low [E], high [E])}`, confidence intervals of the accuracies.
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
    """The fraction of images that withstand each radius, with one panel for each threat.

    Args:
        smallest: `{model: {threat: smallest eps of each image [N]}}`; infinity where the attack found no
            adversarial example.
        epsilons: the radius of each threat, drawn as a dashed line; a panel ends at twice the radius.
        title: title of the figure.
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
    """The adversarial error at each eps on logarithmic axes, with fitted power laws as dashed lines.

    Each model has a panel. A law is `error = coefficient * eps^exponent`.

    Args:
        panels: `{model: {attack: radii [N]}}`, the smallest eps at which the attack fools each example, or infinity.
        laws: `{model: {attack: (coefficient, exponent)}}`.
        title: title of the figure.
    """
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = blank(max(2.5 * columns + 0.4, 5.4), 2.3 * lines + 0.7)  # room for the title and the legend
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes, (model, by_attack) in zip(grid, panels.items(), strict=False):
        for i, (attack, radii) in enumerate(by_attack.items()):
            color = PALETTE[i % len(PALETTE)]
            finite = np.sort(radii[np.isfinite(radii)])
            fraction = np.arange(1, len(finite) + 1) / len(radii)
            axes.plot(finite, 100 * fraction, color=color, linewidth=1.4, label=attack)
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
