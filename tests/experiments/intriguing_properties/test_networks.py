"""Training that stops on the way, and settings that are refused."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.intriguing_properties import (
    entropy_regularisation,
    linear_response,
    logit_gaps,
    networks,
    power_laws,
)
from invjax.data import load
from invjax.models import mlp


@pytest.fixture(scope="module")
def digits():
    return load("digits", "train"), load("digits", "test")


def test_an_interrupted_training_equals_an_uninterrupted_one(digits, tmp_path):
    config = dataclasses.replace(networks.Settings("digits", epochs=2, batch_size=256), seeds=(0,))
    net = mlp(10, ())
    networks.train(config, net, 0, digits[0], tmp_path / "a", until=1)
    stopped = networks.train(config, net, 0, digits[0], tmp_path / "a", until=2)
    whole = networks.train(config, net, 0, digits[0], tmp_path / "b")
    start = networks.train(config, net, 0, digits[0], tmp_path / "c", until=0)
    jax.tree.map(np.testing.assert_array_equal, stopped, whole)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (whole, start)), strict=True))


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        (power_laws, {"models": ("VGG",)}, "models must be some of"),
        (linear_response, {"models": ()}, "models must be some of"),
        (entropy_regularisation, {"models": ("perfect",)}, "models must be some of"),
        (logit_gaps, {"at_epochs": (0, 9)}, "at_epochs must ascend"),
        (logit_gaps, {"ranks": (1, 2)}, "ranks must lie in"),
    ],
    ids=["power laws", "linear response", "entropy", "epochs", "ranks"],
)
def test_bad_settings_are_refused(experiment, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        experiment.run(dataclasses.replace(experiment.PRESETS["smoke"], **changes), tmp_path)
