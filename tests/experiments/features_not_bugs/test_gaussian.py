"""The Gaussian laboratory: simulation beside closed forms, and checks that can fail."""

import dataclasses

import numpy as np
import pytest

from experiments.features_not_bugs import gaussian as experiment


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_simulation_agrees_with_every_closed_form(smoke):
    rows = smoke.rows
    assert rows[0].name == "closed forms beside simulation: the furthest off" and 0 < rows[0].measured < 4
    found = {row.name: row for row in rows}
    assert len(found) == len(rows)
    assert found["theorem 1: L_adv - L, quadratic, C=5"].expected == pytest.approx(24.67053324099723)
    for eps, cosine in ((0, 0.470588235), (1, 0.81604540)):
        row = found[f"theorem 3: smallest cosine of mean and gradient, eps={eps}"]
        assert row.expected == pytest.approx(cosine, rel=1e-8) and row.measured == pytest.approx(cosine, rel=1e-6)
    assert found["theorem 3: random means whose alignment does not grow with eps"].measured == 0
    descended = [row.measured for name, row in found.items() if "average budget" in name or "of the mean" in name]
    assert len(descended) == 4 and max(descended) < 1e-10
    attacked = "theorem 2: the same risk under the exact attack of each point, nats, eps=1"
    assert found[attacked].measured < found["theorem 2: robust risk of the optimum, nats, eps=1"].measured


@pytest.mark.slow
def test_a_finished_run_draws_its_figures_from_kept_arrays(smoke, monkeypatch):
    folder, rows = smoke.folder, smoke.rows
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
