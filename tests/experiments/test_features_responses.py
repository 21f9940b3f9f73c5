"""The experiments that question the paper on features: smoke runs, and their parts."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import common
from experiments.features_not_bugs import bugs_too, leakage, learning_from_errors, networks, transfer
from invjax import features


def smoke(experiment, folder, **changes):
    config = dataclasses.replace(experiment.PRESETS["smoke"], **changes)
    rows = common.execute(experiment.EXPERIMENT, "smoke", config, folder)
    return {row.name: row.measured for row in rows}


def drawn(folder):
    pictures = list((folder / "figures").glob("*.png"))
    assert all(picture.stat().st_size > 5000 for picture in pictures)
    return {picture.stem for picture in pictures}


def resumes(experiment, folder, measured, monkeypatch):
    monkeypatch.setattr(networks, "train", lambda *args, **options: pytest.fail("trained again"))
    return smoke(experiment, folder) == measured


def test_d_rand_leaks_and_d_det_does_not(tmp_path, monkeypatch):
    measured = smoke(leakage, tmp_path)
    head = "linear head on robust linear features, trained on {}: test accuracy"
    assert measured[head.format("D_rand")] > 50 and measured[head.format("D")] > 85
    assert measured[head.format("D_det")] < 15 < measured["network trained on D_rand: test accuracy"]
    robust, standard = (
        measured[f"model of the {kind} linear features: accuracy under PGD, eps 0.8"] for kind in ("robust", "standard")
    )
    assert robust > standard + 15
    assert drawn(tmp_path) == {"leakage"} and resumes(leakage, tmp_path, measured, monkeypatch)


def test_transfer_is_measured_for_each_architecture(tmp_path, monkeypatch):
    measured = smoke(transfer, tmp_path)
    for goal, figure in transfer.GOALS.items():
        name = f"rank correlation of transfer and accuracy learnt from D_det, {goal} ({figure})"
        rates = [measured[f"{net}: {goal} transfer"] for net in ("linear", "MLP", "deep MLP")]
        learnt = [measured[f"{net}: accuracy learnt from D_det"] for net in ("linear", "MLP", "deep MLP")]
        assert measured[name] == pytest.approx(np.corrcoef(np.argsort(np.argsort([rates, learnt])))[0, 1])
        assert min(rates) > 10
    assert measured["MLP: untargeted transfer"] > measured["MLP: targeted transfer"]
    assert drawn(tmp_path) == {"transfer"} and resumes(transfer, tmp_path, measured, monkeypatch)


@pytest.mark.parametrize(
    ("goal", "before", "after", "share"),
    [
        ("untargeted", [0, 1, 2, 3, 9, 9], [0, 5, 2, 7, 4, 8], 50.0),  # two of the four that were right
        ("targeted", [1, 0, 0, 0, 0, 0], [0, 2, 3, 0, 0, 0], 40.0),  # two of the five that were not there yet
    ],
)
def test_transfer_counts_those_that_could_follow(goal, before, after, share, monkeypatch):
    config = dataclasses.replace(transfer.PRESETS["smoke"], network="linear", images=6, eps=100.0, eval_steps=20)
    net, labels = networks.network(config), np.arange(6)
    x = np.random.default_rng(0).uniform(0.4, 0.6, (6, 8, 8, 1)).astype(np.float32)
    source = net.init(jax.random.key(0), x)
    script, seen = [np.array(before), np.array(after)], []
    monkeypatch.setattr(networks, "predictions", lambda net, params, x: (seen.append(x), script.pop(0))[1])
    assert transfer.transferred(config, goal, source, {"MLP": None}, (x, labels), 0) == {"MLP": pytest.approx(share)}
    np.testing.assert_array_equal(seen[0], x)
    reached = np.asarray(net.apply(source, seen[1])).argmax(1)
    assert (reached == (labels + 1) % 10).all() if goal == "targeted" else (reached != labels).all()


def published(experiment, preset, *numbers):
    rows = experiment.rows(experiment.PRESETS[preset], *([n] for n in numbers))
    return {row.name: row.published for row in rows if row.published is not None}


def test_published_numbers_stand_on_their_rows():
    found = {name: dict.fromkeys(leakage.SETS, 1.0) for name in leakage.PUBLISHED}
    attacked = {leakage.ROBUST: 1.0, leakage.STANDARD: 1.0}
    assert published(leakage, "default", {"accuracy": found, "attacked": attacked}) == {
        "linear head on robust linear features, trained on D_det: test accuracy": 6.81,
        "linear head on robust linear features, trained on D_rand: test accuracy": 23.5,
        "network trained on D_det: test accuracy": 43.7,
        "network trained on D_rand: test accuracy": 63.3,
        "network trained on D: test accuracy": 95.3,
    }
    of_one = dict.fromkeys(("reached", "transfer", "learnt", "next"), 1.0)
    config, keys = bugs_too.PRESETS["paper"], ("rule", "after one epoch", "at the end")
    squares = {key: [1.0] * len(config.square_epsilons) for key in keys} | {f"{key}, by heart": 1.0 for key in keys}
    assert published(bugs_too, "paper", {bugs_too.PLAIN: of_one, bugs_too.ALONE: of_one}, squares) == {
        "trained on D_det by non-transferable: test accuracy": 2.8,
        "trained on D_det by PGD: test accuracy": 33.2,
        "trained on D_det by non-transferable: test accuracy on the next class": 70.8,
        "trained on D_det by PGD: test accuracy on the next class": 27.3,
        "D_det by non-transferable: another model sees the target": 1.7,
        "D_det by PGD: another model sees the target": 82.5,
        "D_det by non-transferable: its model sees the target": 99.3,
        "D_det by PGD: its model sees the target": 99.9,
    }
    keys = ("learnt", "first", "errors", "pupil", "teacher", "pupil agrees", "commonest", "foreign")
    assert published(learning_from_errors, "paper", dict.fromkeys(keys, 1)) == {
        "learnt from errors alone: test accuracy": 49.7,
        "the network that made them: test accuracy": 63.1,
        "training images that it gets wrong": 18_768,
    }
    assert published(learning_from_errors, "default", dict.fromkeys(keys, 1)) == {
        "learnt from answers on images of another kind: test accuracy": 91.04,
        "the network that gave them: test accuracy": 99.1,
    }
    assert not published(leakage, "planted", {"accuracy": found, "attacked": attacked})


def test_rank_correlations_know_order_ties_and_constants():
    assert transfer.rank_correlation([1, 2, 30], [0.1, 0.2, 0.3]) == pytest.approx(1)
    assert transfer.rank_correlation([3, 2, 1], [1, 2, 4]) == pytest.approx(-1)
    assert transfer.rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(np.sqrt(3) / 2)
    assert transfer.rank_correlation([1, 1, 1], [1, 2, 3]) == 0


def test_changes_that_others_withstand_teach_nothing_and_wrong_squares_are_known_by_heart(tmp_path, monkeypatch):
    measured = smoke(bugs_too, tmp_path)
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
    assert drawn(tmp_path) == {"bugs", "images", "squares"}
    made = features.load(tmp_path / "seed0" / "non-transferable" / "data.npz")
    assert (made.details["distance"] <= 0.8 + 1e-6).all()
    assert resumes(bugs_too, tmp_path, measured, monkeypatch)


def test_errors_alone_teach_more_than_chance(tmp_path, monkeypatch):
    measured = smoke(learning_from_errors, tmp_path)
    assert measured["learnt from errors alone: test accuracy"] > 20
    assert measured["training images that it gets wrong"] > 50
    assert measured["the network that gave them: test accuracy"] > 90
    assert measured["learnt from answers on images of another kind: test accuracy"] > 20
    assert drawn(tmp_path) == {"accuracy", "images"}
    assert resumes(learning_from_errors, tmp_path, measured, monkeypatch)


def test_images_of_another_kind_have_the_shape_of_the_task(shared_data):
    config = dataclasses.replace(
        learning_from_errors.PRESETS["default"], data_dir=str(shared_data), foreign_size=3, foreign="mnist"
    )
    assert learning_from_errors.foreign_images(config, (32, 32, 3), 0).shape == (3, 32, 32, 3)
    small = dataclasses.replace(config, foreign="cifar10")
    found = learning_from_errors.foreign_images(small, (28, 28, 1), 0)
    assert found.shape == (3, 28, 28, 1) and 0 <= found.min() < found.max() <= 1


def test_a_class_without_images_is_black_in_the_figure():
    images = np.arange(1, 4, dtype=np.float32).reshape(3, 1, 1, 1)
    found = learning_from_errors.one_a_class(images, np.array([7, 2, 7]))
    assert found[:, 0, 0, 0].tolist() == [0, 0, 2, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        (leakage, {"eps": 0.0}, "eps must be positive"),
        (transfer, {"targets": ("linear", "MLP")}, "targets must be at least three of"),
        (transfer, {"targets": ("linear", "MLP", "VGG")}, "targets must be at least three of"),
        (bugs_too, {"ensemble": 0}, "ensemble must be at least 1"),
        (bugs_too, {"square_epsilons": ()}, "square_epsilons must ascend"),
        (learning_from_errors, {"first_epochs": 0.0}, "first_epochs and foreign_size must be positive"),
        (learning_from_errors, {"first_epochs": 1.5}, "first_epochs must be whole, or a part of one"),
        (learning_from_errors, {"dataset": "mnist", "foreign": "mnist"}, "both are mnist"),
    ],
)
def test_bad_settings_are_refused(experiment, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        experiment.run(dataclasses.replace(experiment.PRESETS["smoke"], **changes), tmp_path)
