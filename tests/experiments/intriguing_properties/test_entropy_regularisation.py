"""Training with a penalty on the entropy."""

import pytest

from experiments.intriguing_properties import (
    entropy_regularisation,
)


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_entropy_regularisation_runs_all_arms(smoke):
    measured = smoke.measured
    for arm in entropy_regularisation.ARMS:
        assert measured[f"MLP, {arm}: accuracy under PGD, margin, eps 0.1"] <= measured[f"MLP, {arm}: clean accuracy"]
    assert measured["MLP, entropy: mean entropy"] < measured["MLP, plain: mean entropy"]
