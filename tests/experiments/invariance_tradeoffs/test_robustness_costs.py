"""The cost of robustness in agreement with people."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.invariance_tradeoffs import (
    robust_networks,
    robustness_costs,
)
from invjax.data import Dataset


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_robustness_costs_run_and_resume(smoke):
    table = smoke.table
    kept = json.loads((smoke.folder / "plain-seed0" / "numbers.json").read_text())
    assert table["plain: agrees with people, l0"].measured == pytest.approx(100 * kept["agrees"]["l0"] / 55)
    falls = table["linf-PGD: agreement with people falls from eps 0 to 0.3 by, manual linf 0.4"]
    robust = json.loads((smoke.folder / "linf-0.3-seed0" / "numbers.json").read_text())
    name = "manual linf 0.4"
    assert falls.measured == pytest.approx(100 * (kept["agrees"][name] - robust["agrees"][name]) / 44)
    # the second network has another radius of training and other parameters
    assert robust["clean"] != kept["clean"] and 0 <= robust["robust"] <= robust["clean"] + 0.2
    assert smoke.pictures == {"agreement"}


def test_the_radius_is_a_third_in_the_first_epoch(monkeypatch, tmp_path):
    config = dataclasses.replace(robustness_costs.PRESETS["smoke"], batch_size=8, epochs=2)
    images = np.zeros((24, 28, 28, 1), np.uint8)
    data = Dataset(images, np.zeros(24, np.int32), 10, 256)
    radii = []

    def fit(state, step_fn, draw, num_steps, **rest):
        radii.extend(float(draw(step)[2]) for step in range(num_steps))
        return state, []

    monkeypatch.setattr(robust_networks, "fit", fit)
    robust_networks.train(config, "small CNN", None, 0.3, 0, data, tmp_path)
    assert radii == pytest.approx([0.1] * 3 + [0.3] * 3)
