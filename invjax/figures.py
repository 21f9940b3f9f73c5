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
    axes.set_ylabel(ylabel)
    axes.set_ylim(0, 105 * max(chance, highest))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 0.9))
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


def image_grid(rows: Mapping[str, np.ndarray], title: str, side: float = 0.8) -> Any:
    """Images in rows that have a name.

    Args:
        rows: `{name: [n, H, W, C]}`, of one n; clipped to [0, 1] for display.
        title: above the figure.
        side: of an image, in inches.
    """
    columns = len(next(iter(rows.values())))
    figure = _figure(side * columns + 0.6, (side + 0.05) * len(rows) + 0.4)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            _show(axes, image)
        line[0].set_ylabel(name, fontsize=8, color=INK)
    figure.suptitle(title, fontsize=10, color=INK)
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
    figure = _figure(2.9 * len(values) + 0.8, 3.4)
    panels = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axes, (panel, groups) in zip(panels, values.items(), strict=True):
        for j, bars in enumerate(groups.values()):
            width = 0.8 / len(bars)
            for i, (name, seen) in enumerate(bars.items()):
                x = j + (i - (len(bars) - 1) / 2) * width
                axes.bar(x, np.mean(seen), 0.9 * width, color=PALETTE[i % len(PALETTE)], label=None if j else name)
                axes.plot([x] * len(seen), seen, "o", color=INK, markersize=3)
                axes.annotate(
                    f"{np.mean(seen):.2f}",
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
    figure = _figure(3.2 * len(panels) + 0.6, 3.4)
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


def decision_slices(
    axes: Sequence[tuple[np.ndarray, np.ndarray]],
    labels: Mapping[str, Sequence[np.ndarray]],
    points: Sequence[Mapping[str, np.ndarray]],
    images: Sequence[Mapping[str, np.ndarray]],
    title: str,
) -> Any:
    """Decision regions on planes: one column a plane, under its images; one row a classifier, one colour a class.

    Args:
        axes: of each plane, its two coordinates, `([R], [R])`.
        labels: `{classifier: [R, R] of each plane}`; row i is at the i-th second coordinate.
        points: of each plane, what is marked on it: `{name: coordinates [2]}`.
        images: of each plane, what stands above it: `{caption: [H, W, C]}`.
        title: above the figure.
    """
    figure = _figure(2.5 * len(axes) + 0.5, 2.5 * len(labels) + 1.8)
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    colors = 0.45 + 0.55 * colormaps["tab10"](range(10))[:, :3]  # ten, then again from the first
    figure.get_layout_engine().set(wspace=0.04)  # so that the images of one plane stand apart from the next plane's
    grid = figure.add_gridspec(1 + len(labels), len(axes), height_ratios=[0.36, *[1] * len(labels)])
    for column, shown in enumerate(images):
        strip = grid[0, column].subgridspec(1, len(shown)).subplots(squeeze=False)[0]
        for panel, (caption, image) in zip(strip, shown.items(), strict=True):
            _show(panel, image)
            panel.set_title(caption, fontsize=7, color=INK, pad=3)
    for row, (classifier, regions) in enumerate(labels.items(), start=1):
        for column, ((first, second), region) in enumerate(zip(axes, regions, strict=True)):
            panel = figure.add_subplot(grid[row, column])
            # a cell is centred on its point
            half = np.repeat([first[1] - first[0], second[1] - second[0]], 2) * [-0.5, 0.5, -0.5, 0.5]
            extent = np.array([first[0], first[-1], second[0], second[-1]]) + half
            panel.imshow(colors[region % len(colors)], origin="lower", extent=tuple(extent), interpolation="nearest")
            middle = np.mean(list(points[column].values()) or [np.zeros(2)], axis=0)
            for name, where in points[column].items():
                panel.plot(*where, "o", color=INK, markersize=3.5)
                away = (where - middle) / max(np.linalg.norm(where - middle), 1e-12)
                panel.annotate(
                    name, where, 10 * away, textcoords="offset points", fontsize=9, ha="center", va="center", color=INK
                )
            panel.set_xticks([])
            panel.set_yticks([])
            if column == 0:
                panel.set_ylabel(classifier, fontsize=9, color=INK)
    seen = sorted({int(k) for regions in labels.values() for region in regions for k in np.unique(region)})
    patches = [Patch(color=colors[k % len(colors)], label=str(k)) for k in seen]
    figure.legend(handles=patches, loc="outside lower center", ncols=10, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def decision_arrows(
    axes: tuple[np.ndarray, np.ndarray],
    labels: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    points: Mapping[str, Mapping[str, np.ndarray]],
    arrows: Mapping[str, Mapping[str, tuple[str, str]]],
    title: str,
) -> Any:
    """Ways between points of a plane: tints are what a classifier decides, lines where the classes really are.

    Args:
        axes: the two coordinates, `([R], [R])`.
        labels: `{classifier: [R, R]}`, a panel each; row i is at the i-th second coordinate.
        truth: `{class: curve [P, 2]}`, in the order of the labels.
        points: `{classifier: {name: coordinates [2]}}`, marked.
        arrows: `{classifier: {what it is: (name of a point, name of another)}}`, the same in each panel.
        title: above the figure.
    """
    figure = _figure(3.9 * len(labels) + 0.4, 5.0)
    from matplotlib.colors import to_rgb
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    strong = np.array([to_rgb(color) for color in PALETTE[: len(truth)]])
    names = dict.fromkeys(name for by_name in arrows.values() for name in by_name)
    colors = dict(zip(names, PALETTE[::-1], strict=False))
    panels = figure.subplots(1, len(labels), squeeze=False)[0]
    for panel, (classifier, regions) in zip(panels, labels.items(), strict=True):
        (first, second), marked = axes, points[classifier]
        # a cell is centred on its point
        extent = [end for axis in axes for end in (1.5 * axis[0] - 0.5 * axis[1], 1.5 * axis[-1] - 0.5 * axis[-2])]
        panel.imshow((0.72 + 0.28 * strong)[regions], origin="lower", extent=extent, aspect="equal")
        if regions.min() < regions.max():
            panel.contour(first, second, regions, np.arange(len(truth) - 1) + 0.5, colors=INK, linestyles="--",
                          linewidths=0.8)  # fmt: skip
        for color, curve in zip(PALETTE, truth.values(), strict=False):
            panel.plot(*curve.T, color=color, linewidth=1.6)
        for name, (start, end) in arrows[classifier].items():
            style = {"arrowstyle": "-|>", "color": colors[name], "linewidth": 1.8, "shrinkA": 2, "shrinkB": 2}
            panel.annotate("", marked[end], marked[start], arrowprops=style)
        middle = np.mean([where[0] for where in marked.values()])
        for name, where in marked.items():
            panel.plot(*where, "o", color=INK, markersize=4)
            side, align = (-4, "right") if where[0] < middle else (4, "left")  # names grow away from each other
            panel.annotate(name, where, (side, 5), textcoords="offset points", fontsize=8, color=INK, ha=align)
        panel.set_title(classifier, fontsize=9, color=INK)
        panel.set_xticks([])
        panel.set_yticks([])
    patches = [Patch(color=tuple(0.72 + 0.28 * color), label=f"decision {name}")
               for name, color in zip(truth, strong, strict=True)]  # fmt: skip
    lines = [Line2D([], [], color=color, label=f"class {name}") for name, color in zip(truth, strong, strict=True)]
    ways = [Line2D([], [], color=color, label=name, marker=">", markersize=5) for name, color in colors.items()]
    figure.legend(handles=[*lines, *patches, *ways], loc="outside lower center", ncols=2, frameon=False, fontsize=8)
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
    figure = _figure(6.4, 3.8 + 0.16 * len(points))
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
    figure = _figure(2.5 * columns + 0.4, 2.3 * lines + 0.7)
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
    figure = _figure(2.6 * len(eps) + 0.4, 2.9)
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
    figure = _figure(3 * (len(predicted) + 1) + 0.4, 3.2)
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
    figure = _figure(2.5 * len(panels) + 0.4, 3.1)
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
    figure = _figure(5.6, 1.5 * len(values) + 0.8)
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
    figure = _figure(3.3 * len(panels) + 0.5, 3.5)
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


def plane_panels(
    points: Mapping[str, Mapping[str, np.ndarray]],
    curves: Mapping[str, Mapping[str, np.ndarray]],
    arrows: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    limits: Sequence[Sequence[float | int]],
    labels: tuple[str, str],
    title: str,
    columns: int = 2,
) -> Any:
    """Panels of one plane: points, curves over them, and arrows; what has one name has one style in all panels.

    Args:
        points: `{panel: {group: [N, 2]}}`, one colour a group.
        curves: `{panel: {name: [P, 2]}}`, in ink.
        arrows: `{panel: {name: (from [2], to [2])}}`, one colour a name.
        limits: of the two axes, units as long on both.
        labels: of the two axes.
        title: above the figure.
        columns: panels side by side.
    """
    from itertools import chain, cycle

    rows = -(-len(points) // columns)
    (left, right), (bottom, top) = limits
    width = 4.0
    figure = _figure(width * columns + 0.4, rows * (width * (top - bottom) / (right - left) + 0.45) + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    from matplotlib.lines import Line2D

    def names(parts):
        return dict.fromkeys(chain.from_iterable(parts.values()))

    colors = dict(zip([*names(points), *names(arrows)], cycle(PALETTE), strict=False))
    dashes = dict(zip(names(curves), cycle(("-", "--", ":", "-.")), strict=False))
    for axes in grid.ravel()[len(points) :]:
        axes.set_visible(False)
    for axes, (panel, groups) in zip(grid.ravel(), points.items(), strict=False):
        for group, at in groups.items():
            axes.plot(*at.T, ".", markersize=4, markeredgewidth=0, color=colors[group], alpha=0.55, rasterized=True)
        for name, curve in curves.get(panel, {}).items():
            axes.plot(*curve.T, color=INK, linestyle=dashes[name], linewidth=1.2)
        for name, (start, end) in arrows.get(panel, {}).items():
            style = {"arrowstyle": "-|>", "color": colors[name], "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", end, start, arrowprops=style, zorder=5)
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        axes.set_aspect("equal")
        axes.set_title(panel, fontsize=9, color=INK)
        axes.grid(color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
    for axes in grid[-1]:
        axes.set_xlabel(labels[0])
    for axes in grid[:, 0]:
        axes.set_ylabel(labels[1])
    handles = [
        *(Line2D([], [], color=colors[name], marker="o", markersize=4, linestyle="", label=name)
          for name in names(points)),
        *(Line2D([], [], color=INK, linestyle=dashes[name], linewidth=1.2, label=name) for name in names(curves)),
        *(Line2D([], [], color=colors[name], linewidth=2.2, marker=">", markersize=5, label=name)
          for name in names(arrows)),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
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
    figure = _figure(3.6 * len(panels) + 0.3, 3.3)
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
