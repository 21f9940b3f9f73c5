"""Power laws of the adversarial error."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.intriguing_properties import (
    networks,
    power_laws,
)
from invjax.data import load
from invjax.models import mlp

ARGUMENTS = ["--models", "MLP"]


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.fixture(scope="module")
def digits():
    return load("digits", "train"), load("digits", "test")


@pytest.mark.slow
def test_power_laws_run_and_resume(smoke):
    measured = smoke.measured
    assert all(0.3 < measured[f"MLP: exponent B, {attack}"] < 4 for attack in power_laws.ATTACKS)
    assert "power-laws" in smoke.pictures


@pytest.mark.slow
def test_the_untrained_network_is_not_trained_and_a_killed_run_continues(digits, tmp_path):
    config = dataclasses.replace(
        power_laws.PRESETS["smoke"], images=300, pgd_images=200, memorised=200, memorised_epochs=12, batch_size=64
    )
    numbers, _ = power_laws.one_model(config, "untrained", 0, digits, tmp_path / "untrained")
    assert numbers["error"] > 0.7 and not (tmp_path / "untrained" / "checkpoints").exists()
    first, _ = power_laws.one_model(config, "shuffled", 0, digits, tmp_path / "shuffled")
    assert (tmp_path / "shuffled" / "epoch-12").exists() and first["error"] > 0  # all checkpoints exist
    again, _ = power_laws.one_model(config, "shuffled", 0, digits, tmp_path / "shuffled")  # as after a kill
    assert again == first


@pytest.mark.slow
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


def test_memorising_networks_are_attacked_on_their_training_images(digits):
    config = power_laws.PRESETS["smoke"]
    for name in ("shuffled", "noise", "perfect"):
        _, train, attacked, _ = power_laws.setting(config, name, digits, 0)
        assert train is attacked
    _, shuffled, _, _ = power_laws.setting(config, "shuffled", digits, 0)
    assert (np.sort(shuffled.labels) == np.sort(digits[0].labels[: len(shuffled.labels)])).all()
    assert (shuffled.labels != digits[0].labels[: len(shuffled.labels)]).mean() > 0.8
    _, noise, _, _ = power_laws.setting(config, "noise", digits, 0)
    assert abs(np.corrcoef(noise.images[0].ravel(), digits[0].images[0].ravel())[0, 1]) < 0.5
