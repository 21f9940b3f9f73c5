"""The experiments on robust and non-robust data sets: smoke runs, and their parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.features_not_bugs import networks, nonrobust_dataset, relabelled, robust_dataset
from invjax import features


def smoke(experiment, folder, **changes):
    config = dataclasses.replace(experiment.PRESETS["smoke"], **changes)
    rows = common.execute(experiment.EXPERIMENT, "smoke", config, folder)
    return {row.name: row.measured for row in rows}


def test_a_smoke_run_of_the_robust_data_set_makes_all_of_them_and_resumes(tmp_path, monkeypatch):
    measure, seen = networks.robust_accuracy, []

    def watched(config, params, data, epsilons, **options):
        found = measure(config, params, data, epsilons, **options)
        seen.append((data[0], found))
        return found

    monkeypatch.setattr(networks, "robust_accuracy", watched)
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
    gained = measured["robust accuracy gained by training on D_R instead of D, PGD, eps 0.6"]
    own = measured["trained on D_R: accuracy under PGD, eps 0.6"]
    assert gained == pytest.approx(own - measured["model standard: accuracy under PGD, eps 0.6"])
    split = "trained on D_R: accuracy under PGD, eps 0.6, {}"
    assert measured[split.format("original test images")] == own
    for part, file in (("training", "data"), ("test", "test")):
        images = features.load(tmp_path / "seed0" / "D_R" / f"{file}.npz").images
        (found,) = (found for attacked, found in seen if np.array_equal(attacked, images))
        assert found["PGD"] == [measured[split.format(f"D_R, {part} images")]]
    for name in ("images", "accuracy"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000
    made = features.load(tmp_path / "seed0" / "D_R" / "data.npz")
    assert made.recipe["source"] == "robust" and made.images.shape == (1024, 8, 8, 1)
    assert smoke(robust_dataset, tmp_path) == measured


def test_a_smoke_run_of_the_nonrobust_data_set_tells_the_labels_apart(tmp_path):
    measured = smoke(nonrobust_dataset, tmp_path)
    learnt = {
        (kind, source): measured[f"trained on {kind} of the {source} model: test accuracy"]
        for kind in relabelled.KINDS
        for source in networks.SOURCES
    }
    assert learnt["D_rand", "standard"] > 90 and learnt["D_rand", "robust"] < learnt["D_rand", "standard"] - 15
    assert learnt["D_det", "standard"] > 20 > learnt["D_det", "robust"] + 5
    following = "trained on D_det of the {} model: test accuracy on the next class"
    assert measured[following.format("robust")] > 80 > measured[following.format("standard")] + 10
    for source in networks.SOURCES:
        for kind in relabelled.KINDS:
            made = features.load(tmp_path / "seed0" / f"{kind}-{source}" / "data.npz")
            reached = measured[f"{kind} of the {source} model: images that reach their target"]
            assert reached == 100 * made.details["success"].mean() > 10
            assert (made.details["distance"] <= 0.8 + 1e-6).all()
    for name in ("images", "accuracy"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000


def published(experiment, config, numbers):
    return {row.name: row.published for row in experiment.rows(config, [numbers]) if row.published is not None}


def of_the_robust_data_set(config):
    arms = robust_dataset.PUBLISHED
    attacked = {"PGD": [1.0] * len(config.epsilons), "ensemble": [1.0] * len(config.epsilons)}
    return {
        "clean": dict.fromkeys(arms, 1.0),
        "attacked": {arm: attacked for arm in arms},
        "distance": {},
        "splits": dict.fromkeys(robust_dataset.PUBLISHED_SPLITS[0.25], 1.0),
    }


def test_the_papers_numbers_of_the_robust_data_set_stand_beside_their_radius():
    paper = robust_dataset.PRESETS["paper"]
    found = published(robust_dataset, paper, of_the_robust_data_set(paper))
    assert found["robust accuracy gained by training on D_R instead of D, PGD, eps 0.25"] == pytest.approx(43.71)
    assert found["robust accuracy gained by training on D_R instead of D, PGD, eps 0.5"] == pytest.approx(21.85)
    assert found["model standard: accuracy"] == 95.25 and found["model robust: accuracy"] == 90.83
    assert found["model robust: accuracy under PGD, eps 0.25"] == 82.48
    assert found["model robust: accuracy under PGD, eps 0.5"] == 70.9
    assert found["trained on D_R from noise: accuracy under PGD, eps 0.25"] == 48.27
    assert found["trained on D_NR from noise: accuracy"] == 45.6
    assert found["trained on D_R: accuracy under PGD, eps 0.25, D_R, test images"] == 62.49
    assert len(found) == 2 + 18 + 3
    half = dataclasses.replace(paper, epsilons=(0.5, 0.75))
    found = published(robust_dataset, half, of_the_robust_data_set(half))
    assert len(found) == 1 + 12 and found["model standard: accuracy under PGD, eps 0.5"] == 0
    for changes in ({"planted": 1.0}, {"dataset": "mnist"}):
        assert not published(robust_dataset, dataclasses.replace(paper, **changes), of_the_robust_data_set(paper))


def test_the_papers_numbers_of_the_nonrobust_data_set_stand_on_their_rows():
    of_one = {"D": 1, "D_rand": 1, "D_det": 1, "relabelled": 1, "reached": {"D_rand": 1, "D_det": 1}, "attacked": {}}
    numbers = dict.fromkeys(networks.SOURCES, of_one)
    assert published(nonrobust_dataset, nonrobust_dataset.PRESETS["default"], numbers) == {
        "trained on D_det of the standard model: test accuracy": 43.7,
        "trained on D_det of the standard model: test accuracy on the next class": 16.2,
        "trained on D_rand of the standard model: test accuracy": 63.3,
        "standard model: test accuracy": 95.3,
        "trained on D_det of the robust model: test accuracy": 5.8,
        "trained on D_det of the robust model: test accuracy on the next class": 65.5,
        "trained on D_rand of the robust model: test accuracy": 25.2,
    }
    assert not published(nonrobust_dataset, nonrobust_dataset.PRESETS["planted"], numbers)


def test_another_data_set_in_the_same_folder_is_learnt_afresh(tmp_path):
    config = dataclasses.replace(robust_dataset.PRESETS["smoke"], epochs=1)
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(64, 4, 4, 1)).astype(np.float32), np.arange(64, dtype=np.int32) % 10
    first = networks.train(config, 0, (images, labels), tmp_path)
    other = networks.train(config, 0, (images, labels[::-1].copy()), tmp_path)
    alone = networks.train(config, 0, (images, labels[::-1].copy()), tmp_path / "alone")
    assert not all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(other)))
    assert all(map(np.array_equal, jax.tree.leaves(alone), jax.tree.leaves(other)))
    with pytest.raises(ValueError, match="training needs at least 8 images; got 7"):
        networks.train(config, 0, (images[:7], labels[:7]), tmp_path)


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
