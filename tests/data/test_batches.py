"""Batches are a function of the step: nothing to save, nothing to restore."""

import re

import numpy as np
import pytest

from invjax.data import batches


def ids(length=10, batch_size=3, seed=0, epochs=1, start=0):
    """What the steps of some epochs draw, one row an epoch."""
    draw = batches([np.arange(length)], batch_size, seed)
    per_epoch = length // batch_size
    drawn = [[draw(epoch * per_epoch + i)[0] for i in range(per_epoch)] for epoch in range(start, start + epochs)]
    return np.array(drawn).reshape(epochs, -1)


class Lazy:
    """An array on disk: it has a length and takes an array of ids."""

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        assert isinstance(index, np.ndarray)
        return self.array[index]


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10])
def test_a_batch_depends_on_the_step_alone(batch_size):
    arrays = [np.arange(10)]
    steps = [7, 0, 31, 7, 3, 0, 12, 31, 100, 3]
    one = batches(arrays, batch_size, seed=4)
    drawn = [one(step)[0] for step in steps]
    for step, batch in zip(steps, drawn, strict=True):
        np.testing.assert_array_equal(batch, batches(arrays, batch_size, seed=4)(step)[0])


@pytest.mark.parametrize(("length", "batch_size"), [(12, 3), (12, 12), (7, 1), (10, 5)])
def test_every_epoch_takes_each_example_once(length, batch_size):
    for epoch in ids(length, batch_size, epochs=5):
        assert sorted(epoch) == list(range(length))


@pytest.mark.parametrize(("length", "batch_size", "kept"), [(10, 4, 8), (10, 3, 9), (10, 6, 6), (11, 10, 10)])
def test_an_incomplete_last_batch_is_left_out(length, batch_size, kept):
    epochs = ids(length, batch_size, epochs=40)
    assert epochs.shape == (40, kept)
    assert all(len(set(epoch)) == kept for epoch in epochs)
    assert set(epochs.ravel()) == set(range(length))  # every epoch takes other images


def test_every_epoch_has_an_order_of_its_own():
    epochs = ids(12, 3, epochs=20)
    assert len({tuple(epoch) for epoch in epochs}) == 20
    assert all((epoch != np.arange(12)).any() for epoch in epochs)


def test_the_order_is_uniform():
    first = ids(4, 4, epochs=2000)
    counts = np.array([np.bincount(column, minlength=4) for column in first.T])
    assert np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 3 / 16)  # five standard deviations of a binomial


def test_seeds_give_different_orders_and_the_same_seed_the_same():
    orders = [tuple(ids(12, 3, seed=seed)[0]) for seed in range(20)]
    assert len(set(orders)) == 20
    assert orders == [tuple(ids(12, 3, seed=seed)[0]) for seed in range(20)]


def test_different_seeds_share_no_epoch():
    """With the seed `seed + epoch`, epoch 1 of seed 0 would equal epoch 0 of seed 1."""
    orders = [tuple(epoch) for seed in range(5) for epoch in ids(12, 3, seed=seed, epochs=5)]
    assert len(set(orders)) == 25


def test_arrays_stay_aligned_and_keep_their_dtype():
    images = np.arange(20, dtype=np.uint8).reshape(10, 2, 1)
    labels = np.arange(10, dtype=np.int32)
    draw = batches((images, labels), 4, seed=0)
    for step in range(6):
        x, y = draw(step)
        assert x.shape == (4, 2, 1) and y.shape == (4,) and x.dtype == np.uint8 and y.dtype == np.int32
        np.testing.assert_array_equal(x[:, :, 0], np.stack([2 * y, 2 * y + 1], -1))


def test_a_batch_may_be_changed_without_changing_the_data():
    array = np.arange(6)
    draw = batches([array], 3, seed=0)
    before = draw(0)[0].copy()
    draw(0)[0][:] = -1
    np.testing.assert_array_equal(array, np.arange(6))
    np.testing.assert_array_equal(draw(0)[0], before)


def test_arrays_that_are_read_when_indexed_are_taken():
    images, labels = np.arange(20).reshape(10, 2), np.arange(10)
    lazy, eager = batches([Lazy(images), labels], 4, seed=0), batches([images, labels], 4, seed=0)
    for step in range(5):
        for a, b in zip(lazy(step), eager(step), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_are_not_finite_are_refused(value):
    images = np.zeros((5, 2), np.float32)
    images[3, 1] = value
    with pytest.raises(ValueError, match="holds 1 NaN or infinite values of 10"):
        batches([images, np.arange(5)], 2, seed=0)


@pytest.mark.parametrize(
    ("lengths", "batch_size", "message"),
    [
        ((10, 9), 2, "arrays must have the same length; got [9, 10]; pass images and labels of the same split"),
        ((), 2, "arrays must have the same length; got []"),
        ((10,), 11, "batch_size must be at most 10, the number of examples; got 11"),
        ((10, 10), 0, "batch_size must be positive; got batch_size=0"),
        ((10,), -1, "batch_size must be positive; got batch_size=-1"),
        ((0,), 1, "batch_size must be at most 0, the number of examples; got 1"),
    ],
)
def test_data_that_give_no_batch_are_refused(lengths, batch_size, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        batches([np.arange(length) for length in lengths], batch_size, seed=0)
