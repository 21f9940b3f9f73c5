"""Training with a penalty on the entropy."""

from functools import partial

import jax
import numpy as np
import pytest

from experiments.intriguing_properties import entropy_regularisation
from invjax.attacks import linf, step_ll
from invjax.losses import cross_entropy, entropy


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_entropy_regularisation_runs_all_arms(smoke):
    measured = smoke.measured
    for arm in entropy_regularisation.ARMS:
        assert measured[f"MLP, {arm}: accuracy under PGD, margin, eps 0.1"] < measured[f"MLP, {arm}: clean accuracy"]
        assert measured[f"MLP, {arm}: clean accuracy"] > 90
    for with_entropy, without in (("entropy", "plain"), ("adversarial, entropy", "adversarial")):
        assert measured[f"MLP, {with_entropy}: mean entropy"] < measured[f"MLP, {without}: mean entropy"]
    robust = {arm: measured[f"MLP, {arm}: accuracy under PGD, margin, eps 0.1"] for arm in entropy_regularisation.ARMS}
    assert robust["adversarial"] > robust["plain"] + 5


@pytest.mark.slow
def test_the_losses_add_the_entropy_and_attack_a_part_of_the_batch():
    config = entropy_regularisation.PRESETS["smoke"]
    net = config.widths.network("MLP")
    x, labels = np.random.default_rng(0).uniform(0.2, 0.8, (8, 8, 8, 1)).astype(np.float32), np.arange(8) % 10
    params = net.init(jax.random.key(0), x)
    logits = net.apply(params, x)
    of_arm = {
        arm: float(entropy_regularisation.loss_of(config, net, arm)(params, jax.random.key(1), (x, labels), 0)[0])
        for arm in entropy_regularisation.ARMS
    }
    attacked = step_ll(linf())(jax.random.key(1), partial(net.apply, params), x[:4], labels[:4], eps=0.1).x
    of_attacked = net.apply(params, np.concatenate([attacked, x[4:]]))
    for arm, z in (("plain", logits), ("adversarial", of_attacked)):
        without, added = float(cross_entropy(z, labels).mean()), float(entropy(z).mean())
        with_entropy = "entropy" if arm == "plain" else f"{arm}, entropy"
        assert [of_arm[arm], of_arm[with_entropy]] == pytest.approx([without, without + added], rel=1e-5)
    assert abs(of_arm["adversarial"] - of_arm["plain"]) > 1e-3
