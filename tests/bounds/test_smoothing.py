"""Randomised smoothing: equal to SciPy's interval, and right about a classifier whose radius is known."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from invjax.bounds import ABSTAIN, smoothed, smoothing_radius


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_lower_bound_equals_that_of_scipy(alpha):
    for trials in (10, 1000):
        counts = np.array([0, 1, trials // 2, trials // 2 + 1, int(0.9 * trials), trials - 1, trials])
        lower = [
            scipy.stats.binomtest(int(k), trials, alternative="greater").proportion_ci(1 - alpha, "exact").low
            for k in counts
        ]
        expected = np.where(np.array(lower) > 0.5, 0.25 * scipy.stats.norm.ppf(np.maximum(lower, 0.5)), 0)
        np.testing.assert_allclose(smoothing_radius(counts, trials, sigma=0.25, alpha=alpha), expected, rtol=1e-10)
    assert (expected > 0).sum() == 3


def test_the_radius_is_wrong_at_most_at_the_rate_alpha():
    """Of an answer of probability 0.8, whose radius is Phi^-1(0.8); the interval is exact, so nearly as often, too."""
    counts = np.random.default_rng(0).binomial(200, 0.8, size=20000)
    wrong = (smoothing_radius(counts, 200, sigma=1.0, alpha=0.05) > scipy.stats.norm.ppf(0.8)).mean()
    assert 0.02 < wrong < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 20000)


def half_space(x):
    """`x1 - 2 x2 > 0.5`: its distance is known."""
    score = x @ jnp.array([1.0, -2.0]) - 0.5
    return jnp.stack([-score, score], 1)


X = np.array([[1.5, 0.0], [0.0, 1.0], [0.5, 0.0], [0.55, 0.0]], np.float32)


def test_the_radius_of_a_half_space_is_a_little_below_the_distance():
    found = smoothed(jax.random.key(0), half_space, X, sigma=0.5, trials=4000)
    distance = np.abs(X @ [1, -2] - 0.5) / np.sqrt(5)
    assert found.label.tolist() == [1, 0, ABSTAIN, ABSTAIN]
    assert (found.radius <= distance).all() and (found.radius[:2] > 0.85 * distance[:2]).all()
    assert found.radius[2:].tolist() == [0, 0]


def test_smoothing_abstains_on_nan_logits():
    found = smoothed(jax.random.key(0), lambda x: jnp.full((len(x), 2), jnp.nan), X, sigma=0.5, trials=100)
    assert found.label.tolist() == 4 * [ABSTAIN] and found.radius.tolist() == 4 * [0]


def test_a_class_that_is_masked_by_minus_infinity_only_loses():
    masked = lambda x: jnp.concatenate([half_space(x), jnp.full((len(x), 1), -jnp.inf)], 1)  # noqa: E731
    run = lambda logits_fn: smoothed(jax.random.key(0), logits_fn, X, sigma=0.5, trials=200)  # noqa: E731
    found, expected = run(masked), run(half_space)
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_array_equal(found.radius, expected.radius)
    assert (found.label != ABSTAIN).sum() == 2


def test_noise_below_the_spacing_of_the_images_is_refused():
    with pytest.raises(ValueError, match=r"sigma=0.5 is below the spacing .* of bfloat16 numbers as large as x"):
        smoothed(jax.random.key(0), half_space, jnp.asarray(100 * X, jnp.bfloat16), sigma=0.5, trials=10)


def test_the_noise_of_an_image_does_not_depend_on_the_batch():
    found = smoothed(jax.random.key(0), half_space, X, sigma=0.5, trials=50)
    order = np.array([1, 0])
    other = smoothed(jax.random.key(0), half_space, X[order], sigma=0.5, trials=50, ids=order)
    np.testing.assert_array_equal(other.radius, found.radius[order])
    different = smoothed(jax.random.key(1), half_space, X, sigma=2.0, trials=50)
    assert not np.array_equal(different.radius, smoothed(jax.random.key(2), half_space, X, sigma=2.0, trials=50).radius)


def test_smoothing_chooses_and_counts_the_class_on_different_copies():
    """If one sample chose and counted one of 30 random classes, its frequency would be biased upwards."""

    def coin(x):
        return jnp.floor(x[:, :1] * 1e4) % 30 == jnp.arange(30)[None]

    x = np.zeros((256, 1), np.float32)
    found = smoothed(jax.random.key(0), coin, x, sigma=1.0, trials=10, selection=1, alpha=0.3)
    assert (found.label != ABSTAIN).mean() < 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smoothing_radius(3, 2, sigma=1.0), "successes must be from 0 to trials=2; got 3 to 3"),
        (lambda: smoothing_radius(-1, 2, sigma=1.0), "successes must be from 0 to trials=2; got -1 to -1"),
        (lambda: smoothing_radius(1, 2, sigma=0.0), "sigma must be positive; got sigma=0.0"),
        (lambda: smoothing_radius(1, 2, sigma=1.0, alpha=1.0), "alpha must be in (0, 1); got alpha=1.0"),
        (lambda: smoothed(jax.random.key(0), half_space, X, sigma=1.0, trials=0), "trials must be positive"),
        (lambda: smoothed(jax.random.key(0), half_space, X.astype(int), sigma=1.0), "x must be floating point"),
        (lambda: smoothed(jax.random.key(0), half_space, X * np.nan, sigma=1.0), "x holds 8 NaN"),
        (lambda: smoothed(jax.random.key(0), half_space, X, sigma=1.0, ids=np.arange(3)), "ids must have shape [4]"),
        (lambda: smoothed(jax.random.key(0), lambda x: x[:, 0], X, sigma=1.0), "the model must map images"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
