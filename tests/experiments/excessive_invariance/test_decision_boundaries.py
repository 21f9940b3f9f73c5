"""Decisions on the plane through images and metamers."""

import pytest


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_the_decision_boundaries_leaves_its_shares_and_figures(smoke):
    measured = smoke.measured
    assert all(0 <= value <= 100 for value in measured.values()) and len(measured) == 12
    # a metamer has the logits of one image and the nuisance of the other by construction
    assert measured["classifier of the logits: metamers x* decided as x is"] == 100
    assert measured["classifier of the nuisance: metamers x* decided as y is, the source of their nuisance"] == 100
    assert smoke.pictures == {"slices-images", "slices-metamers"}
