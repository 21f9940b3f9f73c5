"""Logit gaps before and after training."""

import dataclasses

import numpy as np
import pytest

from experiments.intriguing_properties import logit_gaps
from invjax.analysis import uniform_gap_law


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_logit_gaps_run_from_before_training_on(smoke):
    measured = smoke.measured
    assert measured["independent uniform logits: exponent of the density of Delta_12"] == pytest.approx(0, abs=0.1)
    assert "MLP, before training: exponent of the density of Delta_13" in measured
    assert measured["MLP: clean error"] < 60
    before, after = (np.load(smoke.folder / f"trials/model=MLP,seed=0/epoch-{e}/arrays.npz")["gaps"] for e in (0, 2))
    assert (before != after).any(), "the gaps of the initial parameters are not those of the trained ones"


@pytest.mark.slow
def test_exponents_of_independent_logits_rise_by_one_with_the_rank():
    config = dataclasses.replace(logit_gaps.PRESETS["smoke"], ranks=(2, 3, 4), quantile=0.02)
    numbers, arrays = logit_gaps.trial(config, (), model=logit_gaps.UNIFORM, seed=1, folder=None)
    found = [numbers["exponents"][str(j)] for j in config.ranks]
    np.testing.assert_allclose([exponent for exponent, _, _ in found], [0, 1, 2], atol=0.3)
    assert all(low < exponent < high for exponent, low, high in found)
    middle = [
        uniform_gap_law(10, j).cdf(gap) for j, gap in zip(config.ranks, np.median(arrays["gaps"], 0), strict=True)
    ]
    np.testing.assert_allclose(middle, 0.5, atol=0.015)
