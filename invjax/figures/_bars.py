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


def bar_panels(
    values: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    ylabel: str,
    title: str,
    reference: tuple[float, str] | None = None,
) -> Any:
    """Panels of grouped bars on one scale: a bar shows a mean, and its dots show the values.

    Args:
        values: `{panel: {group: {bar: values}}}`, with the same groups and bars in each panel.
        ylabel: label of the y axis, with the unit.
        title: title of the figure.
        reference: height and name of a dashed line across all panels.
    """
    figure = blank(2.9 * len(values) + 0.8, 3.4)
    panels = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axes, (panel, groups) in zip(panels, values.items(), strict=True):
        for j, bars in enumerate(groups.values()):
            width = 0.8 / len(bars)
            for i, (name, seen) in enumerate(bars.items()):
                x = j + (i - (len(bars) - 1) / 2) * width
                axes.bar(x, np.mean(seen), 0.9 * width, color=PALETTE[i % len(PALETTE)], label=None if j else name)
                axes.plot([x] * len(seen), seen, "o", color=INK, markersize=3)
                axes.annotate(
                    f"{np.mean(seen):.3g}",
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
