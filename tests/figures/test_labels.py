"""Labels in charts: none lies on a line or on another label."""

import itertools

import numpy as np
import pytest

from invjax import figures


def boxes(figure, texts):
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in texts]


@pytest.mark.parametrize("value", [2.19, 2.25, 2.3])
def test_the_number_of_a_bar_that_nearly_reaches_the_reference_stands_above_it(value):
    bars = {"panel": {"CE": {"z_s": [value]}, "iCE": {"z_s": [1.5]}}}
    figure = figures.bar_panels(bars, "nats", "Information", (float(np.log(10)), "H(y)"))
    axes = figure.axes[0]
    close, low = (text for text in axes.texts if text.get_text() != " H(y)")
    above, below = boxes(figure, [close, low])  # the layout is made when the figure is drawn
    line = axes.transData.transform((0, np.log(10)))[1]
    assert above.y0 > line > below.y1


def test_the_names_of_near_points_between_arrows_do_not_overlap():
    angles = np.linspace(0, 2 * np.pi, 91)
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    grid = np.linspace(-11.5, 11.5, 47)
    points = {"x2": np.array([1.0, 0.0])}
    for name, angle in {"metamer of x2": 70, "x*": 100, "x1": 110}.items():
        points[name] = 10 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    regions = (np.abs(grid)[None] > 4).astype(int) * np.ones((47, 1), int)
    arrows = {"small": ("x1", "x*"), "large": ("x2", "x*")}
    truth = {"inner": circle, "outer": 10 * circle}
    figure = figures.decision_arrows((grid, grid), {"net": regions}, truth, {"net": points}, {"net": arrows}, "Spheres")
    names = [text for text in figure.axes[0].texts if text.get_text() in points]
    assert len(names) == 4
    shown = boxes(figure, names)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(shown, 2))
    known = [text.get_text() for text in figure.legends[0].get_texts()]
    assert known[-3:] == ["boundary of the decisions", "small", "large"]


def test_the_ticks_of_a_pareto_chart_do_not_overlap_and_targets_have_their_names():
    points = {"a run": ((0.6, 0.04), (57.5, 1.0)), "another": ((5.0, 0.3), (2.0, 0.1))}
    figure = figures.pareto(points, {"published": (0.39, 0.34)}, 90.0, "logits", "heads", "Front")
    axes = figure.axes[0]
    ticks = [label for label in axes.get_xticklabels() if label.get_text()]
    shown = boxes(figure, ticks)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(shown, 2))
    assert "published" in [text.get_text() for text in axes.texts]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a run", "another"]
