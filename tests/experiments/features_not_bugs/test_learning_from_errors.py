"""Networks that learn from errors, or from answers on images of another kind."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.features_not_bugs import learning_from_errors, networks


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_errors_alone_teach_more_than_chance(smoke):
    measured = smoke.measured
    assert measured["learnt from errors alone: test accuracy"] > 20
    assert measured["training images that it gets wrong"] > 50
    assert measured["the network that gave them: test accuracy"] > 90
    assert measured["learnt from answers on images of another kind: test accuracy"] > 20
    assert smoke.pictures == {"accuracy", "images"}


@pytest.mark.slow  # decodes all images of two data sets
def test_images_of_another_kind_have_the_shape_of_the_task(shared_data):
    data = networks.Data(data_dir=str(shared_data))
    config = learning_from_errors.Config(data, foreign_size=3, foreign="mnist")
    assert learning_from_errors.foreign_images(config, (32, 32, 3), 0).shape == (3, 32, 32, 3)
    small = dataclasses.replace(config, foreign="cifar10")
    found = learning_from_errors.foreign_images(small, (28, 28, 1), 0)
    assert found.shape == (3, 28, 28, 1) and 0 <= found.min() < found.max() <= 1


def test_a_class_without_images_is_black_in_the_figure():
    images = np.arange(1, 4, dtype=np.float32).reshape(3, 1, 1, 1)
    found = learning_from_errors.one_a_class(images, np.array([7, 2, 7]))
    assert found[:, 0, 0, 0].tolist() == [0, 0, 2, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(("part", "images", "epochs"), [(2.0, 1437, 2), (1.0, 1437, 1), (0.1, 143, 1)])
def test_the_first_teacher_is_trained_briefly_and_its_pupil_sees_wrong_labels_only(part, images, epochs, monkeypatch):
    config = dataclasses.replace(learning_from_errors.PRESETS["smoke"], first_epochs=part)
    data, net, seen = config.data.load(), config.net(), []
    (train, labels), start = data[0], net.init(jax.random.key(0), data[0][0][:1])

    def untrained(config, data, *, epochs=None, **options):
        seen.append((data, epochs))
        return start

    monkeypatch.setattr(networks, "train", untrained)
    numbers, arrays = learning_from_errors.trial(config, data, arm="errors", seed=0, folder=Path("nowhere"))
    (brief, passes), (errors, others) = seen
    assert len(brief[1]) == images and passes == epochs and others is None
    wrong = np.asarray(net.apply(start, train)).argmax(1) != labels
    np.testing.assert_array_equal(errors[0], train[wrong])
    assert (errors[1] != labels[wrong]).all() and numbers["images"] == wrong.sum()
    shown = arrays["true"] >= 0
    assert shown.any() and (arrays["true"] != np.arange(10))[shown].all()
