"""Networks of all experiments: shared objects, trainings that stop on the way, and accuracies."""

import jax
import numpy as np
import pytest

from experiments import common
from invjax.losses import cross_entropy


@pytest.fixture(scope="module")
def digits():
    return common.Data("digits", train_size=512).load()[0]


@pytest.mark.slow
def test_an_interrupted_training_equals_an_uninterrupted_one(digits, tmp_path):
    net = common.network("linear")

    def train(folder, epochs=None):
        loss_fn, place = common.plain_loss(net.apply), tmp_path / folder
        return common.trained(net, loss_fn, digits, common.Train(2, 256), seed=0, folder=place, epochs=epochs)

    train("a", 1)
    whole, start = train("b"), train("c", 0)
    jax.tree.map(np.testing.assert_array_equal, train("a", 2), whole)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (whole, start)), strict=True))
    images = common.images_of(digits)
    losses = [cross_entropy(net.apply(params, images), digits.labels).mean() for params in (start, whole)]
    assert losses[1] < losses[0]


@pytest.mark.slow
def test_bytes_and_images_in_0_1_train_alike(digits, tmp_path):
    net, settings = common.network("linear"), common.Train(1, 256)
    found = [
        common.trained(net, common.plain_loss(net.apply), data, settings, seed=0, folder=tmp_path / name)
        for name, data in (("bytes", digits), ("floats", common.arrays_of(digits)))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *found)


def test_seeds_share_one_network_and_one_loss_on_bytes(digits):
    net = common.network("MLP", hidden=(8,))
    assert net is common.network("MLP", hidden=(8,)) is not common.network("MLP", hidden=(9,))
    loss = common.on_bytes(common.plain_loss(net.apply), digits.levels)
    assert loss is common.on_bytes(common.plain_loss(net.apply), digits.levels)
    x, labels = common.arrays_of(digits)
    params = net.init(jax.random.key(0), x)
    assert x.max() == 1
    found, _ = loss(params, None, digits[:2], 0)
    assert found == pytest.approx(float(cross_entropy(net.apply(params, x), labels).mean()), rel=1e-5)
    brighter = common.plain_loss(net.apply, prepare=lambda key, x: x + key)
    assert brighter(params, 0.5, (x, labels), 0)[0] == pytest.approx(
        float(cross_entropy(net.apply(params, x + 0.5), labels).mean()), rel=1e-5
    )


def test_images_are_chosen_by_number_or_by_position(digits):
    images = digits.images / np.float32(16)
    np.testing.assert_allclose(common.images_of(digits), images, rtol=1e-6)
    np.testing.assert_allclose(common.images_of(digits, 3), images[:3], rtol=1e-6)
    np.testing.assert_allclose(common.images_of(digits, np.array([5, 2])), images[[5, 2]], rtol=1e-6)
    first, labels = common.arrays_of(digits, 4)
    assert len(first) == 4 and labels.tolist() == digits.labels[:4].tolist()


def test_shifted_images_keep_their_pixels_at_new_places():
    x = np.zeros((64, 9, 9, 1), np.float32)
    x[:, 4, 4] = 1
    found = np.asarray(common.shifted(jax.random.key(0), x, 2))
    assert found.shape == x.shape and (found.sum((1, 2)) == 1).all()
    _, rows, columns, _ = np.nonzero(found)
    assert set(rows) == set(columns) == {2, 3, 4, 5, 6}
