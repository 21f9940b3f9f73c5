"""Published numbers stand on their rows, and settings that are refused."""

import dataclasses

import pytest

from experiments.features_not_bugs import bugs_too, leakage, learning_from_errors, transfer


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
