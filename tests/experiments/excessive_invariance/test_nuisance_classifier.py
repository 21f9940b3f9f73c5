"""Classifiers that read the nuisance, before and after the class is taken out of it."""

import pytest

ARGUMENTS = ["--ensemble", "2"]


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_the_nuisance_classifiers_keeps_the_logits_and_leaves_its_table(smoke):
    measured = smoke.measured
    before, after = ("CE", "iCE in closed form")
    assert measured[f"{after}: test error of the logits"] == measured[f"{before}: test error of the logits"]
    assert measured[f"{after}: median test bits per dimension"] < measured[f"{before}: median test bits per dimension"]
    for head in ("MLP", "ensemble of 2 MLPs"):
        read = [measured[f"{name}: test error of a fresh {head} head on the nuisance"] for name in (before, after)]
        assert read[0] + 20 < read[1] <= 100
    pictures = {"metamers-ce", "metamers-ice", "nuisance-readings"}
    assert smoke.pictures == pictures
