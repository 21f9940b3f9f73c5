"""The invariance attacks: what they change, the calibration of the judge, and refusals."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.invariance_tradeoffs import attack, judges
from invjax.data import Dataset, HumanLabelled, read_arrays
from invjax.evaluation import wilson


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


def kept(smoke, name):
    return read_arrays(smoke.folder / "trials" / f"attack={name},seed=0" / "arrays.npz")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "eps"), [("linf-0.3", 0.3), ("linf-0.4", 0.4)])
def test_linf_attacks_stay_within_their_balls(smoke, name, eps):
    arrays = kept(smoke, name)
    assert np.abs(arrays["x"] - arrays["start"]).max() <= eps + 1e-6
    measured = smoke.measured[f"{name.replace('-', ' ')}, other images: success"]
    assert measured == pytest.approx(100 * arrays["success"].mean())
    assert f"stages-{name}" in smoke.pictures


@pytest.mark.slow
def test_the_l0_attack_counts_the_pixels_that_it_changes(smoke):
    arrays = kept(smoke, "l0")
    assert set(np.unique(arrays["start"])) <= {0, 1}
    changed = ((arrays["start"] > 0.5) != (arrays["x"] > 0.5)).sum((1, 2, 3))
    np.testing.assert_array_equal(changed, arrays["distance"])
    accepted = arrays["success"]
    assert (arrays["target"] != arrays["labels"]).all() and accepted.any()
    assert (arrays["votes"][accepted] == 2).all()  # two voters, and both must agree
    assert smoke.measured["l0, other images: median of pixels changed, of successes"] == np.median(changed[accepted])
    assert {"stages-l0", "accepted-l0"} <= smoke.pictures


@pytest.mark.slow
def test_a_killed_run_repeats_neither_training_nor_finished_attacks(smoke):
    trial = smoke.folder / "trials" / "attack=l0,seed=0"
    first, last = trial / "images-00000", trial / "images-00004"
    (trial / "numbers.json").unlink()
    shutil.rmtree(last)
    done = [path for folder in (first, smoke.folder / "shared") for path in folder.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in done}
    assert any(path.name == "metrics.jsonl" for path in done)
    assert smoke.again() == smoke.rows and (last / "arrays.npz").exists()
    assert {path: path.stat().st_mtime_ns for path in done} == before


def test_calibration_counts_the_judge_beside_people():
    """Of six images: unchanged and agreed on, changed and agreed on, silent, and three disagreements."""
    images = np.arange(6, dtype=np.float32)[:, None, None, None] * np.ones((1, 28, 28, 1), np.float32) / 10
    labels, human = np.int32([0, 0, 0, 0, 0, 0]), np.int32([0, 1, 1, 1, 0, 1])
    seen = jnp.array([0, 1, -1, 0, 2, 2])
    of_set = HumanLabelled(images, human, 0 * images, labels, np.arange(6, dtype=np.int32), "linf", 0.3)
    assert judges.calibration(lambda x: seen[(10 * x[:, 0, 0, 0]).round().astype(int)], of_set) == {
        "sees another class": (3 / 6, *wilson(3, 6)),
        "sees what people see": (2 / 6, *wilson(2, 6)),
        "sees what people see, where that is another class": (1 / 4, *wilson(1, 4)),
        "is right where it sees another class": (1 / 3, *wilson(1, 3)),
        "says nothing": (1 / 6, *wilson(1, 6)),
    }
    silent = judges.calibration(lambda x: jnp.full(len(x), -1), of_set)
    assert silent["is right where it sees another class"] is None and silent["says nothing"][0] == 1


def digits(count):
    return Dataset(np.zeros((count, 8, 8, 1), np.uint8), np.arange(count, dtype=np.int32), 10, 256)


def test_voters_witness_and_bank_share_no_image():
    parts = [judges.part(digits(10), 3, number).labels.tolist() for number in range(3)]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    with pytest.raises(ValueError, match="less than half of 10; got 5"):
        judges.part(digits(10), 5, 0)


def test_the_papers_images_come_first_and_no_image_twice():
    images = np.zeros((2, 28, 28, 1), np.float32)
    human = HumanLabelled(images, np.int32([1, 2]), images, np.int32([1, 0]), np.int32([4, 1]), "l0", None)
    assert attack.queries(3, digits(9), {"l0": human}).tolist() == [4, 1, 0, 2, 3]
    assert attack.queries(3, digits(9), {}).tolist() == [0, 1, 2]


def test_successes_are_counted_where_there_are_any():
    arrays = {
        "success": np.array([True, False, True, True, False]),
        "distance": np.array([2.0, 9.0, 4.0, 3.0, 9.0]),
        "target": np.array([1, 2, 3, 4, 5]),
        "witness": np.array([1, 0, 0, 4, 5]),
    }
    assert attack.counts(arrays, slice(0, 4)) == {"images": 4, "hits": 3, "distance": 3.0, "witness": 2 / 3}
    assert attack.counts(arrays, slice(4, None)) == {"images": 1, "hits": 0, "distance": None, "witness": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [(["--train-size", "900"], "less than half of 1437; got 900"), (["--voters", "RNN"], None)],
)
def test_bad_settings_of_the_judge_are_refused(changes, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        common.main(attack.EXPERIMENT, ["smoke", *changes, "--out", str(tmp_path)])
    assert not list(tmp_path.rglob("*.npz"))
