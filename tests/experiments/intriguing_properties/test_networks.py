"""Training that stops on the way, and settings that are refused."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import common
from experiments.intriguing_properties import linear_response, logit_gaps, networks, power_laws
from invjax.losses import cross_entropy


@pytest.fixture(scope="module")
def digits():
    return common.Data("digits", train_size=512).load()[0]


@pytest.mark.slow
def test_an_interrupted_training_equals_an_uninterrupted_one(digits, tmp_path):
    net = networks.network(networks.Widths(), "linear")

    def train(folder, epochs=None):
        return networks.trained(
            net, networks.plain_loss(net), digits, common.Train(2, 256), 0, tmp_path / folder, epochs
        )

    train("a", 1)
    whole, start = train("b"), train("c", 0)
    jax.tree.map(np.testing.assert_array_equal, train("a", 2), whole)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (whole, start)), strict=True))
    losses = [cross_entropy(net.apply(p, networks.images_of(digits)), digits.labels).mean() for p in (start, whole)]
    assert losses[1] < losses[0]


def test_seeds_share_one_network_and_one_loss_on_bytes(digits):
    net = networks.network(networks.Widths((8,)), "MLP")
    assert net is networks.network(networks.Widths((8,)), "MLP") is not networks.network(networks.Widths(), "MLP")
    loss = networks.on_bytes(networks.plain_loss(net), digits.levels)
    assert loss is networks.on_bytes(networks.plain_loss(net), digits.levels)
    params, x = net.init(jax.random.key(0), networks.images_of(digits)), networks.images_of(digits)
    assert x.max() == 1
    found, _ = loss(params, None, digits[:2], 0)
    assert found == pytest.approx(float(cross_entropy(net.apply(params, x), digits.labels).mean()), rel=1e-5)


@pytest.mark.parametrize(("flags", "experiment"), [("VGG", power_laws), ("perfect", linear_response)])
def test_unknown_models_are_refused_on_the_command_line(flags, experiment, tmp_path, capsys):
    with pytest.raises(SystemExit):
        common.main(experiment.EXPERIMENT, ["smoke", "--models", flags, "--out", str(tmp_path), "--dry-run"])
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"at_epochs": (0, 9)}, "at_epochs must ascend"), ({"ranks": (1, 2)}, "ranks must lie in")],
)
def test_gaps_of_impossible_epochs_and_ranks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        logit_gaps.trials(dataclasses.replace(logit_gaps.PRESETS["smoke"], **changes))
