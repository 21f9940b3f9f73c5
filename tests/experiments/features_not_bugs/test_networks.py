"""The networks of the paper: their training, the optimisers, and planted patterns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.features_not_bugs import networks, relabelling
from invjax import features
from invjax.losses import cross_entropy

SMALL = networks.Settings(network="linear", train=networks.Train(2, 8, 0.1), robust_epochs=3)


def arrays(count: int = 32) -> common.Arrays:
    images = np.random.default_rng(0).uniform(size=(count, 4, 4, 1)).astype(np.float32)
    return images, np.arange(count, dtype=np.int32) % 10


def recorded(monkeypatch) -> list:
    """The settings, the loss and the seed of each training, none of which is run."""
    seen: list = []
    keep = lambda params, loss_fn, arrays, settings, *, seed, **rest: seen.append((settings, loss_fn, seed))  # noqa: E731
    monkeypatch.setattr("experiments.common._networks.train", keep)
    return seen


def test_a_training_takes_the_configured_settings_and_their_changes(tmp_path, monkeypatch):
    seen = recorded(monkeypatch)
    networks.train(SMALL, arrays(), seed=1, folder=tmp_path)
    networks.train(SMALL, arrays(), seed=2, folder=tmp_path)
    networks.train(SMALL, arrays(), seed=2, folder=tmp_path, learning_rate=0.2, optimizer="sgd")
    networks.source(SMALL, "robust", arrays(), seed=3, shared=tmp_path)
    (plain, loss, one), (_, again, two), (changed, *_), (robust, hard, three) = seen
    assert plain == SMALL.train and (one, two, three) == (1, 2, 3)
    assert loss is again is not hard, "seeds share one compiled step"
    assert changed == networks.Train(2, 8, 0.2, "sgd") and robust == networks.Train(3, 8, 0.1)


def test_the_rate_and_the_augmentation_depend_on_the_relabelled_data_set(tmp_path, monkeypatch):
    seen = recorded(monkeypatch)
    made = features.Constructed(*arrays(), {}, {}, "")
    config = relabelling.Settings(network="linear", rates=(0.01, 0.1), moved=(True, False))
    for kind in relabelling.KINDS:
        relabelling.learn(config, kind, made, seed=4, folder=tmp_path)
    (rand, moved, _), (det, still, seed) = seen
    assert (rand.learning_rate, det.learning_rate, seed) == (0.01, 0.1, 1004)
    assert moved is networks.loss_of(config, None, True, None) and still is networks.loss_of(config, None, False, None)


@pytest.mark.slow
def test_the_radius_of_adversarial_training_grows_over_the_warm_up():
    net, (images, labels) = SMALL.net(), arrays(8)
    params, key, batch = net.init(jax.random.key(0), images), jax.random.key(1), (jnp.asarray(images), labels)
    losses = [float(networks.loss_of(SMALL, None, False, 10)(params, key, batch, step)[0]) for step in (0, 5, 10, 20)]
    clean = float(cross_entropy(net.apply(params, images), labels).mean())
    assert losses[0] == pytest.approx(clean) and losses[0] < losses[1] < losses[2] == losses[3]
    assert float(networks.loss_of(SMALL, None, False, None)(params, key, batch, 0)[0]) == pytest.approx(clean)


def test_sgd_is_ten_times_slower_after_each_third():
    settings = dataclasses.replace(SMALL.train, optimizer="sgd", weight_decay=0.5)
    optimizer, params = networks.optimizer(settings, 9), {"w": jnp.ones(())}
    state, steps = optimizer.init(params), []
    for _ in range(9):
        update, state = optimizer.update({"w": jnp.zeros(())}, state, params)
        steps.append(-float(update["w"]))
    momentum = np.array([sum(0.9**i for i in range(step + 1)) for step in range(9)])
    np.testing.assert_allclose(steps, 0.5 * 0.1 * momentum * np.repeat([1, 0.1, 0.01], 3), rtol=1e-5)


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


def test_planted_images_are_loaded_with_their_pattern_and_a_long_pattern_is_refused():
    (plain, labels), _ = networks.Data("digits", train_size=12, test_size=3).load()
    (found, _), (held, _) = networks.Data("digits", train_size=12, test_size=3, planted=0.4).load()
    np.testing.assert_array_equal(found, networks.plant(plain, labels, 0.4))
    assert len(found) == 12 and len(held) == 3 and not np.array_equal(found, plain)
    with pytest.raises(ValueError, match=r"planted must be in \[0, 4\); got planted=5"):
        networks.Data("digits", planted=5.0).load()
