"""Bar charts of errors and other numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invjax.figures._canvas import INK, PALETTE, blank


def readings(
    errors: Mapping[str, Mapping[str, Sequence[float]]],
    chance: float,
    title: str,
    ylabel: str = "test error of a fresh classifier, %",
) -> Any:
    """Errors of fresh classifiers, with a group of bars for each classifier, a bar for each model, a dot for each seed.

    Args:
        errors: `{model: {classifier: error of each seed}}`, in [0, 1].
        chance: the error of guessing, drawn as a dashed line.
        title: title of the figure.
        ylabel: label of the y axis.
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
            _number(axes, x, 100 * np.max(values), f"{100 * np.mean(values):.1f}")
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
    values: Mapping[str, Mapping[str, Mapping[str, Sequence[float] | np.ndarray]]],
    ylabel: str,
    title: str,
    reference: tuple[float, str] | None = None,
    published: Mapping[str, Mapping[str, Mapping[str, float | None]]] | None = None,
) -> Any:
    """Panels of grouped bars on one scale: a bar shows a mean, and its dots show the values if there are several.

    Args:
        values: `{panel: {group: {bar: values}}}`; all bars have the same width. A single name of bars has no legend.
        ylabel: label of the y axis, with the unit.
        title: title of the figure.
        reference: height and name of a dashed line across all panels.
        published: `{panel: {group: {bar: number}}}`, published numbers, drawn as hollow stars; any may be missing.
    """
    published = {} if published is None else published
    most = max(sum(map(len, groups.values())) for groups in values.values())
    inches = max(2.9, 0.31 * most) * len(values) + 0.8  # at least as wide as the numbers on the bars
    figure = blank(inches, 3.4)
    panels = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    names = list(dict.fromkeys(name for groups in values.values() for bars in groups.values() for name in bars))
    width = 0.8 / max(len(bars) for groups in values.values() for bars in groups.values())
    heights = [0.0] if reference is None else [reference[0]]
    labels = []
    for axes, (panel, groups) in zip(panels, values.items(), strict=True):
        for j, (group, bars) in enumerate(groups.items()):
            for i, (name, seen) in enumerate(bars.items()):
                x = j + (i - (len(bars) - 1) / 2) * width
                number = published.get(panel, {}).get(group, {}).get(name)
                labels.append(_bar(axes, x, width, seen, PALETTE[names.index(name) % len(PALETTE)], name, number))
                heights += [*seen, *([] if number is None else [number])]
        if reference is not None:
            axes.axhline(reference[0], color=INK, linestyle="--", linewidth=0.8)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.tick_params(axis="x", length=0)
        axes.set_title(panel, fontsize=9, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    if reference is not None:
        name_at = (1, reference[0]), ("axes fraction", "data")
        panels[-1].annotate(f" {reference[1]}", name_at[0], xycoords=name_at[1], fontsize=7, ha="left", va="center")
    panels[0].set_ylim(0, 1.1 * max(heights) or 1)
    for label in labels:
        if reference is not None and 0 < reference[0] - label.xy[1] < 0.08 * max(heights):
            label.xy = label.xy[0], reference[0]  # above the line, not on it
    panels[0].set_ylabel(ylabel)
    marks = {name: mark for axes in panels for mark, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if len(marks) > 1 or "published" in marks:
        columns = 4 if sum(0.5 + 0.07 * len(name) for name in marks) < inches else 2
        figure.legend(
            list(marks.values()), list(marks), loc="outside lower center", ncols=columns, frameon=False, fontsize=8
        )
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def _bar(axes, x, width, seen, color, name, published):
    """Draw a bar with its dots and the published number as a star; return its number, of at most two decimals."""
    axes.bar(x, np.mean(seen), 0.9 * width, color=color, label=name)
    if len(seen) > 1:
        axes.plot([x] * len(seen), seen, "o", color=INK, markersize=3)
    if published is not None:
        star = {"markerfacecolor": "white", "markeredgecolor": INK, "markersize": 8, "linestyle": "", "clip_on": False}
        axes.plot(x - 0.25 * width, published, "*", label="published", **star)
    white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    return _number(axes, x, np.max(seen), f"{round(float(np.mean(seen)), 2):.3g}", bbox=white)


def _number(axes, x, height, text, **more):
    """Write a number above a bar."""
    return axes.annotate(text, (x, height), fontsize=7, ha="center", va="bottom", xytext=(0, 3),
                         textcoords="offset points", color=INK, **more)  # fmt: skip
