"""Reports of a plain and of an adversarially trained network."""

import numpy as np
import pytest

from experiments import common
from experiments.common._trials import places
from experiments.sensitivity import report
from invjax.data import write_json


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_adversarial_training_helps_and_the_ensemble_is_the_strongest_attack(smoke):
    plain, adversarial = (
        [smoke.measured[f"{kind}: {name}"] for name in ("robust accuracy, linf, eps 0.1", report.ENSEMBLE)]
        for kind in ("plain", "adversarial")
    )
    assert plain[0] >= plain[1] and adversarial[0] >= adversarial[1]
    assert plain[1] < adversarial[1]
    for kind in ("plain", "adversarial"):
        errors = [smoke.measured[f"{kind}: {name}"] for name in ("clean error", "adversarial error, linf, eps 0.1")]
        assert sum(errors) + smoke.measured[f"{kind}: robust accuracy, linf, eps 0.1"] == pytest.approx(100)
    assert smoke.pictures == {"sensitivity", "nearest-plain", "nearest-adversarial"}


def test_a_radius_in_l0_is_a_number_of_pixels_and_an_interval_is_that_of_the_first_seed(tmp_path):
    trials = places(common.grid(training=["plain"], seed=[0, 1]), tmp_path)
    for seed, trial in enumerate(trials):
        fraction = {"name": "clean error", "value": 0.1 * seed, "interval": (0.0, 0.05 + seed)}
        radii = [{"name": f"median smallest eps, {norm}", "value": seed, "interval": None} for norm in ("linf", "l0")]
        write_json(trial.folder / "numbers.json", {"entries": [fraction, *radii], "findings": [[], ["n"]][seed]})
    error, linf, l0, findings = report.table(report.Config(), common.Results(trials))
    assert (error.measured, error.unit) == (pytest.approx(5), "%")
    assert error.differs == "95 % interval of the first seed: 0.0 to 5.0"
    assert (linf.unit, l0.unit, l0.measured) == ("", "pixels", 0.5)
    assert (findings.measured, findings.differs) == (0.5, "n")


def test_captions_have_class_prediction_and_distance():
    found = {"labels": np.array([3, 4]), "predicted original": np.array([3, 9])}
    found |= {"predicted l2": np.array([8, 4]), "smallest l2": np.array([0.1234, np.inf])}
    assert report.captions(found, ["l2"]) == {
        "original": ["class 3, predicted 3", "class 4, predicted 9"],
        "l2": ["8, at 0.123", "none found"],
    }
