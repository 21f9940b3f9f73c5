"""Adversarial training with rotations and shifts."""

import json

import pytest

from experiments.invariance_tradeoffs import (
    augmentation,
)


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_augmentation_runs(smoke):
    table = smoke.table
    plain, moving = (f"trained on {arm}, eps 0: " for arm in augmentation.ARMS)
    # at radius zero the first adversary changes nothing, and the second still moves the images
    numbers = json.loads((smoke.folder / "linf-0-seed0" / "numbers.json").read_text())
    assert numbers["robust"]["linf, rotation, shift"] < numbers["robust"]["linf"]
    assert table[f"{plain}clean accuracy"].measured != table[f"{moving}clean accuracy"].measured
    assert smoke.pictures == {"accuracy", "agreement"}
