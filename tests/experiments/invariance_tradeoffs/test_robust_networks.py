"""Training, agreement with its intervals, and missing human labels."""

import dataclasses

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
from invjax.data import Dataset, HumanLabelled
from invjax.evaluation import wilson


def moved(by, labels, human):
    """Images of one gray, away from black originals by as much as `by` says."""
    images = np.ones((len(by), 28, 28, 1), np.float32) * np.float32(by)[:, None, None, None]
    labels, human = np.int32(labels), np.int32(human)
    return HumanLabelled(images, human, 0 * images, labels, np.arange(len(by), dtype=np.int32), "linf", 0.3)


@pytest.mark.parametrize("experiment", [human_agreement, robustness_costs, augmentation])
def test_without_the_human_labels_the_default_stops_at_once(experiment, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit, match="human-labelled invariance examples were not found"):
        common.main(experiment.EXPERIMENT, ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "run")])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_the_interval_of_several_trainings_is_that_of_their_mean_on_the_same_images():
    human = {"set": moved([0.1] * 10, labels=[0] * 10, human=[1] * 8 + [0] * 2)}
    assert robust_networks.interval(human, "set", [2, 4]) == (3 / 8, *wilson(3, 8))
    row = robust_networks.agreement_row(human, "net", "set", [2, 4], 50, "more")
    assert (row.name, row.measured, row.seeds, row.published) == ("net: agrees with people, set", 37.5, 2, 50)
    low, high = wilson(3, 8)
    assert row.differs == f"95 % interval {100 * low:.0f} to {100 * high:.0f}, 8 images; more"


def test_two_agreements_are_apart_where_their_intervals_are():
    human = {"set": moved([0.1] * 40, labels=[0] * 40, human=[1] * 40)}
    assert robust_networks.apart(human, "set", [30, 34], [2, 2]) == (
        "95 % interval 65 to 90 is above 1 to 17 (40 images)"
    )
    # three trainings on the same images give the same interval as one
    assert robust_networks.apart(human, "set", [10] * 3, [4] * 3) == (
        "95 % interval 14 to 40 is not above 4 to 23 (40 images)"
    )


@pytest.mark.slow
def test_training_uses_the_prepared_images(tmp_path):
    config = dataclasses.replace(robustness_costs.PRESETS["smoke"], batch_size=8, epochs=1)
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1)).astype(np.uint8)
    data = Dataset(images, np.zeros(8, np.int32), 10, 256)
    first_kernels = [
        robust_networks.train(config, "small CNN", None, 0, 0, data, tmp_path / name, prepare)["params"]["Conv_0"]
        for name, prepare in (("plain", None), ("black", jnp.zeros_like))
    ]
    start = robust_networks.network("small CNN").init(jax.random.split(jax.random.key(0))[0], jnp.zeros((1, 28, 28, 1)))
    moved = [float(jnp.abs(layer["kernel"] - start["params"]["Conv_0"]["kernel"]).max()) for layer in first_kernels]
    assert moved[0] > 1e-4 and moved[1] == 0  # a black image moves no kernel of the first layer
