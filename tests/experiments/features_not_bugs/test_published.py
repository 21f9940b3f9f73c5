"""Published numbers stand on their rows, and settings that are refused."""

import dataclasses

import pytest

from experiments.features_not_bugs import (
    bugs_too,
    leakage,
    learning_from_errors,
    networks,
    nonrobust_dataset,
    robust_dataset,
    transfer,
)

LEARNT = {"accuracy": 1, "next": 1, "reached": 1, "transfer": 1, "attacked": {"PGD": 1}}


def test_numbers_of_relabelled_data_sets(published_rows):
    config = nonrobust_dataset.PRESETS["default"]
    assert published_rows(nonrobust_dataset, config, LEARNT) == {
        "trained on D_det of the standard model: test accuracy": 43.7,
        "trained on D_det of the standard model: test accuracy on the next class": 16.2,
        "trained on D_rand of the standard model: test accuracy": 63.3,
        "standard model: test accuracy": 95.3,
        "trained on D_det of the robust model: test accuracy": 5.8,
        "trained on D_det of the robust model: test accuracy on the next class": 65.5,
        "trained on D_rand of the robust model: test accuracy": 25.2,
    }
    assert not published_rows(nonrobust_dataset, nonrobust_dataset.PRESETS["planted"], LEARNT)
    plain = dataclasses.replace(config, data=networks.Data("mnist"))
    assert not published_rows(nonrobust_dataset, plain, LEARNT)


def test_numbers_of_the_leakage_probe(published_rows):
    names = leakage.NETWORK, leakage.ROBUST, leakage.STANDARD
    numbers = {key: 1 for name in names for key in (name, f"{name}, attacked")}
    assert published_rows(leakage, leakage.PRESETS["default"], numbers) == {
        "linear head on robust linear features, trained on D_det: test accuracy": 6.81,
        "linear head on robust linear features, trained on D_rand: test accuracy": 23.5,
        "network trained on D_det: test accuracy": 43.7,
        "network trained on D_rand: test accuracy": 63.3,
        "network trained on D: test accuracy": 95.3,
    }
    assert not published_rows(leakage, leakage.PRESETS["planted"], numbers)


def test_numbers_of_non_transferable_changes(published_rows):
    config = bugs_too.PRESETS["paper"]
    accuracies = [1] * len(config.square_epsilons)
    numbers = LEARNT | {"rule": accuracies, "network": accuracies, "by_heart": 1}
    assert published_rows(bugs_too, config, numbers) == {
        "trained on D_det by non-transferable: test accuracy": 2.8,
        "trained on D_det by PGD: test accuracy": 33.2,
        "trained on D_det by non-transferable: test accuracy on the next class": 70.8,
        "trained on D_det by PGD: test accuracy on the next class": 27.3,
        "D_det by non-transferable: another model sees the target": 1.7,
        "D_det by PGD: another model sees the target": 82.5,
        "D_det by non-transferable: its model sees the target": 99.3,
        "D_det by PGD: its model sees the target": 99.9,
    }
    assert not published_rows(bugs_too, bugs_too.PRESETS["default"], numbers)


def test_numbers_of_wrong_labels(published_rows):
    numbers = {"teacher": 1, "pupil": 1, "agrees": 1, "commonest": 1, "images": 1}
    assert published_rows(learning_from_errors, learning_from_errors.PRESETS["paper"], numbers) == {
        "learnt from errors alone: test accuracy": 49.7,
        "the network that made them: test accuracy": 63.1,
        "training images that it gets wrong": 18_768,
    }
    assert published_rows(learning_from_errors, learning_from_errors.PRESETS["default"], numbers) == {
        "learnt from answers on images of another kind: test accuracy": 91.04,
        "the network that gave them: test accuracy": 99.1,
    }


def test_presets_run_no_more_than_their_tables_show():
    assert not any(config.ensemble_images for config in leakage.PRESETS.values())
    assert bugs_too.PRESETS["paper"].images == 500


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        (robust_dataset, {"starts": ()}, "starts must be some of images, noise"),
        (robust_dataset, {"epsilons": (0.5, 0.1)}, "epsilons must ascend"),
        (nonrobust_dataset, {"eps": 0.0}, "eps must be positive"),
        (leakage, {"eps": 0.0}, "eps must be positive"),
        (transfer, {"targets": ("linear", "MLP")}, "targets must be at least three of"),
        (transfer, {"targets": ("linear", "MLP", "VGG")}, "targets must be at least three of"),
        (bugs_too, {"ensemble": 0}, "ensemble must be at least 1"),
        (bugs_too, {"square_epsilons": ()}, "square_epsilons must ascend"),
        (bugs_too, {"square_epsilons": (0.2, 0.1)}, "square_epsilons must ascend"),
        (learning_from_errors, {"first_epochs": 0.0}, "first_epochs and foreign_size must be positive"),
        (learning_from_errors, {"first_epochs": 1.5}, "first_epochs must be whole, or a part of one"),
        (learning_from_errors, {"foreign": "mnist", "data": networks.Data("mnist")}, "both are mnist"),
    ],
)
def test_bad_settings_are_refused(experiment, changes, message):
    with pytest.raises(ValueError, match=message):
        experiment.trials(dataclasses.replace(experiment.PRESETS["smoke"], **changes))
