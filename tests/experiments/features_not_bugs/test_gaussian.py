"""The Gaussian model: simulation beside closed forms, and checks that can fail."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.features_not_bugs import gaussian as experiment


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_simulation_agrees_with_every_closed_form(smoke):
    rows, found = smoke.rows, smoke.table
    assert rows[0].name == "closed forms beside simulation: the furthest off" and 0 < rows[0].measured < 4
    assert found["theorem 1: L_adv - L, quadratic, C=5"].expected == pytest.approx(24.67053324099723)
    for eps, cosine in ((0, 0.470588235), (1, 0.81604540)):
        row = found[f"theorem 3: smallest cosine of mean and gradient, eps={eps}"]
        assert row.expected == pytest.approx(cosine, rel=1e-8) and row.measured == pytest.approx(cosine, rel=1e-6)
    assert found["theorem 3: random means whose alignment does not grow with eps"].measured == 0
    descended = [row.measured for name, row in found.items() if "average budget" in name or "of the mean" in name]
    assert len(descended) == 4 and max(descended) < 1e-10
    attacked = "theorem 2: the same risk under the exact attack of each point, nats, eps=1"
    assert found[attacked].measured < found["theorem 2: robust risk of the optimum, nats, eps=1"].measured
    assert found["error, trained with eps=0, attacked with 0.5"].unit == "%"


def test_a_wrong_closed_form_is_many_standard_errors_off():
    values = np.random.default_rng(0).normal(3, 1, 10_000)
    assert abs(experiment.simulated("right", 3.0, values).off) < 4
    assert experiment.simulated("wrong", 2.9, values).off > 5


@pytest.mark.parametrize("part", ["theorem 1", "errors"])
def test_points_of_another_model_are_many_standard_errors_off(part):
    config = dataclasses.replace(experiment.PRESETS["smoke"], epsilons=(1.0,), penalties=(8.0,))
    data = experiment.draw_points(config)
    wrong = experiment.draw_points(dataclasses.replace(config, variances=(0.5, 1.0, 4.0)))
    with jax.enable_x64(True):
        own, other = (
            max(abs(check.off) for check in experiment.PARTS[part](config, (*data[:2], *points[2:])))
            for points in (data, wrong)
        )
    assert own < 4 and other > 10


def test_the_gradient_turns_towards_the_mean_in_the_figures():
    config = experiment.PRESETS["smoke"]
    pictures = experiment.draw(config, None)
    eigenvalues, cosines, errors = pictures["against-eps"].axes
    of_figure, worst = (line.get_ydata() for line in cosines.lines)
    assert (np.diff(of_figure) > 0).all() and (np.diff(worst) > 0).all() and (worst <= of_figure).all()
    np.testing.assert_allclose([line.get_ydata()[0] for line in eigenvalues.lines], [36, 1], rtol=0.05)
    clean, attacked = (line.get_ydata() for line in errors.lines)
    assert (clean < attacked).all() and clean[-1] > clean[0]
    mean = np.array(config.figure_mean)
    angles = []
    for axes in pictures["figure-4"].axes:
        ball = next(line.get_xydata() for line in axes.lines if line.get_linestyle() == "-")[:-1]
        model = 2 * ball.T @ ball / len(ball)  # the ball is a circle times the square root of the covariance
        towards, gradient = (np.array(text.xy) for text in axes.texts)
        for found in (towards, model @ gradient):  # the gradient is the inverse of the covariance times the mean
            cosine = found @ mean / np.linalg.norm(found) / np.linalg.norm(mean)
            assert cosine == pytest.approx(1, abs=1e-12)
        angles.append(gradient @ mean / np.linalg.norm(gradient) / np.linalg.norm(mean))
        samples = sum(len(line.get_xydata()) for line in axes.lines if line.get_marker() == ".")
        assert samples == config.figure_samples
    assert angles == sorted(angles) and angles[-1] > 0.9
    learnt = [np.linalg.norm(axes.lines[2].get_xydata(), axis=1).max() for axes in pictures["figure-4"].axes]
    assert learnt[0] == pytest.approx(6, rel=1e-3) and learnt == sorted(learnt)  # the larger eigenvalue is 36
