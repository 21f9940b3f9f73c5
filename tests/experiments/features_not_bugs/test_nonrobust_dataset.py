"""Relabelled data sets of a standard and of a robust model."""

import pytest

from experiments.features_not_bugs import networks, relabelling
from invjax import features


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_the_standard_model_teaches_more_of_the_original_classes_than_the_robust_one(smoke):
    learnt = {
        (kind, source): smoke.measured[f"trained on {kind} of the {source} model: test accuracy"]
        for kind in relabelling.KINDS
        for source in networks.SOURCES
    }
    assert learnt["D_rand", "standard"] > 95 > learnt["D_rand", "robust"] + 2
    assert learnt["D_det", "standard"] > 15 > learnt["D_det", "robust"] + 3
    following = "trained on D_det of the {} model: test accuracy on the next class"
    assert smoke.measured[following.format("robust")] > 80 > smoke.measured[following.format("standard")] + 5
    assert smoke.measured["robust model: accuracy under PGD, eps 0.8"] > 30
    assert smoke.pictures == {"images", "accuracy"}


@pytest.mark.slow
def test_a_trial_keeps_its_data_set_whose_images_are_within_the_radius(smoke):
    for source in networks.SOURCES:
        for kind in relabelling.KINDS:
            made = features.load(smoke.folder / "trials" / f"source={source},kind={kind},seed=0" / "data.npz")
            reached = smoke.measured[f"{kind} of the {source} model: images that reach their target"]
            assert reached == 100 * made.details["success"].mean() > 10
            assert (made.details["distance"] <= 0.8 + 1e-6).all() and made.recipe["source"] == source
