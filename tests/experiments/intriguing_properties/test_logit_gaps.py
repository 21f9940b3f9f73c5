"""Logit gaps before and after training."""

import pytest


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_logit_gaps_run_from_before_training_on(smoke):
    measured = smoke.measured
    assert measured["independent uniform logits: exponent of the density of Delta_12"] == pytest.approx(0, abs=0.1)
    assert "MLP, before training: exponent of the density of Delta_13" in measured
    assert measured["MLP: clean error"] < 60
