"""Charts of robust accuracy and adversarial error against the radius of the attack."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.figures._canvas import GRID, INK, PALETTE, blank, panel_grid


def robustness_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str,
    xlabel: str = "radius eps",
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Any:
    """Robust accuracy against the radius, with one line for each model or attack.

    The first line is the widest and the last one the thinnest, so that lines at the same place are all visible.

    Args:
        curves: `{name: (radii [E], accuracy [E] in [0, 1])}`.
        title: title of the figure.
        xlabel: label of the x axis.
        bands: `{name: (low [E], high [E])}`, confidence intervals of the accuracies.
    """
    figure = blank(5.6, 3.6)
    axes = figure.subplots()
    widths = np.linspace(4, 1.4, len(curves)) if len(curves) > 1 else [1.4]
    for i, (name, (radii, accuracy)) in enumerate(curves.items()):
        color, style = PALETTE[i % len(PALETTE)], ("-", "--", ":")[i // len(PALETTE) % 3]
        axes.step(radii, 100 * np.asarray(accuracy), style, where="post", color=color, label=name, linewidth=widths[i])
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
        epsilons: the radius of each threat, such as that of a report; a dashed line, which the title of the panel
            names. A panel ends at twice the radius.
        title: title of the figure.
    """
    figure, panels, legend = panel_grid(len(epsilons), (2.9, 2.6), "radius eps", "images that withstand it, %", most=2)
    for axes, (threat, eps) in zip(panels, epsilons.items(), strict=True):
        radii = np.linspace(0, 2 * eps, 201)
        for i, (model, by_threat) in enumerate(smallest.items()):
            standing = 100 * (by_threat[threat][None] > radii[:, None]).mean(1)
            axes.plot(radii, standing, color=PALETTE[i % len(PALETTE)], label=model, linewidth=1.4)
        axes.axvline(eps, color=INK, linestyle="--", linewidth=0.8)
        axes.set_title(f"{threat}; dashed: eps = {eps:g}", fontsize=9, color=INK)
        if threat == "l0":
            axes.set_xlabel("radius eps: pixels changed")
        axes.set_xlim(0, 2 * eps)
        axes.set_ylim(0, 102)
    legend(*panels[0].get_legend_handles_labels())
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
