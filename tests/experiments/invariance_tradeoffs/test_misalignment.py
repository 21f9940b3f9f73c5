"""Distances that contradict the classes."""

import jax
import numpy as np
import pytest

from experiments.invariance_tradeoffs import misalignment
from invjax.data import read_arrays


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_misalignment_runs_on_digits(smoke):
    table = smoke.measured
    for norm in ("l0", "l1", "l2", "linf"):
        assert 0 < table[f"digits, {norm}: pairs (same class, other class) in the wrong order"] < 50
        one = table[f"digits, {norm}: lemma 4, accuracy from one labelled point a class"]
        assert 30 < one < table[f"digits, {norm}: accuracy from all 300 points"]
    assert smoke.pictures == {"misalignment", "perturbations-digits"}
    kept = read_arrays(smoke.folder / "trials" / "dataset=digits,seed=0" / "arrays.npz")
    for change in ("semantic", "random"):
        lengths = np.linalg.norm((kept[change] - kept["image"]).reshape(misalignment.DRAWN, -1), axis=1)
        np.testing.assert_allclose(lengths, kept["length"], rtol=1e-4)
    assert kept["random"].min() >= 0 and kept["random"].max() <= 1
    assert (kept["other"] != kept["label"]).all()


def test_random_changes_have_the_length_that_is_asked_for_and_stay_in_range():
    x = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1)
    for length in (0.01, 1.0, 4.0):
        changed = misalignment.random_change(jax.random.key(0), x, length)
        assert np.linalg.norm(changed - x) == pytest.approx(length, rel=1e-4)
        assert changed.min() >= 0 and changed.max() <= 1
