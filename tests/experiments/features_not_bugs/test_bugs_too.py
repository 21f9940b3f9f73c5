"""Adversarial examples from which a network learns nothing."""

import pytest

from invjax import features


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_non_transferable_changes_teach_nothing_and_wrong_squares_are_memorised(smoke):
    measured = smoke.measured
    plain, alone = (measured[f"D_det by {name}: another model sees the target"] for name in ("PGD", "non-transferable"))
    assert plain > 20 and alone < 10
    assert measured["D_det by non-transferable: its model sees the target"] > 30
    assert measured["trained on D_det by non-transferable: test accuracy"] < 10
    assert measured["squares: the sign of the mean: accuracy, linf 0.2"] == 100
    assert measured["trained on D_det by non-transferable: test accuracy on the next class"] > 60
    early = "squares: network after one epoch"
    assert (
        measured[f"{early}: accuracy, linf 0.1"]
        == 100
        > measured[f"{early}: training labels known, the wrong ones too"]
    )
    after = "squares: network after 500 epochs"
    assert measured[f"{after}: training labels known, the wrong ones too"] == 100
    assert measured[f"{after}: accuracy, linf 0.1"] + 50 < measured[f"{after}: accuracy, linf 0"]
    assert smoke.pictures == {"bugs", "images", "squares"}
    made = features.load(smoke.folder / "trials" / "arm=non-transferable,seed=0" / "data.npz")
    assert (made.details["distance"] <= 0.8 + 1e-6).all()
