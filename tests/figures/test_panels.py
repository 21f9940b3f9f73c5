"""Charts of several panels: planes, lines, and dots with intervals."""

import numpy as np
import pytest

from invjax import figures


def test_equal_names_have_equal_styles_in_all_panels():
    rng = np.random.default_rng(0)
    points = {"one": {"a": rng.normal(size=(5, 2))}, "two": {"b": rng.normal(size=(4, 2)), "a": np.zeros((2, 2))}}
    curves = {"two": {"round": np.ones((3, 2))}, "one": {"round": np.zeros((3, 2))}}
    arrows = {"one": {"there": (np.zeros(2), np.ones(2))}}
    figure = figures.plane_panels(points, curves, arrows, ((-1, 2), (-3, 4)), ("x", "y"), "Planes", columns=3)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["one", "two"]
    narrow = figures.plane_panels(points, curves, arrows, ((-1, 2), (-3, 4)), ("x", "y"), "Planes", 3, width=2.0)
    assert narrow.get_figwidth() < 0.6 * figure.get_figwidth()
    assert shown[0].get_xlim() == (-1, 2) and shown[1].get_ylim() == (-3, 4)
    np.testing.assert_array_equal(shown[0].lines[0].get_xydata(), points["one"]["a"])
    np.testing.assert_array_equal(shown[1].lines[0].get_xydata(), points["two"]["b"])
    assert shown[0].lines[0].get_color() == shown[1].lines[1].get_color() != shown[1].lines[0].get_color()
    np.testing.assert_array_equal(shown[1].lines[2].get_xydata(), curves["two"]["round"])
    (arrow,) = shown[0].texts
    assert arrow.xy == pytest.approx((1, 1)) and not shown[1].texts
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "round", "there"]


def test_line_panels_have_an_axis_each():
    x = np.array([0.1, 1.0, 10.0])
    figure = figures.line_panels(x, {"big": {"a": x, "b": 2 * x}, "small": {"c": -x}}, "eps", "Lines", ["big"])
    first, second = figure.axes
    assert [axes.get_yscale() for axes in (first, second)] == ["log", "linear"]
    assert first.get_xscale() == second.get_xscale() == "log" and first.get_xlim() == (0.1, 10)
    np.testing.assert_array_equal(first.lines[1].get_ydata(), 2 * x)
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["a", "b"]
    assert second.get_title() == "small" and second.get_xlabel() == "eps" and figure.get_suptitle() == "Lines"
    figure.draw_without_rendering()
    for axes in figure.axes:  # the legend hides no line
        assert axes.get_legend().get_window_extent().y1 < axes.get_window_extent().y0


def test_intervals_are_drawn(tmp_path):
    dots = {"l0": {"a": (0.5, 0.3, 0.7), "b": (0.0, 0.0, 0.2)}, "linf": {"a": (0.1, 0.0, 0.3), "b": (1.0, 0.8, 1.0)}}
    chart = figures.interval_dots(dots, {"linf": {"a": 0.16}}, "agrees", "title")
    first, second = chart.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    assert [line.get_marker() for line in first.lines] == ["None", "o"] * 2
    star = [line for line in second.lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in star] == [16] and star[0].get_ydata()[0] < 0  # above the dot at 0
    (legend,) = chart.legends
    assert [text.get_text() for text in legend.get_texts()] == ["measured, with 95 % interval", "published"]
    (legend,) = figures.interval_dots(dots, {}, "agrees", "title").legends
    assert len(legend.get_texts()) == 1
    x, intervals = np.array([0.0, 0.1, 0.4]), np.array([[0.5, 0.3, 0.7], [0.2, 0.1, 0.4], [0.0, 0.0, 0.1]])
    lines = figures.interval_curves({"eps": (x, {"one": intervals})}, "agrees", "title")
    np.testing.assert_allclose(lines.axes[0].lines[0].get_ydata(), [50, 20, 0])
    bars = lines.axes[0].collections[0].get_segments()
    np.testing.assert_allclose([segment[:, 1] for segment in bars], [[30, 70], [10, 40], [0, 10]])
    assert figures.save(chart, tmp_path / "dots.png").stat().st_size > 5000


def test_interval_curves_mark_single_values_and_share_a_legend():
    x, intervals = np.array([0.0, 0.1]), np.array([[0.5, 0.3, 0.7], [0.2, 0.1, 0.4]])
    panels = {name: (x, {"one": intervals, "two": intervals}) for name in ("eps", "eps of l1")}
    crosses = {"eps of l1": {"two": (np.array([0.1]), np.array([0.05]))}}
    chart = figures.interval_curves(panels, "agrees", "title", crosses)
    marked = [[line for line in axes.lines if line.get_marker() == "x"] for axes in chart.axes]
    assert not marked[0] and marked[1][0].get_ydata()[0] == pytest.approx(5)
    (legend,) = chart.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    apart = figures.interval_curves({"eps": panels["eps"], "l1": (x, {"one": intervals})}, "agrees", "title")
    assert not apart.legends and [len(axes.get_legend().get_texts()) for axes in apart.axes] == [2, 1]
