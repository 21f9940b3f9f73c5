"""Training of the networks, planted patterns, and settings that are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.features_not_bugs import networks, nonrobust_dataset, robust_dataset


@pytest.mark.slow
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


def test_moved_images_keep_their_pixels_at_new_places():
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
