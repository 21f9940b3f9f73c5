"""Figures from arrays. The only module that knows matplotlib, which it imports when a figure is drawn.

Each function takes host arrays and returns a `matplotlib.figure.Figure`; `save` writes it whole or not at all.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

INK, GRID, PALETTE = "#1b1f24", "#d8dee4", ("#0b6e99", "#d1653a", "#5b8c3e", "#7b5ea7")


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure  # without pyplot: no global state, no display
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "invjax[experiments]"') from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def save(figure: Any, path: str | Path) -> Path:
    """Write `figure` as a PNG, by way of a temporary name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, format="png")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _show(axes: Any, image: np.ndarray) -> None:
    gray = image.shape[-1] == 1
    axes.imshow(np.clip(image[..., 0] if gray else image, 0, 1), cmap="gray" if gray else None, vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(GRID)


def metamer_grid(
    logits_from: np.ndarray,
    metamers: np.ndarray,
    nuisance_from: np.ndarray,
    logits: np.ndarray,
    metamer_logits: np.ndarray,
    title: str,
) -> Any:
    """Logit metamers as in figure 5 of Jacobsen et al. 2019, with both sets of logits under each column.

    Args:
        logits_from: `[n, H, W, C]`, row 1.
        metamers: `[n, H, W, C]`, row 2; clipped to [0, 1] for display.
        nuisance_from: `[n, H, W, C]`, row 3.
        logits: `[n, K]`, those of row 1.
        metamer_logits: `[n, K]`, those of row 2 after encoding it again.
        title: above the figure.
    """
    n, classes = logits.shape
    figure = _figure(1.25 * n + 1.2, 4.1 + 0.15 * classes)
    grid = figure.subplots(4, n, height_ratios=[1, 1, 1, 0.13 * classes], squeeze=False)
    rows = ("logits from", "metamer", "nuisance from")
    for row, images in enumerate((logits_from, metamers, nuisance_from)):
        for column in range(n):
            _show(grid[row, column], images[column])
        grid[row, 0].set_ylabel(rows[row], fontsize=9, color=INK)
    for column in range(n):
        axes = grid[3, column]
        axes.axis("off")
        top = int(logits[column].argmax())
        for k in range(classes):
            axes.text(
                0.5,
                1 - (k + 0.5) / classes,
                f"{k} {logits[column, k]:7.2f} {metamer_logits[column, k]:7.2f}",
                family="monospace",
                fontsize=6.5,
                ha="center",
                va="center",
                transform=axes.transAxes,
                color=PALETTE[0] if k == top else INK,
                weight="bold" if k == top else "normal",
            )
    grid[3, 0].text(
        -0.25,
        0.5,
        "logits of\nrows 1 and 2",
        fontsize=9,
        color=INK,
        rotation=90,
        ha="center",
        va="center",
        transform=grid[3, 0].transAxes,
    )
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def readings(errors: Mapping[str, Mapping[str, Sequence[float]]], chance: float, title: str) -> Any:
    """What fresh classifiers read: one group of bars a classifier, one bar a model, one dot a seed.

    Args:
        errors: `{model: {classifier: error of each seed}}`, in [0, 1].
        chance: the error of guessing, a dashed line.
        title: above the figure.
    """
    figure = _figure(6.4, 3.4)
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
    axes.set_ylabel("test error of a fresh classifier, %")
    axes.set_ylim(0, 105 * max(chance, highest))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(title, fontsize=10, color=INK)
    return figure


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
    figure = _figure(5.6, 3.6)
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
    figure = _figure(2.9 * len(threats) + 0.4, 3.3)
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


def adversarial_grid(original: np.ndarray, changed: Mapping[str, np.ndarray], captions: Mapping[str, Sequence[str]],
                     title: str) -> Any:  # fmt: skip
    """Images above what attacks made of them: one column an image, one row an attack.

    Args:
        original: `[n, H, W, C]`.
        changed: `{attack: [n, H, W, C]}`.
        captions: `{attack or "original": a few words under each image}`.
        title: above the figure.
    """
    rows = {"original": original, **changed}
    figure = _figure(1.15 * len(original) + 0.6, 1.4 * len(rows) + 0.4)
    grid = figure.subplots(len(rows), len(original), squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image, caption in zip(line, images, captions[name], strict=True):
            _show(axes, image)
            axes.set_xlabel(caption, fontsize=7, color=INK)
        line[0].set_ylabel(name, fontsize=9, color=INK)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
