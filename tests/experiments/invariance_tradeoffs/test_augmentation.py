"""Adversarial training with rotations and shifts."""

import json

import numpy as np
import pytest

from experiments import common
from experiments.common._trials import Trial
from experiments.invariance_tradeoffs import augmentation


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_augmentation_runs(smoke):
    table = smoke.table
    plain, moving = (f"trained on {name}, eps 0: " for name in augmentation.ARMS.values())
    # at radius zero the first adversary changes nothing, and the second still moves the images
    numbers = json.loads((smoke.folder / "trials" / "eps=0.0,arm=linf,seed=0" / "numbers.json").read_text())
    assert numbers["robust"]["moves"] < numbers["robust"]["linf"]
    assert table[f"{plain}accuracy under linf, rotation, shift"].measured == 100 * numbers["robust"]["moves"]
    assert table[f"{plain}clean accuracy"].measured != table[f"{moving}clean accuracy"].measured
    assert smoke.pictures == {"accuracy", "agreement"}


def test_fewer_than_two_radii_are_refused_before_any_work(tmp_path):
    for radii in (["0.1"], []):
        with pytest.raises(SystemExit, match="radii must be two or more"):
            common.main(augmentation.EXPERIMENT, ["smoke", "--radii", *radii, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_failed_trainings_are_found_by_their_clean_accuracy(tmp_path):
    clean = {(0.0, 0): 0.9, (0.0, 1): 0.8, (0.3, 0): 0.7, (0.3, 1): 0.1}
    trials = [Trial({"eps": eps, "seed": seed}, tmp_path / f"{eps}-{seed}") for eps, seed in clean]
    for trial, value in zip(trials, clean.values(), strict=True):
        trial.folder.mkdir()
        (trial.folder / "numbers.json").write_text(json.dumps({"clean": value}))
    found = augmentation.failed(common.Results(trials), [[0.5, 0.4], [0.3, 0.2]])
    np.testing.assert_array_equal(found, [[0.3], [0.2]])
