"""Power laws of the adversarial error."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import common
from experiments.intriguing_properties import power_laws
from invjax.models import mlp

ARGUMENTS = ["--models", "MLP"]


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.fixture(scope="module")
def digits():
    return common.Data("digits").load()


@pytest.mark.slow
def test_all_attacks_have_a_law_near_the_published_one(smoke):
    measured = smoke.measured
    assert all(0.3 < measured[f"MLP: exponent B, {attack}"] < 4 for attack in power_laws.ATTACKS)
    assert smoke.pictures == {"power-laws"}


@pytest.mark.slow
def test_the_untrained_network_is_not_trained_and_a_killed_trial_continues(digits, tmp_path):
    config = dataclasses.replace(power_laws.PRESETS["smoke"], pgd_images=200, memorised=200, memorised_epochs=12)

    def trial(model):
        return power_laws.trial(config, digits, model=model, seed=0, folder=tmp_path / model)[0]

    assert trial("untrained")["error"] > 0.7 and not (tmp_path / "untrained" / "checkpoints").exists()
    first = trial("shuffled")
    assert (tmp_path / "shuffled" / "epoch-12").exists() and first["error"] > 0  # all checkpoints exist
    assert trial("shuffled") == first  # as after a kill


@pytest.mark.slow
def test_radii_of_a_linear_model_are_its_distances_to_the_boundary(digits):
    config = dataclasses.replace(power_laws.PRESETS["smoke"], largest=(4.0, 40.0))
    net = mlp(2, ())
    data = common.first(digits[1], 40)._replace(num_classes=2)
    data = data._replace(labels=np.asarray(data.labels) % 2)
    params = net.init(jax.random.key(0), common.images_of(data))
    found = power_laws.radii(config, net, params, data, seed=0, searched=20)
    logits = common.logits_of(net.apply, params, common.images_of(data)).astype(np.float64)
    weights = np.asarray(jax.tree.leaves(jax.jacobian(lambda x: net.apply(params, x[None])[0])(np.zeros((8, 8, 1)))))
    across = (weights[0][1] - weights[0][0]).ravel().astype(np.float64)
    right = logits.argmax(1) == data.labels
    gap = np.abs(logits[:, 1] - logits[:, 0])[right]
    bisected = 1 / (16 * 2**12)  # of the largest eps: as fine as it gets
    np.testing.assert_allclose(found["L2"][right], gap / np.linalg.norm(across), rtol=1e-5, atol=40 * bisected)
    for name in ("FGSM", "step l.l."):
        np.testing.assert_allclose(found[name][right], gap / np.abs(across).sum(), rtol=1e-5, atol=4 * bisected)
    assert np.isinf(found["L2"][~right]).all() and (~right).any()
    np.testing.assert_allclose(found["PGD"], found["FGSM"][:20], rtol=1e-2)


def test_memorising_networks_are_attacked_on_their_training_images(digits):
    config = power_laws.PRESETS["smoke"]
    train = digits[0]
    for model in ("shuffled", "noise", "perfect", "beyond"):
        own, attacked, checks = power_laws.images_for(config, model, digits, 0)
        assert own is attacked and checks[-1] == config.memorised_epochs
        assert checks[:2] == ([60] if model == "beyond" else [4, 8])
    shuffled, _, _ = power_laws.images_for(config, "shuffled", digits, 0)
    assert (np.sort(shuffled.labels) == np.sort(train.labels[: len(shuffled.labels)])).all()
    assert (shuffled.labels != train.labels[: len(shuffled.labels)]).mean() > 0.8
    noise, _, _ = power_laws.images_for(config, "noise", digits, 0)
    assert abs(np.corrcoef(noise.images[0].ravel(), train.images[0].ravel())[0, 1]) < 0.5
    own, attacked, checks = power_laws.images_for(config, "MLP", digits, 0)
    assert own is train and (attacked.images == digits[1].images[:300]).all() and checks == [2]


def test_a_fit_to_a_few_images_is_marked_and_not_drawn(tmp_path):
    config = dataclasses.replace(power_laws.PRESETS["smoke"], models=("ResNet",), quantile=0.02)
    values = np.random.default_rng(0).uniform(size=2000)
    radii = {attack: values[: 100 if attack == "PGD" else None] for attack in power_laws.ATTACKS}
    numbers = {attack: power_laws.law_of(config, attack, found, 0.02) for attack, found in radii.items()}
    numbers |= {"wide": numbers["FGSM"], "error": 0.5, "epochs": 2}
    trials = power_laws.EXPERIMENT.trials(config)
    results = common.Results([common._trials.Trial(trials[0], tmp_path)])
    (tmp_path / "numbers.json").write_text(json.dumps(numbers))
    np.savez(tmp_path / "arrays.npz", **radii)
    differs = {row.name: row.differs for row in power_laws.table(config, results)}
    assert "says nothing: a fit to 2 images" in differs["ResNet: exponent B, PGD"]
    assert "says nothing" not in differs["ResNet: exponent B, FGSM"]
    (axes,) = power_laws.draw(config, results)["power-laws"].axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[3] == "PGD: no fit" and labels[0].startswith("FGSM: B = 1.")


def test_a_model_that_is_wrong_on_all_images_is_refused(digits, tmp_path):
    config, (train, test) = power_laws.PRESETS["smoke"], digits
    net = config.widths.network("MLP")
    params = net.init(common.split_key(0)[0], common.images_of(train, 1))
    labels = (common.logits_of(net.apply, params, common.images_of(test)).argmax(1) + 1) % 10
    data = train, test._replace(labels=labels)
    with pytest.raises(ValueError, match="untrained, seed 0, is wrong on all 300 images: train it longer"):
        power_laws.trial(config, data, model="untrained", seed=0, folder=tmp_path / "untrained")
