"""Certified, and wrong: the smoke run, the schedules of its training, and that a broken certificate ends the run."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.invariance_tradeoffs import certified, certified_measures, certified_networks
from invjax import bounds
from invjax.data import HumanLabelled
from invjax.evaluation import Curve, wilson

SMOKE = certified.PRESETS["smoke"]


def moved(by, labels, human):
    """Images of one gray, away from black originals by as much as `by` says."""
    images = np.ones((len(by), 28, 28, 1), np.float32) * np.float32(by)[:, None, None, None]
    labels, human = np.int32(labels), np.int32(human)
    return HumanLabelled(images, human, 0 * images, labels, np.arange(len(by), dtype=np.int32), "linf", 0.4)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, shared_data):
    folder = tmp_path_factory.mktemp("certified")
    config = dataclasses.replace(SMOKE, data_dir=str(shared_data))
    rows = common.execute(certified.EXPERIMENT, "smoke", config, folder)
    return config, folder, {row.name: row for row in rows}


def test_the_smoke_network_is_certified_below_what_attacks_leave(smoke):
    _, folder, table = smoke
    kept = common.read_arrays(folder / "arrays.npz")
    for attack in ("pgd", "ensemble"):
        size = len(kept[attack])
        for eps in (0.1, 0.4):
            assert not ((kept["certified"][:size] > eps) & (kept[attack] <= eps)).any()
    accuracies = [table[f"{what}, linf 0.1"].measured for what in ("certified accuracy", "accuracy under PGD")]
    assert 30 < accuracies[0] <= accuracies[1] <= table["clean accuracy"].measured
    assert table["certified accuracy, linf 0.1"].measured == 100 * (kept["certified"] > 0.1).mean()
    below, between, above = (
        table[f"{what}, linf 0.1, 20 images"].measured
        for what in ("certified accuracy", "accuracy under the standard ensemble", "accuracy under PGD")
    )
    assert below <= between and below <= above
    assert {"sandwich", "sandwich-ensemble"} <= {path.stem for path in (folder / "figures").glob("*.png")}


def test_the_table_quotes_the_paper_where_it_has_numbers(smoke):
    _, _, table = smoke
    published = {name: row.published for name, row in table.items() if row.published is not None}
    assert published == {
        "certified accuracy, linf 0.4": 87,
        "linf 0.4, automated: gives the original's label": 96,
        "linf 0.4, automated: agrees with people": 63,
        "linf 0.4, by hand: agrees with people": 12,
    }
    people = table["linf 0.4, by hand: agrees with people where these see another class"]
    low, high = (100 * end for end in wilson(people.measured / 100 * 44, 44))
    assert people.differs == f"95 % interval {low:.0f} to {high:.0f}, 44 images"


def test_a_finished_run_draws_again_without_training(smoke, monkeypatch):
    config, folder, table = smoke
    monkeypatch.setattr(certified, "one_network", lambda *args: pytest.fail("trained again"))
    (folder / "figures" / "sandwich.png").unlink()
    again = common.execute(certified.EXPERIMENT, "smoke", config, folder)
    assert {row.name: row for row in again} == table and (folder / "figures" / "sandwich.png").exists()
    assert json.loads((folder / "config.json").read_text())["train_eps"] == 0.1


def test_without_the_human_labels_the_default_stops_at_once(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit, match="human-labelled invariance examples were not found"):
        common.main(certified.EXPERIMENT, ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "exact"}, "method must be one of ibp, crown-ibp, crown; got 'exact'"),
        ({"epsilons": (0.0, 0.4)}, "epsilons must be radii above 0"),
        ({"ramp_epochs": 6}, "must not be more than epochs=6 together"),
        ({"ramp_epochs": -1}, "ramp_epochs must not be negative"),
    ],
)
def test_bad_settings_are_refused_before_any_work(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        certified.run(dataclasses.replace(SMOKE, data_dir="/nowhere", **changes), tmp_path)


@pytest.mark.parametrize("size", [4, 2])
def test_a_certified_image_that_falls_ends_the_run(size):
    grid = np.array([0.0, 0.1, 0.4])
    proven = Curve(grid, np.array([0.4, np.inf, 0.0, 0.1]))
    fine = Curve(np.array([0.0, 0.2, 0.4]), np.array([0.2, np.inf, 0.0, 0.4])[:size])
    certified_measures.check_sandwich(proven, fine)  # the radius 0.2 was not certified
    broken = fine._replace(broken_at=np.array([0.4, 0.4, 0.0, 0.4])[:size])
    with pytest.raises(RuntimeError, match=r"images \[1\] are certified at eps 0\.4"):
        certified_measures.check_sandwich(proven, broken)


def brightness(offset, x):
    """Class 1 above a mean of 0.5, else class 0; `offset` moves that."""
    bright = 4 * (x.mean((1, 2, 3)) - 0.5) + offset
    return bright[:, None] * jnp.array([[-1.0, 1.0] + 8 * [0.0]]) - jnp.array([[0.0, 0.0] + 8 * [9.0]])


def test_an_image_of_the_paper_lies_in_the_ball_only_at_its_own_distance():
    """103 / 255 is beyond 0.4: an original that is certified at 0.4 alone proves nothing of it."""
    of_set = moved([103 / 255, 0.2], labels=[0, 0], human=[1, 1])
    assert certified_measures.reach(of_set) == pytest.approx(103 / 255, abs=2e-6)
    edge = np.float32(4 * (0.5 - 0.402))  # the decision changes at a mean of 0.402
    found = certified_measures.beside_people(brightness, edge, {"set": of_set}, "ibp")
    assert found["seen set"].tolist() == [1, 0] and found["certified set"].tolist() == [False, False]
    found = certified_measures.beside_people(brightness, np.float32(0), {"set": of_set}, "ibp")
    assert found["seen set"].tolist() == [0, 0] and found["certified set"].tolist() == [True, True]
    assert certified_measures.counts([found], of_set, "set") == {
        "originals": [2], "people": [0], "people, changed": [0], "certified": [2]
    }  # fmt: skip


def test_a_certificate_that_an_image_of_the_paper_breaks_ends_the_run(monkeypatch):
    of_set = moved([103 / 255], labels=[0], human=[1])
    module = sys.modules["invjax.evaluation.certificate"]
    monkeypatch.setattr(module, "certified", lambda margins, slack: jnp.ones(len(margins), bool))
    with pytest.raises(RuntimeError, match=r"images \[0\] of 'set' are classified otherwise than was certified"):
        certified_measures.beside_people(brightness, np.float32(4 * 0.2), {"set": of_set}, "ibp")


def test_agreement_counts_unchanged_images_only_where_all_images_count():
    of_set = moved([0.1] * 4, labels=[0, 0, 0, 0], human=[1, 1, 0, 2])
    run = {"seen set": np.array([1, 0, 0, 0]), "certified set": np.array([False, True, True, False])}
    assert certified_measures.counts([run], of_set, "set") == {
        "originals": [3], "people": [2], "people, changed": [1], "certified": [1]
    }  # fmt: skip


def test_the_ensemble_attacks_what_still_stands():
    seen = []

    class Found:
        def __init__(self, success):
            self.success = success

    def attack(params, key, images, labels, *, eps):
        seen.append((eps, len(images)))
        return Found(images[:, 0] <= eps)

    falls_at = np.array([[0.25], [0.0], [9.0], [0.1]], np.float32)
    found = certified_measures.by_ensemble(attack, None, 0, falls_at, np.zeros(4, np.int32), (0.4, 0.2))
    assert seen == [(0.0, 4), (0.2, 3), (0.4, 2)]
    np.testing.assert_array_equal(found.broken_at, [0.4, 0, np.inf, 0.2])


def test_radius_and_shares_grow_and_fall_in_their_epochs():
    config = dataclasses.replace(
        SMOKE, epochs=10, natural_epochs=1, ramp_epochs=5, train_eps=0.4, natural=0.5, crown=1.0, learning_rate=0.01
    )
    found = certified_networks.schedules(config, per_epoch=10)
    steps = [0, 10, 35, 60, 99]
    np.testing.assert_allclose([found.eps(step) for step in steps], [0, 0, 0.2, 0.4, 0.4], atol=1e-6)
    np.testing.assert_allclose([found.natural(step) for step in steps], [1, 1, 0.75, 0.5, 0.5])
    np.testing.assert_allclose([found.crown(step) for step in steps], [1, 1, 0.5, 0, 0], atol=1e-6)
    rates = [float(found.learning_rate(step)) for step in steps]
    np.testing.assert_allclose(rates[:4], [0.001, 0.01, 0.01, 0.01], rtol=1e-5)
    assert rates[4] < 1e-4
    assert certified_networks.schedules(SMOKE, 10).crown == 0.0


def test_networks_start_with_bounds_that_neither_grow_nor_vanish():
    net = certified_networks.network("tiny CNN")
    x = jnp.full((2, 28, 28, 1), 0.5)

    @jax.jit
    def width(key):
        params = net.init(key, x)
        box = bounds.ibp(lambda x: net.apply(params, x), bounds.linf_box(x, 0.1))
        return (box.upper - box.lower).mean()

    assert 0.2 < float(width(jax.random.key(0))) < 5  # of pixels that are all uncertain between 0 and 1


def test_what_is_black_or_white_is_certain_within_0_4_and_gray_is_not():
    rounding = certified_networks.network("tiny CNN").init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["rounding"]
    box = bounds.linf_box(jnp.array([[0.0, 1.0, 0.5, 0.9]]), 0.4)
    found = bounds.ibp(lambda x: certified_networks.rounded(rounding, x), box)
    np.testing.assert_allclose(found.lower, [[0, 1, 0, 0.5]], atol=1e-5)
    np.testing.assert_allclose(found.upper, [[0, 1, 1, 1]], atol=1e-5)


@pytest.mark.parametrize(("name", "dense"), [("tiny CNN", 7 * 7 * 8), ("large CNN", 14 * 14 * 128)])
def test_strides_halve_the_sides(name, dense):
    net = certified_networks.network(name)
    x = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    assert params["layers"][-2]["kernel"].shape[0] == dense and jax.eval_shape(net.apply, params, x).shape == (2, 10)
