"""Features that are robust beyond what the labels tell."""

import numpy as np
import pytest

from experiments.invariance_tradeoffs.overly_robust_features import RADII
from invjax.data import read_arrays


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_simulations_agree_with_closed_forms(smoke):
    measured, table = smoke.measured, smoke.table
    assert measured["Bayes: closed form against simulation under attack, largest difference"] < 3
    for name in ("Bayes: agreement with the oracle, simulated", "sign x_2: accuracy, simulated"):
        assert measured[name] == pytest.approx(table[name].expected, abs=1.5)  # three standard errors of 2,000 images


@pytest.mark.slow
def test_adversarial_training_finds_the_wrong_feature_and_augmentation_the_right_one(smoke):
    measured = smoke.measured
    assert measured["linear, adversarial: share of x_2 in the weights"] > 95
    assert measured["linear, adversarial: follows the oracle when x_1 alone changes sides"] < 15
    assert measured["linear, augmented: follows the oracle when x_1 alone changes sides"] > 95
    for arm in ("plain", "adversarial", "augmented"):
        curve = read_arrays(smoke.folder / "trials" / f"arm={arm},seed=0" / "arrays.npz")["accuracy"]
        assert (np.diff(curve) <= 0).all()
        assert curve[0] == pytest.approx(measured[f"linear, {arm}: accuracy"] / 100)
        assert curve[RADII == 0.4] == pytest.approx(measured[f"linear, {arm}: accuracy under linf 0.4"] / 100, abs=2e-3)
