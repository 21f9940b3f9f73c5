"""The l0-sparse defence: exact where the theory says so, and a network like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft

from invjax.attacks import jit_attack, l0, pgd
from invjax.models import l0_sparse, largest_frequencies, mlp
from invjax.models._sparse import keep_largest, without_outliers


def sparse_images(seed, count=4, frequencies=8, side=28):
    """Images of so many frequencies, of magnitude 1 to 2."""
    rng = np.random.default_rng(seed)
    coefficients = np.zeros((count, side * side))
    for row in coefficients:
        row[rng.choice(side * side, frequencies, replace=False)] = rng.uniform(1, 2, frequencies) * rng.choice(
            [-1, 1], frequencies
        )
    return fft.idctn(coefficients.reshape(count, side, side), axes=(1, 2), norm="ortho")[..., None]


def corrupted(x, seed, outliers):
    rng = np.random.default_rng(seed)
    y = x.copy().reshape(len(x), -1)
    for row in y:
        row[rng.choice(row.size, outliers, replace=False)] += rng.uniform(0.5, 3, outliers) * rng.choice(
            [-1, 1], outliers
        )
    return y.reshape(x.shape)


@pytest.mark.parametrize("seed", range(3))
def test_sparse_images_are_recovered_from_sparse_corruption_exactly(seed, float64):
    x = sparse_images(seed)
    y = corrupted(x, seed, 10)
    clean = without_outliers(y, 8, 10, 40)
    np.testing.assert_allclose(clean, x, atol=1e-9)
    assert np.abs(largest_frequencies(y, 8) - x).max() > 0.01  # the outliers change the projection
    assert np.abs(without_outliers(y, 8, 5, 40) - x).max() > 0.01  # more corrupted values than outliers


def test_without_outliers_the_defence_is_the_projection():
    x = np.random.default_rng(0).uniform(size=(3, 8, 8, 2)).astype(np.float32)
    np.testing.assert_allclose(without_outliers(x, 9, 0), largest_frequencies(x, 9), atol=1e-6)


def test_few_frequencies_are_the_nearest_image_that_has_no_more(float64):
    x = np.random.default_rng(1).uniform(size=(3, 9, 7, 1))
    near = np.asarray(largest_frequencies(x, 5))
    sizes = np.sort(np.abs(fft.dctn(x, axes=(1, 2), norm="ortho")).reshape(3, -1), axis=1)
    np.testing.assert_allclose(((near - x) ** 2).sum((1, 2, 3)), (sizes[:, :-5] ** 2).sum(1), rtol=1e-10)
    kept = np.abs(fft.dctn(near, axes=(1, 2), norm="ortho")) > 1e-12
    np.testing.assert_array_equal(kept.sum((1, 2, 3)), [5, 5, 5])
    np.testing.assert_allclose(largest_frequencies(near, 5), near, atol=1e-12)


def test_keep_largest_keeps_the_given_number_of_values_and_their_gradient():
    values = jnp.array([[1.0, -3.0, 3.0, 3.0, 0.5], [0.0, 0.0, 0.0, 2.0, -1.0]])
    np.testing.assert_array_equal(keep_largest(values, 2), [[0, -3, 3, 0, 0], [0, 0, 0, 2, -1]])
    gradient = jax.grad(lambda v: (keep_largest(v, 2) ** 2).sum())(values)
    np.testing.assert_array_equal(gradient, [[0, -6, 6, 0, 0], [0, 0, 0, 4, -2]])
    np.testing.assert_array_equal(keep_largest(values, 99), values)


def test_the_defended_network_sees_cleaned_images_one_by_one():
    net = mlp(3, (5,))
    x = jnp.asarray(np.random.default_rng(2).uniform(size=(4, 8, 8, 1)), jnp.float32)
    params = net.init(jax.random.key(0), x)
    defended = l0_sparse(net, 6, 4, iterations=3)
    expected = net.apply(params, without_outliers(x, 6, 4, 3))
    np.testing.assert_allclose(defended.apply(params, x), expected, rtol=1e-6)
    np.testing.assert_allclose(defended.apply(params, x[1:2]), expected[1:2], rtol=1e-5)
    assert not np.allclose(expected, net.apply(params, x), atol=1e-3)


def test_the_gradient_treats_the_kept_frequencies_as_constants(float64):
    net, rng = mlp(3, ()), np.random.default_rng(3)
    x, change = (jnp.asarray(rng.uniform(0.3, 0.7, size=(8, 8, 8, 1))) for _ in range(2))
    params = net.init(jax.random.key(0), x)
    apply_fn = jax.jit(l0_sparse(net, 20, 2, iterations=3).apply)
    _, slope = jax.jvp(lambda z: apply_fn(params, z), (x,), (change,))
    moved = (apply_fn(params, x + 1e-7 * change) - apply_fn(params, x - 1e-7 * change)) / 2e-7
    np.testing.assert_allclose(slope, moved, atol=1e-5)
    assert float(jnp.abs(slope).max()) > 0.1


def test_attacks_follow_the_gradient_through_the_iterations():
    net = mlp(3, ())
    x = jnp.asarray(np.random.default_rng(3).uniform(0.3, 0.7, size=(8, 8, 8, 1)), jnp.float32)
    params = net.init(jax.random.key(0), x)
    defended = l0_sparse(net, 20, 2, iterations=3)
    labels = defended.apply(params, x).argmax(1).astype(jnp.int32)
    found = jit_attack(pgd(l0(), steps=10), defended.apply)(jax.random.key(1), params, x, labels, eps=30)
    assert float(found.success.mean()) > 0.5


def test_bad_numbers_are_refused():
    net, x = mlp(3, ()), jnp.zeros((1, 4, 4, 1))
    with pytest.raises(ValueError, match="frequencies must be positive"):
        l0_sparse(net, 0, 2)
    with pytest.raises(ValueError, match="outliers must not be negative"):
        l0_sparse(net, 3, -1)
    with pytest.raises(ValueError, match=r"outliers=17 must not exceed the 16 values"):
        l0_sparse(net, 3, 17).apply(net.init(jax.random.key(0), x), x)
    with pytest.raises(ValueError, match="count must be positive"):
        largest_frequencies(x, 0)


def test_integer_images_are_refused():
    with pytest.raises(ValueError, match="x must be floating point; got dtype uint8"):
        without_outliers(np.zeros((1, 4, 4, 1), np.uint8), 3, 2)
    with pytest.raises(ValueError, match="x must be floating point; got dtype uint8"):
        largest_frequencies(np.zeros((1, 4, 4, 1), np.uint8), 3)
