"""Linear response beside the true smallest perturbations."""

import numpy as np
import pytest

from experiments.intriguing_properties import (
    linear_response,
)


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_linear_response_runs(smoke):
    measured = smoke.measured
    assert measured["MLP: median of linear / true eps"] == pytest.approx(1, abs=0.1)
    assert measured["MLP: linear response names the class that crosses first"] > 90
    assert measured["MLP: linear: P(eps-hat < eps) over the smallest decade, mean relative error"] < 0.2
    assert smoke.pictures == {"epsilon-mlp", "logits-along-mlp"}


def test_the_fractions_below_eps_and_the_smallest_decade():
    eps = np.array([np.inf, 4.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(linear_response.share_below(eps, np.array([0.5, 1, 2.5, 100])), [0, 0.2, 0.4, 0.8])
    lowest, decade = linear_response.decade_of(np.linspace(0, 1, 1001), 0.01)
    assert lowest == pytest.approx(0.01) and decade[0] == lowest
    assert decade[-1] == pytest.approx(0.1) and len(decade) == 21
