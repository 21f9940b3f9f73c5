"""Relabelled data sets of a standard and of a robust model."""

import pytest

from experiments.features_not_bugs import networks, nonrobust_dataset, relabelling
from invjax import features


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_the_nonrobust_data_set_tells_the_labels_apart(smoke):
    measured = smoke.measured
    learnt = {
        (kind, source): measured[f"trained on {kind} of the {source} model: test accuracy"]
        for kind in relabelling.KINDS
        for source in networks.SOURCES
    }
    assert learnt["D_rand", "standard"] > 90 and learnt["D_rand", "robust"] < learnt["D_rand", "standard"] - 15
    assert learnt["D_det", "standard"] > 20 > learnt["D_det", "robust"] + 5
    following = "trained on D_det of the {} model: test accuracy on the next class"
    assert measured[following.format("robust")] > 80 > measured[following.format("standard")] + 10
    for source in networks.SOURCES:
        for kind in relabelling.KINDS:
            made = features.load(smoke.folder / "seed0" / f"{kind}-{source}" / "data.npz")
            reached = measured[f"{kind} of the {source} model: images that reach their target"]
            assert reached == 100 * made.details["success"].mean() > 10
            assert (made.details["distance"] <= 0.8 + 1e-6).all()
    for name in ("images", "accuracy"):
        assert (smoke.folder / "figures" / f"{name}.png").stat().st_size > 5000


def published(experiment, config, numbers):
    return {row.name: row.published for row in experiment.rows(config, [numbers]) if row.published is not None}


def test_the_papers_numbers_of_the_nonrobust_data_set_stand_on_their_rows():
    of_one = {"D": 1, "D_rand": 1, "D_det": 1, "relabelled": 1, "reached": {"D_rand": 1, "D_det": 1}, "attacked": {}}
    numbers = dict.fromkeys(networks.SOURCES, of_one)
    assert published(nonrobust_dataset, nonrobust_dataset.PRESETS["default"], numbers) == {
        "trained on D_det of the standard model: test accuracy": 43.7,
        "trained on D_det of the standard model: test accuracy on the next class": 16.2,
        "trained on D_rand of the standard model: test accuracy": 63.3,
        "standard model: test accuracy": 95.3,
        "trained on D_det of the robust model: test accuracy": 5.8,
        "trained on D_det of the robust model: test accuracy on the next class": 65.5,
        "trained on D_rand of the robust model: test accuracy": 25.2,
    }
    assert not published(nonrobust_dataset, nonrobust_dataset.PRESETS["planted"], numbers)
