"""`over_batches` is the function on the whole array, whatever the batch size, the devices or the kind of array;
`shrinking` cuts what is left of one into batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax._batching import over_batches, shrinking
from invjax.training import data_mesh


class Lazy:
    """An array on disk: it has a length and gives slices, and remembers which."""

    def __init__(self, array):
        self.array, self.asked = array, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.array[index]


def data(n):
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 9, n).astype(np.int32)


def example_by_example(x, y):
    return {"sum": x.sum(-1), "pair": (x * y[:, None].astype(x.dtype), y + 1)}


def assert_same(out, x, y):
    expected = example_by_example(x, y)  # numpy, at once
    assert jax.tree.structure(out) == jax.tree.structure(expected)
    for leaf, value in zip(jax.tree.leaves(out), jax.tree.leaves(expected), strict=True):
        assert isinstance(leaf, np.ndarray)
        assert leaf.shape == value.shape and leaf.dtype == value.dtype
        np.testing.assert_allclose(leaf, value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (1, 4), (3, 4), (4, 4), (5, 4), (8, 4), (11, 4), (7, 1)])
def test_over_batches_equals_the_function_on_the_whole_array(n, batch_size):
    x, y = data(n)
    assert_same(over_batches(jax.jit(example_by_example), [x, y], batch_size), x, y)


def test_the_default_batch_size_serves_small_and_large_arrays():
    for n in (3, 1234):
        x, y = data(n)
        assert_same(over_batches(example_by_example, (x, y)), x, y)


@pytest.mark.parametrize("n", [2, 4, 9])
def test_there_is_one_compilation_and_one_call_a_batch(n):
    traces, sizes = [], []

    @jax.jit
    def traced(x):
        traces.append(x.shape)
        return 2 * x

    def function(x):
        sizes.append(len(x))
        return traced(x)

    over_batches(function, [data(n)[0]], 4)
    assert traces == [(4, 3)]
    assert sizes == [4] * -(-n // 4)


def test_padding_is_made_of_real_examples():
    """What fails on made-up values (a check for labels, a log) sees none."""
    seen = []

    def function(x, y):
        seen.append((np.asarray(x), np.asarray(y)))
        return x

    x, y = data(5)
    over_batches(function, [x, y], 4)
    batch_x, batch_y = seen[-1]
    np.testing.assert_array_equal(batch_x, np.repeat(x[4:], 4, 0))
    np.testing.assert_array_equal(batch_y, np.repeat(y[4:], 4))


@pytest.mark.parametrize(("n", "batch_size"), [(3, 4), (8, 4), (11, 4)])
def test_two_devices_give_the_result_of_one_device(n, batch_size):
    x, y = data(n)
    devices = jax.devices()[:2]
    spread = []

    def function(x, y):
        spread.append(set(x.devices()) == set(devices) and x.addressable_shards[0].data.shape[0] == batch_size // 2)
        return example_by_example(x, y)

    assert_same(over_batches(function, [x, y], batch_size, mesh=data_mesh(devices)), x, y)
    assert spread and all(spread)


def test_a_batch_size_that_does_not_divide_by_the_devices_is_rounded_up():
    x, y = data(11)
    sizes = []

    def function(x, y):
        sizes.append(len(x))
        return example_by_example(x, y)

    assert_same(over_batches(function, [x, y], 5, mesh=data_mesh(jax.devices()[:2])), x, y)
    assert sizes == [6, 6]


def test_arrays_that_are_read_when_indexed_are_read_batch_by_batch():
    x, y = data(11)
    lazy = Lazy(x)
    assert_same(over_batches(jax.jit(example_by_example), [lazy, y], 4), x, y)
    rows = [row for index in lazy.asked for row in range(11)[index]]
    assert rows == list(range(11))
    assert max(len(range(11)[index]) for index in lazy.asked) == 4


def test_arrays_on_the_device_are_taken_too():
    x, y = data(5)
    assert_same(over_batches(example_by_example, [jnp.asarray(x), jnp.asarray(y)], 4), x, y)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_size_that_is_not_positive_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be positive; got batch_size={batch_size}"):
        over_batches(example_by_example, data(3), batch_size)


def test_no_examples_at_all_are_refused():
    with pytest.raises(ValueError, match="got"):
        over_batches(lambda x: x, [np.zeros((0, 3), np.float32)], 4)


@pytest.mark.parametrize("lengths", [(8, 9), (8, 7), (4, 5)])
def test_arrays_of_different_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match="one length"):
        over_batches(lambda x, y: x, [np.zeros(length, np.float32) for length in lengths], 4)


@pytest.mark.parametrize(
    "function", [lambda x: x.sum(), lambda x: x.mean(keepdims=True), lambda x: jnp.zeros(9) + x.sum()]
)
def test_results_that_are_not_one_for_each_example_are_refused(function):
    with pytest.raises(ValueError, match="one entry for each of the 2 examples of a batch"):
        over_batches(function, [np.arange(5, dtype=np.float32)], 2)


# shrinking


@pytest.mark.parametrize("multiple", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 6, 256])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 11, 70])
def test_shrinking_cuts_everything_into_few_shapes(n, batch_size, multiple):
    ids = np.random.default_rng(n).permutation(1000)[:n]
    parts = list(shrinking(ids, batch_size, multiple))
    np.testing.assert_array_equal(np.concatenate([np.zeros(0, int), *(part for part, _ in parts)]), ids)
    for part, size in parts[:-1]:
        assert len(part) == size == batch_size
    for part, size in parts[-1:]:
        assert len(part) <= size <= batch_size
        rest = size / multiple
        assert size == batch_size or (rest == 2 ** round(np.log2(rest)) and (len(part) > size / 2 or rest == 1))


def test_a_whole_sweep_of_sizes_needs_few_shapes():
    """What is left of a data set goes from 200 to 1: one shape for each power of two."""
    sizes = {size for n in range(200, 0, -1) for _, size in shrinking(np.arange(n), 64)}
    assert sizes == {1, 2, 4, 8, 16, 32, 64}
