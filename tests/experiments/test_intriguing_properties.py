"""The experiments on power laws, linear response, logit gaps and entropy: smoke runs, and their parts."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import common
from experiments.intriguing_properties import (
    entropy_regularisation,
    linear_response,
    logit_gaps,
    networks,
    power_laws,
)
from invjax.data import load
from invjax.models import mlp


def smoke(experiment, folder, **changes):
    config = dataclasses.replace(experiment.PRESETS["smoke"], **changes)
    rows = common.execute(experiment.EXPERIMENT, "smoke", config, folder)
    return {row.name: row.measured for row in rows}


@pytest.fixture(scope="module")
def digits():
    return load("digits", "train"), load("digits", "test")


def test_power_laws_run_and_resume(tmp_path):
    measured = smoke(power_laws, tmp_path, models=("MLP",))
    again = smoke(power_laws, tmp_path, models=("MLP",))
    assert measured == again
    assert all(0.3 < measured[f"MLP: exponent B, {attack}"] < 4 for attack in power_laws.ATTACKS)
    assert (tmp_path / "figures" / "power-laws.png").stat().st_size > 10_000


def test_the_untrained_is_not_trained_and_a_run_goes_on_after_its_looks(digits, tmp_path):
    config = dataclasses.replace(
        power_laws.PRESETS["smoke"], images=300, pgd_images=200, memorised=200, memorised_epochs=12, batch_size=64
    )
    numbers, _ = power_laws.one_model(config, "untrained", 0, digits, tmp_path / "untrained")
    assert numbers["error"] > 0.7 and not (tmp_path / "untrained" / "checkpoints").exists()
    first, _ = power_laws.one_model(config, "shuffled", 0, digits, tmp_path / "shuffled")
    assert (tmp_path / "shuffled" / "epoch-12").exists() and first["error"] > 0  # all looks were taken
    again, _ = power_laws.one_model(config, "shuffled", 0, digits, tmp_path / "shuffled")  # as if killed in the attacks
    assert again == first


def test_radii_of_a_linear_model_are_its_distances_to_the_boundary(digits):
    config = dataclasses.replace(power_laws.PRESETS["smoke"], largest=(4.0, 40.0))
    net = mlp(2, ())
    data = networks.first(digits[1], 40)._replace(num_classes=2)
    data = data._replace(labels=np.asarray(data.labels) % 2)
    params = net.init(jax.random.key(0), networks.images_of(data))
    found = power_laws.radii(config, net, params, data, seed=0)
    logits = networks.logits_of(net, params, networks.images_of(data)).astype(np.float64)
    weights = np.asarray(jax.tree.leaves(jax.jacobian(lambda x: net.apply(params, x[None])[0])(np.zeros((8, 8, 1)))))
    across = (weights[0][1] - weights[0][0]).ravel().astype(np.float64)
    right = logits.argmax(1) == data.labels
    gap = np.abs(logits[:, 1] - logits[:, 0])[right]
    bisected = 1 / (16 * 2**12)  # of the largest eps: as fine as it gets
    np.testing.assert_allclose(found["L2"][right], gap / np.linalg.norm(across), rtol=1e-5, atol=40 * bisected)
    for name in ("FGSM", "step l.l."):
        np.testing.assert_allclose(found[name][right], gap / np.abs(across).sum(), rtol=1e-5, atol=4 * bisected)
    assert np.isinf(found["L2"][~right]).all() and (~right).any()


def test_what_is_learnt_by_heart_is_attacked_where_it_was_learnt(digits):
    config = power_laws.PRESETS["smoke"]
    for name in ("shuffled", "noise", "perfect"):
        _, train, attacked, _ = power_laws.setting(config, name, digits, 0)
        assert train is attacked
    _, shuffled, _, _ = power_laws.setting(config, "shuffled", digits, 0)
    assert (np.sort(shuffled.labels) == np.sort(digits[0].labels[: len(shuffled.labels)])).all()
    assert (shuffled.labels != digits[0].labels[: len(shuffled.labels)]).mean() > 0.8
    _, noise, _, _ = power_laws.setting(config, "noise", digits, 0)
    assert abs(np.corrcoef(noise.images[0].ravel(), digits[0].images[0].ravel())[0, 1]) < 0.5


def test_linear_response_runs(tmp_path):
    measured = smoke(linear_response, tmp_path)
    assert measured["MLP: median of linear / true eps"] == pytest.approx(1, abs=0.1)
    assert measured["MLP: linear response names the class that crosses first"] > 90
    assert measured["MLP: linear: P(eps-hat < eps) over the smallest decade, mean relative error"] < 0.2
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"epsilon-mlp.png", "logits-along-mlp.png"}


def test_the_smallest_decade_and_the_shares_below():
    eps = np.array([np.inf, 4.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(linear_response.share_below(eps, np.array([0.5, 1, 2.5, 100])), [0, 0.2, 0.4, 0.8])
    lowest, decade = linear_response.decade_of(np.linspace(0, 1, 1001), 0.01)
    assert lowest == pytest.approx(0.01) and decade[0] == lowest
    assert decade[-1] == pytest.approx(0.1) and len(decade) == 21


def test_logit_gaps_run_from_before_training_on(tmp_path):
    measured = smoke(logit_gaps, tmp_path)
    assert measured["independent uniform logits: exponent of the density of Delta_12"] == pytest.approx(0, abs=0.1)
    assert "MLP, before training: exponent of the density of Delta_13" in measured
    assert measured["MLP: clean error"] < 60


def test_stopping_on_the_way_does_not_change_the_training(digits, tmp_path):
    config = dataclasses.replace(networks.Settings("digits", epochs=2, batch_size=256), seeds=(0,))
    net = mlp(10, ())
    networks.train(config, net, 0, digits[0], tmp_path / "a", until=1)
    stopped = networks.train(config, net, 0, digits[0], tmp_path / "a", until=2)
    whole = networks.train(config, net, 0, digits[0], tmp_path / "b")
    start = networks.train(config, net, 0, digits[0], tmp_path / "c", until=0)
    jax.tree.map(np.testing.assert_array_equal, stopped, whole)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (whole, start)), strict=True))


def test_entropy_regularisation_runs_all_arms(tmp_path):
    measured = smoke(entropy_regularisation, tmp_path)
    for arm in entropy_regularisation.ARMS:
        assert measured[f"MLP, {arm}: accuracy under PGD, margin, eps 0.1"] <= measured[f"MLP, {arm}: clean accuracy"]
    assert measured["MLP, entropy: mean entropy"] < measured["MLP, plain: mean entropy"]


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
