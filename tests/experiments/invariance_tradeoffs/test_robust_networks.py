"""Training, agreement with its intervals, and missing human labels."""

import dataclasses
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.invariance_tradeoffs import (
    augmentation,
    human_agreement,
    robust_networks,
    robustness_costs,
)
from invjax.attacks import linf, pgd
from invjax.data import Dataset
from invjax.evaluation import wilson


@pytest.mark.parametrize("experiment", [human_agreement, robustness_costs, augmentation])
def test_without_the_human_labels_the_default_stops_at_once(experiment, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit, match="human-labelled invariance examples were not found"):
        common.main(experiment.EXPERIMENT, ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "run")])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_the_interval_of_several_trainings_is_that_of_their_mean_on_the_same_images():
    counts = [[2, 8], [4, 8]]
    assert robust_networks.interval(counts) == (3 / 8, *wilson(3, 8))
    row = robust_networks.agreement_row("net", "set", counts, "more", 50)
    assert (row.name, row.measured, row.seeds, row.published) == ("net: agrees with people, set", 37.5, 2, 50)
    low, high = wilson(3, 8)
    assert row.differs == f"95 % interval {100 * low:.0f} to {100 * high:.0f}, 8 images; more"
    assert robust_networks.agreement_row("net", "set", [[3, 44]] * 3).spread == 0


def test_two_agreements_are_apart_where_their_intervals_are():
    assert robust_networks.apart([[30, 40], [34, 40]], [[2, 40], [2, 40]]) == (
        "95 % interval 65 to 90 is above 1 to 17 (40 images)"
    )
    # three trainings on the same images give the same interval as one
    assert robust_networks.apart([[10, 40]] * 3, [[4, 40]] * 3) == (
        "95 % interval 14 to 40 is not above 4 to 23 (40 images)"
    )


@pytest.mark.slow
def test_the_radius_is_a_third_in_the_first_epoch():
    def noted(key, logits_fn, x, labels, *, eps, **rest):
        radii.append(float(eps))
        return attack.run(key, logits_fn, x, labels, eps=eps, **rest)

    radii, attack = [], pgd(linf(), steps=1)
    loss_fn = robust_networks.loss_of("small CNN", replace(attack, run=noted), 2, None)
    batch = np.zeros((2, 28, 28, 1), np.float32), np.zeros(2, np.int32), np.float32([[0.1, 0.3]] * 2)
    params = robust_networks.network("small CNN").init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    for step in range(4):
        loss_fn(params, jax.random.key(0), batch, step)
    assert radii == pytest.approx([0.1] * 2 + [0.3] * 2)


@pytest.mark.slow
def test_all_radii_share_one_loss_and_start_at_a_third(monkeypatch, tmp_path):
    def train(params, loss_fn, arrays, settings, **rest):
        trained.append((loss_fn, arrays[2]))

    trained = []
    monkeypatch.setattr("experiments.common._networks.train", train)
    data = Dataset(np.zeros((8, 28, 28, 1), np.uint8), np.zeros(8, np.int32), 10, 256)
    attack = robust_networks.adversary("linf", 1)
    for eps in (0.3, 0.6):
        config = robustness_costs.PRESETS["smoke"]
        robust_networks.train(config, "small CNN", attack, eps, data, seed=0, folder=tmp_path)
    assert trained[0][0] is trained[1][0]  # so that the step is compiled once
    for (_, radii), eps in zip(trained, (0.3, 0.6), strict=True):
        np.testing.assert_array_equal(radii, np.float32([[eps / 3, eps]] * 8))


@pytest.mark.slow
def test_training_uses_the_prepared_images(tmp_path):
    config = dataclasses.replace(robustness_costs.PRESETS["smoke"], train=common.Train(1, 8, 2e-3))
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1)).astype(np.uint8)
    data = Dataset(images, np.zeros(8, np.int32), 10, 256)
    first_kernels = [
        robust_networks.train(
            config, "small CNN", None, 0, data, seed=0, folder=tmp_path / name, prepare=prepare
        )["params"]["Conv_0"]["kernel"]
        for name, prepare in (("plain", None), ("black", lambda key, x: jnp.zeros_like(x)))
    ]  # fmt: skip
    start = robust_networks.network("small CNN").init(common.split_key(0)[0], jnp.zeros((1, 28, 28, 1)))
    moved = [float(jnp.abs(kernel - start["params"]["Conv_0"]["kernel"]).max()) for kernel in first_kernels]
    assert moved[0] > 1e-4 and moved[1] == 0  # a black image moves no kernel of the first layer
