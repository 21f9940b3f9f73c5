"""Certified, and wrong: certificates below attacks, beside people, and checks that end the run."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.common._trials import Trial
from experiments.invariance_tradeoffs import certified, certified_measures
from experiments.invariance_tradeoffs.pretrained import Pretrained
from invjax.data import Dataset, HumanLabelled, read_arrays
from invjax.evaluation import Curve, wilson


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


def moved(by, labels, human):
    """Images of one gray, away from black originals by as much as `by` says."""
    images = np.ones((len(by), 28, 28, 1), np.float32) * np.float32(by)[:, None, None, None]
    labels, human = np.int32(labels), np.int32(human)
    return HumanLabelled(images, human, 0 * images, labels, np.arange(len(by), dtype=np.int32), "linf", 0.4)


@pytest.mark.slow
def test_the_certificates_of_the_smoke_network_lie_below_the_attacks(smoke):
    table = smoke.table
    kept = read_arrays(smoke.folder / "trials" / "seed=0" / "arrays.npz")
    for attack in ("pgd", "ensemble"):
        size = len(kept[attack])
        for eps in (0.1, 0.4):
            assert not ((kept["certified"][:size] > eps) & (kept[attack] <= eps)).any()
    accuracies = [table[f"{what}, linf 0.1"].measured for what in ("certified accuracy", "accuracy under PGD")]
    assert 30 < accuracies[0] <= accuracies[1] <= table["clean accuracy"].measured
    assert table["certified accuracy, linf 0.1"].measured == 100 * (kept["certified"] > 0.1).mean()
    below, between, above = (
        table[f"{what}, linf 0.1, 10 images"].measured
        for what in ("certified accuracy", "accuracy under the standard ensemble", "accuracy under PGD")
    )
    assert below <= between and below <= above
    assert {"sandwich", "sandwich-ensemble"} <= smoke.pictures


@pytest.mark.slow
def test_the_table_has_the_numbers_of_the_paper(smoke):
    table = smoke.table
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


def test_without_the_human_labels_the_default_stops_at_once(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit, match="human-labelled invariance examples were not found"):
        common.main(certified.EXPERIMENT, ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--method", "exact"], None),
        (["--epsilons", "0", "0.4"], "epsilons must be radii above 0"),
        (["--ramp-epochs", "6"], "together not more than epochs=4; got 1 and 6"),
        (["--ramp-epochs", "-1"], "must not be negative"),
    ],
)
def test_bad_settings_are_refused_before_any_work(changes, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        common.main(certified.EXPERIMENT, ["smoke", *changes, "--data-dir", "/nowhere", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_trials_with_different_released_networks_name_the_fix(tmp_path):
    def results(*released):
        trials = [Trial({"seed": seed}, tmp_path / str(seed)) for seed in range(len(released))]
        for trial, networks in zip(trials, released, strict=True):
            trial.folder.mkdir(exist_ok=True)
            (trial.folder / "numbers.json").write_text(json.dumps({"released": networks}))
        return common.Results(trials)

    one, other = {"net": {"ibp": 0.5, "pgd": 0.9}}, {"net": {"ibp": 0.4, "pgd": 0.9}}
    assert certified.of_released(results(one, one)) == one and certified.of_released(results({}, {})) == {}
    for released, names in (((one, {}), "net; none"), (({}, one), "none; net"), ((one, one, other), "net; net")):
        with pytest.raises(ValueError, match=rf"\({names}\): remove numbers\.json in .*--pretrained-dir of the other"):
            certified.of_released(results(*released))


def test_other_released_files_are_measured_anew(monkeypatch, tmp_path):
    monkeypatch.setattr(certified.certified_networks, "trained", lambda *args, **rest: None)
    monkeypatch.setattr(certified.measures, "curves", lambda *args: {
        name: Curve(np.zeros(1), np.zeros(1)) for name in ("certified", "pgd", "ensemble")
    })  # fmt: skip
    measured = iter([({"pgd": 0.1}, {}), ({"pgd": 0.2}, {})])
    monkeypatch.setattr(certified.measures, "of_released", lambda *args: next(measured))
    test = Dataset(np.zeros((1, 28, 28, 1), np.uint8), np.zeros(1, np.int32), 10, 256)
    found = []
    for digest in ("a", "b", "a"):
        data = test, test, {}, {"net": Pretrained(brightness, digest=digest)}
        numbers, _ = certified.trial(certified.PRESETS["smoke"], data, seed=0, folder=tmp_path, shared=tmp_path)
        found.append(numbers["released"]["net"]["pgd"])
    assert found == [0.1, 0.2, 0.1]


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
    numbers, _ = certified_measures.beside_people(brightness, edge, of_set, "ibp")
    assert numbers["originals"] == (1, 2) and numbers["certified"] == (0, 2)
    numbers, wrong = certified_measures.beside_people(brightness, np.float32(0), of_set, "ibp")
    assert numbers["originals"] == numbers["certified"] == (2, 2) and numbers["people"] == (0, 2)
    np.testing.assert_array_equal(wrong["image"], of_set.images)
    assert wrong["label"].tolist() == [0, 0] and wrong["human"].tolist() == [1, 1]


def test_a_certificate_that_an_image_of_the_paper_breaks_ends_the_run(monkeypatch):
    of_set = moved([103 / 255], labels=[0], human=[1])
    module = sys.modules["invjax.evaluation._certificate"]
    monkeypatch.setattr(module, "certified", lambda margins, slack: jnp.ones(len(margins), bool))
    with pytest.raises(RuntimeError, match=r"images \[0\] are classified otherwise than was certified"):
        certified_measures.beside_people(brightness, np.float32(4 * 0.2), of_set, "ibp")


def test_agreement_counts_unchanged_images_only_where_all_images_count():
    of_set = moved([0.1, 0.9, 0.1, 0.1], labels=[0, 0, 0, 0], human=[1, 1, 0, 2])  # a bright image is of class 1
    numbers, wrong = certified_measures.beside_people(brightness, np.float32(0), of_set, "ibp")
    assert numbers["originals"] == (3, 4) and numbers["people"] == (2, 4)
    assert numbers["people, changed"] == (1, 3) and numbers["certified"] == (0, 3) and not len(wrong["label"])


def test_the_ensemble_attacks_images_that_are_not_broken(monkeypatch):
    seen = []

    class Found:
        def __init__(self, broken):
            self.broken = broken

    def attack(apply_fn, params, data, *, eps, **settings):
        seen.append((eps, len(data[0])))
        return Found(data[0][:, 0] <= eps)

    falls_at = np.array([[0.25], [0.0], [9.0], [0.1]], np.float32)
    monkeypatch.setattr(common, "ensemble", attack)
    settings = certified_measures.Settings(epsilons=(0.4, 0.2))
    found = certified_measures.by_ensemble(settings, None, None, (falls_at, np.zeros(4, np.int32)), 0)
    assert seen == [(0.0, 4), (0.2, 3), (0.4, 2)]
    np.testing.assert_array_equal(found.broken_at, [0.4, 0, np.inf, 0.2])
