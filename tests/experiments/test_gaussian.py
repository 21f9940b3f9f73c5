"""The Gaussian laboratory: its smoke run, its figures, and that its checks can fail."""

import dataclasses

import numpy as np
import pytest

from experiments import common
from experiments.features_not_bugs import gaussian as experiment
from invjax import figures


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gaussian")
    return folder, common.execute(experiment.EXPERIMENT, "smoke", experiment.PRESETS["smoke"], folder)


def test_simulation_agrees_with_every_closed_form(smoke_run):
    _, rows = smoke_run
    assert rows[0].name == "closed forms beside simulation: the furthest off" and 0 < rows[0].measured < 4
    found = {row.name: row for row in rows}
    assert len(found) == len(rows)
    assert found["theorem 1: L_adv - L, quadratic, C=5"].published == pytest.approx(24.67053324099723)
    for eps, cosine in ((0, 0.470588235), (1, 0.81604540)):
        row = found[f"theorem 3: smallest cosine of mean and gradient, eps={eps}"]
        assert row.published == pytest.approx(cosine, rel=1e-8) and row.measured == pytest.approx(cosine, rel=1e-6)
    assert found["theorem 3: random means whose alignment does not grow with eps"].measured == 0
    descended = [row.measured for name, row in found.items() if "average budget" in name or "of the mean" in name]
    assert len(descended) == 4 and max(descended) < 1e-10
    attacked = "theorem 2: the same risk under the exact attack of each point, nats, eps=1"
    assert found[attacked].measured < found["theorem 2: robust risk of the optimum, nats, eps=1"].measured


def test_a_finished_run_draws_its_figures_from_what_it_kept(smoke_run, monkeypatch):
    folder, rows = smoke_run
    names = {"figure-4.png", "against-eps.png"}
    for name in names:
        assert (folder / "figures" / name).stat().st_size > 10_000
        (folder / "figures" / name).unlink()
    monkeypatch.setattr(experiment, "in_float64", lambda *args: pytest.fail("computed again"))
    assert experiment.run(experiment.PRESETS["smoke"], folder) == rows
    assert {path.name for path in (folder / "figures").iterdir()} == names


def test_a_wrong_closed_form_is_many_standard_errors_off():
    values = np.random.default_rng(0).normal(3, 1, 10_000)
    assert abs(experiment.simulated("right", 3.0, values)["off"]) < 4
    assert experiment.simulated("wrong", 2.9, values)["off"] > 5


def test_the_gradient_turns_towards_the_mean_in_the_figure():
    config = dataclasses.replace(experiment.PRESETS["smoke"], figure_samples=50)
    _, arrays = experiment.in_float64(experiment.picture, config)
    assert (np.diff(arrays["cosine"]) > 0).all() and (np.diff(arrays["worst_cosine"]) > 0).all()
    assert (arrays["worst_cosine"] <= arrays["cosine"]).all()
    np.testing.assert_allclose(arrays["models"][0], arrays["models"][0].T)
    np.testing.assert_allclose(np.linalg.eigvalsh(arrays["models"][0]), sorted(config.figure_variances))
    plane = experiment.draw(arrays)["figure-4"]
    for axes, model in zip(plane.axes, arrays["models"], strict=True):
        ball = next(line.get_xydata() for line in axes.lines if line.get_linestyle() == "-")
        np.testing.assert_allclose(np.einsum("pi,ij,pj->p", ball, np.linalg.inv(model), ball), 1)
        towards, gradient = (np.array(text.xy) for text in axes.texts)
        for found in (towards, model @ gradient):  # the gradient is the inverse of the covariance times the mean
            cosine = found @ arrays["mean"] / np.linalg.norm(found) / np.linalg.norm(arrays["mean"])
            assert cosine == pytest.approx(1, abs=1e-12)


# drawing ------------------------------------------------------------------------------------------------------------


def test_what_has_one_name_has_one_style_in_every_panel():
    rng = np.random.default_rng(0)
    points = {"one": {"a": rng.normal(size=(5, 2))}, "two": {"b": rng.normal(size=(4, 2)), "a": np.zeros((2, 2))}}
    curves = {"two": {"round": np.ones((3, 2))}, "one": {"round": np.zeros((3, 2))}}
    arrows = {"one": {"there": (np.zeros(2), np.ones(2))}}
    figure = figures.plane_panels(points, curves, arrows, ((-1, 2), (-3, 4)), ("x", "y"), "Planes", columns=3)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["one", "two"]
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
