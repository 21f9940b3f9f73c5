"""Robust features that leak into relabelled data sets."""

import pytest


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_d_rand_leaks_and_d_det_does_not(smoke):
    measured = smoke.measured
    head = "linear head on robust linear features, trained on {}: test accuracy"
    assert measured[head.format("D_rand")] > 50 and measured[head.format("D")] > 85
    assert measured[head.format("D_det")] < 15 < measured["network trained on D_rand: test accuracy"]
    robust, standard = (
        measured[f"model of the {kind} linear features: accuracy under PGD, eps 0.8"] for kind in ("robust", "standard")
    )
    assert robust > standard + 15
    assert smoke.pictures == {"leakage"}
