"""The invariance attacks: what they change, the calibration of the judge, and refusals."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.invariance_tradeoffs import attack, judges
from invjax.data import Dataset, HumanLabelled, read_arrays
from invjax.evaluation import wilson


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_attacks_within_its_balls_and_draws_the_results(smoke):
    folder, measured = smoke.folder, smoke.measured
    arrays = read_arrays(folder / "seed0" / "arrays.npz")
    for name, eps in (("linf 0.3", 0.3), ("linf 0.4", 0.4)):
        assert np.abs(arrays[f"{name}/x"] - arrays["x"]).max() <= eps + 1e-6
        assert measured[f"{name}, other images: success"] == pytest.approx(100 * arrays[f"{name}/success"].mean())
    assert measured["linf 0.4, other images: success"] >= measured["linf 0.3, other images: success"]
    start = arrays["x"] > 0.5
    changed = (start != (arrays["l0/x"] > 0.5)).sum((1, 2, 3))
    np.testing.assert_array_equal(changed, arrays["l0/distance"])
    assert (arrays["l0/target"] != arrays["labels"]).all() and arrays["l0/success"].any()
    accepted = arrays["l0/success"]
    assert measured["l0, other images: median of pixels changed, of successes"] == np.median(changed[accepted])
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {f"stages-{name}.png" for name in ("l0", "linf-0.3", "linf-0.4")} <= names


@pytest.mark.slow
def test_a_killed_run_repeats_neither_training_nor_finished_attacks(smoke, monkeypatch):
    folder, rows = smoke.folder, smoke.rows
    (folder / "seed0" / "numbers.json").unlink()
    monkeypatch.setattr(attack, "one_chunk", lambda *args: pytest.fail("attacked again"))
    again = smoke.again()
    assert again == rows


def test_calibration_counts_the_judge_beside_people():
    """Of six images: unchanged and agreed on, changed and agreed on, silent, and three disagreements."""
    images = np.arange(6, dtype=np.float32)[:, None, None, None] * np.ones((1, 28, 28, 1), np.float32) / 10
    labels, human = np.int32([0, 0, 0, 0, 0, 0]), np.int32([0, 1, 1, 1, 0, 1])
    seen = jnp.array([0, 1, -1, 0, 2, 2])
    of_set = HumanLabelled(images, human, 0 * images, labels, np.arange(6, dtype=np.int32), "linf", 0.3)
    found = judges.calibration(lambda x: seen[(10 * x[:, 0, 0, 0]).round().astype(int)], {"set": of_set})["set"]
    assert found["agrees"] == (2 / 6, *wilson(2, 6))
    assert found["silent"] == (1 / 6, *wilson(1, 6))
    assert found["agrees where changed"] == (1 / 4, *wilson(1, 4))
    assert found["changed"] == (3 / 6, *wilson(3, 6))
    assert found["right where it says changed"] == (1 / 3, *wilson(1, 3))
    assert found["people"] == 4 / 6
    silent = judges.calibration(lambda x: jnp.full(len(x), -1), {"set": of_set})["set"]
    assert silent["right where it says changed"] is None and silent["silent"][0] == 1


def test_voters_witness_and_bank_share_no_image():
    data = Dataset(np.zeros((10, 8, 8, 1), np.uint8), np.arange(10, dtype=np.int32), 10, 256)
    config = judges.Settings(train_size=3)
    parts = [judges.part(data, config, number).labels.tolist() for number in range(3)]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    with pytest.raises(ValueError, match="less than half of 10; got 5"):
        judges.part(data, dataclasses.replace(config, train_size=5), 0)


def test_the_papers_images_come_first_and_no_image_twice():
    config = dataclasses.replace(attack.PRESETS["smoke"], others=3)
    data = Dataset(np.zeros((9, 8, 8, 1), np.uint8), np.arange(9, dtype=np.int32), 10, 256)
    images = np.zeros((2, 28, 28, 1), np.float32)
    human = HumanLabelled(images, np.int32([1, 2]), images, np.int32([1, 0]), np.int32([4, 1]), "l0", None)
    assert attack.queries(config, data, {"l0": human}).tolist() == [4, 1, 0, 2, 3]
    assert attack.queries(config, data, None).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"train_size": 900}, "less than half of 1437; got 900"), ({"voters": ("RNN",)}, "models must be some of CNN")],
)
def test_bad_settings_of_the_judge_are_refused(changes, message, tmp_path):
    config = dataclasses.replace(attack.PRESETS["smoke"], **changes)
    with pytest.raises(ValueError, match=message):
        attack.run(config, tmp_path)
    assert not list(tmp_path.rglob("*.npz"))
