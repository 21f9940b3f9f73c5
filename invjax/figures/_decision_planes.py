"""Decision regions on planes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invjax.figures._canvas import INK, PALETTE, blank, show_image


def decision_slices(
    axes: Sequence[tuple[np.ndarray, np.ndarray]],
    labels: Mapping[str, Sequence[np.ndarray]],
    points: Sequence[Mapping[str, np.ndarray]],
    images: Sequence[Mapping[str, np.ndarray]],
    title: str,
) -> Any:
    """Decision regions on planes: one column for each plane, one row for each classifier, one color for each class.

    Args:
        axes: for each plane, its two coordinates, `([R], [R])`.
        labels: `{classifier: [R, R] of each plane}`; row i is at the i-th second coordinate.
        points: for each plane, the marked points `{name: coordinates [2]}`.
        images: for each plane, the images above it, `{caption: [H, W, C]}`.
        title: title of the figure.
    """
    figure = blank(2.5 * len(axes) + 0.5, 2.5 * len(labels) + 1.8)
    from matplotlib import colormaps
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke

    colors = 0.45 + 0.55 * colormaps["tab10"](range(10))[:, :3]  # ten colors, which repeat for further classes
    figure.get_layout_engine().set(wspace=0.04)  # a gap between the images of neighbouring planes
    grid = figure.add_gridspec(1 + len(labels), len(axes), height_ratios=[0.36, *[1] * len(labels)])
    for column, shown in enumerate(images):
        strip = grid[0, column].subgridspec(1, len(shown) + 2, width_ratios=[0.5, *[1] * len(shown), 0.5])
        for position, (caption, image) in enumerate(shown.items(), start=1):  # empty cells keep the planes apart
            panel = figure.add_subplot(strip[0, position])
            show_image(panel, image)
            panel.set_title(caption, fontsize=8, color=INK, pad=3)
    for row, (classifier, regions) in enumerate(labels.items(), start=1):
        for column, ((first, second), region) in enumerate(zip(axes, regions, strict=True)):
            panel = figure.add_subplot(grid[row, column])
            # a cell is centered on its point
            half = np.repeat([first[1] - first[0], second[1] - second[0]], 2) * [-0.5, 0.5, -0.5, 0.5]
            extent = np.array([first[0], first[-1], second[0], second[-1]]) + half
            panel.imshow(colors[region % len(colors)], origin="lower", extent=tuple(extent), interpolation="nearest")
            middle = np.mean(list(points[column].values()) or [np.zeros(2)], axis=0)
            for name, where in points[column].items():
                panel.plot(*where, "o", color=INK, markersize=3.5)
                away = (where - middle) / max(np.linalg.norm(where - middle), 1e-12)
                text = panel.annotate(
                    name, where, 10 * away, textcoords="offset points", fontsize=10, ha="center", va="center", color=INK
                )
                text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
            panel.set_xticks([])
            panel.set_yticks([])
            if column == 0:
                panel.set_ylabel(classifier, fontsize=9, color=INK)
    seen = sorted({int(k) for regions in labels.values() for region in regions for k in np.unique(region)})
    patches = [Patch(color=colors[k % len(colors)], label=str(k)) for k in seen]
    figure.legend(handles=patches, title="decision", loc="outside lower center", ncols=10, frameon=False, fontsize=9,
                  handlelength=1.2, handletextpad=0.5, columnspacing=1.0)  # fmt: skip
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
    """Arrows between points of a plane, over the decisions of a classifier (tints) and the true classes (lines).

    Args:
        axes: the two coordinates, `([R], [R])`.
        labels: `{classifier: [R, R]}`, one panel for each; row i is at the i-th second coordinate.
        truth: `{class: curve [P, 2]}`, in the order of the labels.
        points: `{classifier: {name: coordinates [2]}}`, the marked points.
        arrows: `{classifier: {name of the arrow: (name of its start, name of its end)}}`, the same names in each panel.
        title: title of the figure.
    """
    figure = blank(3.9 * len(labels) + 0.4, 5.15)
    from matplotlib.colors import to_rgb
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke

    strong = np.array([to_rgb(color) for color in PALETTE[: len(truth)]])
    names = dict.fromkeys(name for by_name in arrows.values() for name in by_name)
    colors = dict(zip(names, PALETTE[::-1], strict=False))
    panels = figure.subplots(1, len(labels), squeeze=False)[0]
    for panel, (classifier, regions) in zip(panels, labels.items(), strict=True):
        (first, second), marked = axes, points[classifier]
        # a cell is centered on its point
        extent = [end for axis in axes for end in (1.5 * axis[0] - 0.5 * axis[1], 1.5 * axis[-1] - 0.5 * axis[-2])]
        panel.imshow((0.72 + 0.28 * strong)[regions], origin="lower", extent=extent, aspect="equal")
        if regions.min() < regions.max():
            levels = np.arange(len(truth) - 1) + 0.5
            panel.contour(first, second, regions, levels, colors=INK, linestyles="--", linewidths=0.8)
        for color, curve in zip(PALETTE, truth.values(), strict=False):
            panel.plot(*curve.T, color=color, linewidth=1.6)
        for name, (start, end) in arrows[classifier].items():
            style = {"arrowstyle": "-|>", "color": colors[name], "linewidth": 1.8, "shrinkA": 2, "shrinkB": 2}
            panel.annotate("", marked[end], marked[start], arrowprops=style)
        center = np.mean([curve.mean(0) for curve in truth.values()], axis=0)
        for name, where in marked.items():
            panel.plot(*where, "o", color=INK, markersize=4)
            # names extend outwards, and away from the nearest other point
            others = [where - other for key, other in marked.items() if key != name]
            ways = [where - center, *sorted(others, key=np.linalg.norm)[:1]]
            x, y = np.sum([way / max(np.linalg.norm(way), 1e-12) for way in ways], axis=0)
            label = panel.annotate(name, where, (np.copysign(4, x), np.copysign(4, y)), textcoords="offset points",
                                   fontsize=8, color=INK, ha="left" if x > 0 else "right",
                                   va="bottom" if y > 0 else "top")  # fmt: skip
            label.set_in_layout(False)
            label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        panel.set_title(classifier, fontsize=9, color=INK)
        panel.set_xticks([])
        panel.set_yticks([])
    patches = [
        Patch(color=tuple(0.72 + 0.28 * color), label=f"decision {name}")
        for name, color in zip(truth, strong, strict=True)
    ]
    lines = [Line2D([], [], color=color, label=f"class {name}") for name, color in zip(truth, strong, strict=True)]
    ways = [Line2D([], [], color=color, label=name, marker=">", markersize=5) for name, color in colors.items()]
    boundary = Line2D([], [], color=INK, linestyle="--", linewidth=0.8, label="boundary of the decisions")
    figure.legend(
        handles=[*lines, *patches, boundary, *ways], loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    figure.suptitle(title, fontsize=10, color=INK)
    return figure
