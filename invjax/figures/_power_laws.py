"""Charts of adversarial error and its power law."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, panel_grid


def power_laws(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    laws: Mapping[str, Mapping[str, tuple[float, float]]],
    title: str,
    xlabel: str = "eps",
    fitted: float | None = None,
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> Any:
    """The adversarial error at each eps on logarithmic axes, with fitted power laws as dashed lines.

    Each model has a panel, and all panels have the same axes. The first line is the widest and the last one the
    thinnest, so that lines at the same place are all visible. A law is `error = coefficient * eps^exponent`.

    Args:
        panels: `{model: {attack: radii [N]}}`, the smallest eps at which the attack fools each example, or infinity.
        laws: `{model: {attack: (coefficient, exponent)}}`; an attack without a law has a curve only.
        title: title of the figure.
        xlabel: label of the x axis.
        fitted: the largest error to which the laws were fitted; smaller errors are shaded.
        published: `{model: {attack: exponent}}`, written beside the fitted exponents.
    """
    figure, grid, legend = panel_grid(len(panels), (3.0, 2.7), xlabel, "adversarial error, %", share_x=True)
    top = 0.2 if fitted is None else min(3 * fitted, 1)  # the largest error to which a law is drawn
    for axes, (model, by_attack) in zip(grid, panels.items(), strict=True):
        widths = np.linspace(2.6, 1.2, len(by_attack))
        for i, (attack, radii) in enumerate(by_attack.items()):
            finite = np.sort(radii[np.isfinite(radii)])
            fraction = np.arange(1, len(finite) + 1) / len(radii)
            label = f"{attack}: no fit"
            if attack in laws[model]:
                coefficient, exponent = laws[model][attack]
                label = f"{attack}: B = {exponent:.2f}"
                ends = np.array([finite[0], (min(top, fraction[-1]) / coefficient) ** (1 / exponent)])
                axes.plot(ends, 100 * coefficient * ends**exponent, color=INK, linestyle="--", linewidth=0.6, zorder=3)
            if published and attack in published.get(model, {}):
                label += f" (published {published[model][attack]:g})"
            axes.plot(finite, 100 * fraction, color=PALETTE[i % len(PALETTE)], linewidth=widths[i], label=label)
        if fitted is not None:
            axes.axhspan(1e-9, 100 * fitted, color=GRID, alpha=0.5, linewidth=0, zorder=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(0.03, 2000)  # room for the legend above the curves
        axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.set_yticks([], minor=True)
        axes.set_title(model, fontsize=9, color=INK)
        axes.legend(frameon=False, fontsize=8, loc="upper left", handlelength=1.2, labelspacing=0.2, borderaxespad=0.2)
    law = grid[0].plot([], [], color=INK, linestyle="--", linewidth=0.6)
    marks = {"fitted law, error = A eps$^B$": law[0]}
    if fitted is not None:
        marks[f"errors of the fit, up to {100 * fitted:g} %"] = grid[0].fill_between([], [], color=GRID, alpha=0.5)
    legend(list(marks.values()), list(marks))
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
