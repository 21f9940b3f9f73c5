"""Figures of the sensitivity analysis show the numbers they are given."""

import numpy as np
import pytest

from invjax import figures


def data_of(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def drawn(axes, name):
    (line,) = [line for line in axes.lines if line.get_label().startswith(name)]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def test_power_laws_show_the_shares_below_and_the_laws():
    radii = np.array([np.inf, 0.1, 0.4, 0.2])
    laws, published = {"MLP": {"FGSM": (2.0, 1.5)}}, {"MLP": {"FGSM": 1.2}}
    chart = figures.power_laws({"MLP": {"FGSM": radii, "PGD": radii}}, laws, "Law", fitted=0.02, published=published)
    (axes,) = chart.axes
    x, y = drawn(axes, "FGSM")
    np.testing.assert_allclose(x, [0.1, 0.2, 0.4])
    np.testing.assert_allclose(y, [25, 50, 75])
    (law,) = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    np.testing.assert_allclose(law.get_ydata(), 200 * np.asarray(law.get_xdata()) ** 1.5)
    assert axes.get_xscale() == axes.get_yscale() == "log"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["FGSM: B = 1.50 (published 1.2)", "PGD: no fit"]
    (band,) = axes.patches
    assert band.get_y() + band.get_height() == pytest.approx(2)
    assert [text.get_text() for text in chart.legends[0].get_texts()][1] == "errors of the fit, up to 2 %"


def test_power_laws_of_nine_models_fill_three_rows_with_the_same_axes():
    names = [str(i) for i in range(9)]
    panels = {name: {"FGSM": np.array([0.1, 0.2]) / 10**i} for i, name in enumerate(names)}
    chart = figures.power_laws(panels, {key: {"FGSM": (1.0, 1.0)} for key in names}, "Laws")
    assert [axes.get_title() for axes in chart.axes] == names
    assert len({axes.get_xlim() + axes.get_ylim() for axes in chart.axes}) == 1


def test_a_grid_with_an_empty_place_has_its_legend_there():
    shares = np.array([[0.9, 0.5]])
    chart = figures.curves(np.array([0, 1]), {str(i): {"plain": shares} for i in range(5)}, "eps", "accuracy", "Curves")
    *panels, place = chart.axes
    assert [axes.get_title() for axes in panels] == ["0", "1", "2", "3", "4"]
    assert [axes.get_xlabel() for axes in panels] == ["", "", "eps", "eps", "eps"]
    assert [text.get_text() for text in place.get_legend().get_texts()] == ["plain"] and not place.axison
    assert not chart.legends


def test_logits_along_mark_the_crossing_and_draw_the_response_dotted():
    eps = np.linspace(0, 2, 5)[None]
    logits = np.stack([2 - eps, eps, 0 * eps], -1)
    chart = figures.logits_along(eps, logits, logits + 1, np.array([1.0]), np.array([0]), "Along")
    (axes,) = chart.axes
    np.testing.assert_allclose(data_of(axes, "label")[1], 2 - eps[0])
    np.testing.assert_allclose(data_of(axes, "class that is predicted next")[1], eps[0])
    assert axes.get_title() == "from class 0 to class 1"
    dotted = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert len(dotted) == 2
    np.testing.assert_allclose(dotted[0].get_ydata(), 3 - eps[0])
    (dot,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (1.0, 1.0)
    names = [text.get_text() for text in chart.legends[0].get_texts()]
    assert names == [
        "label", "class that is predicted next", "other classes", "the prediction changes", "linear response"
    ]  # fmt: skip


def test_predictions_pair_true_and_predicted_values_without_infinite_ones():
    true, linear = np.array([1.0, np.inf, 2.0, 3.0]), np.array([1.5, 2.0, np.inf, 2.5])
    chart = figures.predictions(true, {"linear": linear}, (1.0, 2.0), "eps", "Where")
    scatter, shares = chart.axes
    np.testing.assert_allclose(scatter.lines[0].get_xdata(), [1, 3])
    np.testing.assert_allclose(scatter.lines[0].get_ydata(), [1.5, 2.5])
    assert scatter.get_xlim() == scatter.get_ylim() == tuple(scatter.lines[1].get_xdata())  # a whole diagonal
    np.testing.assert_allclose(scatter.lines[1].get_xdata(), scatter.lines[1].get_ydata())
    np.testing.assert_allclose(data_of(shares, "true")[1], [25, 50, 75])
    np.testing.assert_allclose(data_of(shares, "linear")[0], [1.5, 2, 2.5])


def test_gap_distributions_show_each_rank_and_the_exact_law():
    gaps = np.array([[0.1, 0.5], [0.3, 0.4], [0.2, 0.9], [0.0, 0.2]])
    exact = {"trained": (np.array([0.1, 1.0]), {2: np.array([0.2, 1.0]), 3: np.array([0.01, 1.0])})}
    chart = figures.gap_distributions({"before": gaps, "trained": gaps}, (2, 3), exact, "Gaps", fitted=0.01)
    before, trained = chart.axes
    x, y = data_of(before, r"$\Delta_{1,2}$")
    np.testing.assert_allclose(x, [0.1, 0.2, 0.3])  # 0 is not on the axis but counts in the fractions
    np.testing.assert_allclose(y, [50, 75, 100])
    assert not [line for line in before.lines if line.get_linestyle() == "--"]
    dashed = [line for line in trained.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose([line.get_ydata() for line in dashed], [[20, 100], [1, 100]])
    names = [text.get_text() for text in chart.legends[0].get_texts()]
    assert sorted(names[2:]) == ["exact law", "fractions of the fit"]


def test_pareto_draws_a_point_a_run_its_spread_and_the_target():
    points = {"CE": ((0.5, 0.1), (1.0, 0.2)), "iCE": ((0.6, 0.0), (60.0, 2.0))}
    chart = figures.pareto(points, {"published": (0.38, 27.7)}, 90.0, "logits", "heads", "Front")
    (axes,) = chart.axes
    drawn = {tuple(map(float, (line.get_xdata()[0], line.get_ydata()[0]))) for line in axes.lines}
    assert {(0.5, 1.0), (0.6, 60.0), (0.38, 27.7)} <= drawn
    assert {container.get_label() for container in axes.containers} == {"CE", "iCE"}
    assert axes.get_xscale() == "log" and axes.get_ylim()[1] > 90


def test_the_sensitivity_falls_at_each_smallest_radius_and_the_title_names_the_dashed_radius():
    smallest = {"CNN": {"linf": np.array([0.0, 0.1, np.inf, 0.15]), "l0": np.array([1.0, 2.0, 3.0, 4.0])}}
    chart = figures.sensitivity(smallest, {"linf": 0.1, "l0": 2.0}, "Sensitivity")
    linf, l0 = chart.axes
    x, y = data_of(linf, "CNN")
    np.testing.assert_allclose(np.interp([0.0, 0.05, 0.12, 0.2], x, y), [75, 75, 50, 25])
    (dashed,) = [line for line in linf.lines if line.get_linestyle() == "--"]
    assert dashed.get_xdata()[0] == 0.1 and linf.get_title() == "linf; dashed: eps = 0.1"
    assert l0.get_xlabel() == "radius eps: pixels changed"


def test_histograms_count_everything_and_tint_the_published_range():
    values = {"FGSM": np.array([0.9, 1.0, 1.1, 1.4]), "none": np.array([])}
    chart = figures.histograms(values, "exponent", "networks", "Exponents", {"FGSM": (0.9, 1.1)}, bins=5)
    first, second = chart.axes
    heights = [patch.get_height() for patch in first.patches]
    assert sum(height for height in heights if height >= 1) >= 4
    labels = first.get_legend_handles_labels()[1]
    assert "published: 0.9 to 1.1" in labels and "median 1.05" in labels
    assert sum(patch.get_height() for patch in second.patches) == 0
    assert all(tick == round(tick) for tick in first.get_yticks())


def test_scatter_panels_show_every_group_in_every_panel():
    groups = {"random": (np.array([1.0, 2.0]), np.array([3.0, 4.0])), "evolved": (np.array([5.0]), np.array([6.0]))}
    chart = figures.scatter_panels({"size": groups, "clean": groups}, "reward", "Cells")
    for axes, name in zip(chart.axes, ("size", "clean"), strict=True):
        offsets = np.concatenate([np.asarray(collection.get_offsets()) for collection in axes.collections])
        np.testing.assert_allclose(offsets, [[1, 3], [2, 4], [5, 6]])
        assert axes.get_xlabel() == name


def test_six_groups_have_six_colors_and_markers_and_one_line_of_legend():
    groups = {name: (np.array([float(i)]), np.array([1.0])) for i, name in enumerate("abcdef")}
    chart = figures.scatter_panels({"size": groups, "clean": groups}, "reward", "Cells")
    for axes in chart.axes:
        colors = {tuple(found.get_facecolor()[0]) for found in axes.collections}
        assert len(colors) == len({found.get_paths()[0].vertices.tobytes() for found in axes.collections}) == 6
    chart.draw_without_rendering()
    heights = {round(text.get_window_extent().y0) for text in chart.legends[0].get_texts()}
    assert [text.get_text() for text in chart.legends[0].get_texts()] == list("abcdef") and max(heights) - min(
        heights
    ) < 4


@pytest.mark.parametrize("columns", [1, 2])
def test_figures_are_saved_whole(tmp_path, columns):
    radii = {"FGSM": np.array([0.1, 0.2, 0.3])}
    names = [str(i) for i in range(columns)]
    laws = {key: {"FGSM": (1.0, 1.0)} for key in names}
    path = figures.save(figures.power_laws(dict.fromkeys(names, radii), laws, "Laws"), tmp_path / "laws.png")
    assert path.read_bytes()[:4] == b"\x89PNG" and [p.name for p in tmp_path.iterdir()] == ["laws.png"]
