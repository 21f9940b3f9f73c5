"""The experiments on robust and non-robust data sets: smoke runs, and their parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.features_not_bugs import networks, nonrobust_dataset, robust_dataset
from invjax import features


def smoke(experiment, folder, **changes):
    config = dataclasses.replace(experiment.PRESETS["smoke"], **changes)
    rows = common.execute(experiment.EXPERIMENT, "smoke", config, folder)
    return {row.name: row.measured for row in rows}


def test_a_smoke_run_of_the_robust_data_set_makes_all_of_them_and_resumes(tmp_path):
    measured = smoke(robust_dataset, tmp_path)
    assert (
        measured["model robust: accuracy under PGD, eps 0.6"]
        > 10 + (measured["model standard: accuracy under PGD, eps 0.6"])
    )
    for arm in ("D_R", "D_NR"):
        assert measured[f"trained on {arm}: accuracy"] > 50
        assert measured[f"{arm}: distance of the representations, median"] < 0.4
    assert measured["trained on D_R from noise: accuracy"] > 50
    attacked = {arm: measured[f"trained on {arm} from noise: accuracy under PGD, eps 0.6"] for arm in ("D_R", "D_NR")}
    assert attacked["D_R"] > attacked["D_NR"]
    assert len([name for name in measured if "accuracy under PGD, eps 0.6, " in name]) == 3
    for name in ("images", "accuracy"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000
    made = features.load(tmp_path / "seed0" / "D_R" / "data.npz")
    assert made.recipe["source"] == "robust" and made.images.shape == (1024, 8, 8, 1)
    assert smoke(robust_dataset, tmp_path) == measured


def test_a_smoke_run_of_the_nonrobust_data_set_tells_the_labels_apart(tmp_path):
    measured = smoke(nonrobust_dataset, tmp_path)
    for source in networks.SOURCES:
        right = measured[f"trained on D_det of the {source} model: test accuracy"]
        following = measured[f"trained on D_det of the {source} model: test accuracy on the next class"]
        assert 0 <= right + following <= 100
    reached = "D_det of the {} model: images that reach their target"
    assert measured[reached.format("standard")] > measured[reached.format("robust")]
    leaked = "trained on D_det of the robust model: test accuracy on the next class"
    assert measured[leaked] > 50 > measured["trained on D_det of the robust model: test accuracy"]
    images = features.load(tmp_path / "seed0" / "D_det-standard" / "data.npz")
    assert (images.details["distance"] <= 0.8 + 1e-6).all()
    for name in ("images", "accuracy"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        (robust_dataset, {"starts": ()}, "starts must be some of images, noise"),
        (robust_dataset, {"epsilons": (0.5, 0.1)}, "epsilons must ascend"),
        (nonrobust_dataset, {"eps": 0.0}, "eps must be positive"),
        (nonrobust_dataset, {"planted": 5.0}, r"planted must be in \[0, 4\)"),
    ],
)
def test_bad_settings_are_refused(experiment, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        experiment.run(dataclasses.replace(experiment.PRESETS["smoke"], **changes), tmp_path)


def test_moved_images_are_the_same_pixels_elsewhere():
    x = jnp.zeros((64, 9, 9, 2)).at[:, 4, 4].set(1)
    found = np.asarray(networks.moved(jax.random.key(0), x))
    assert found.shape == x.shape and (found.sum((1, 2)) == 1).all()
    places = {(int(i), int(j)) for i, j in zip(*np.nonzero(found[..., 0])[1:], strict=True)}
    assert len(places) > 30 and {i for i, _ in places} == set(range(9))


def test_a_planted_pattern_tells_the_class_at_its_length():
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(40, 6, 6, 1)).astype(np.float32), np.arange(40) % 10
    found = networks.plant(images, labels, 0.6)
    assert found.min() >= 0 and found.max() <= 1 and found.dtype == np.float32
    patterns = found - (0.1 + 0.8 * images)
    np.testing.assert_allclose(np.linalg.norm(patterns.reshape(40, -1), axis=1), 0.6, rtol=1e-4)
    np.testing.assert_allclose(patterns[:10], patterns[10:20], atol=1e-6)
    assert min(np.linalg.norm(patterns[i] - patterns[j]) for i in range(10) for j in range(i)) > 0.3
    np.testing.assert_array_equal(networks.plant(images, labels, 0.0), images)
