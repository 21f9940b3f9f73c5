"""A generative classifier's logits are the log densities of its classes, so it does not live on one cue alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from invjax.analysis import reading
from invjax.data import Dataset, as_float, binary_shift, load
from invjax.losses import dequantize
from invjax.models import generative_classifier

KEY = jax.random.key(0)
CLASSES, SHAPE = 3, (3, 3, 1)
SIZE = 9


def two_moments(count=3000):
    """Classes that differ in mean and covariance, in all pixels but the last three."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    mixing = rng.normal(size=(CLASSES, SIZE, SIZE))
    x = np.einsum("nij,nj->ni", mixing[labels], rng.normal(size=(count, SIZE))) + 2 * labels[:, None]
    return x.reshape(count, *SHAPE).astype(np.float32), labels


@pytest.mark.slow
def test_without_marginals_the_logits_are_log_prior_and_normal_log_density():
    x, labels = two_moments()
    x, labels = x[labels != 2], labels[labels != 2]
    # the third class has another prior
    x, labels = np.concatenate([x, two_moments()[0][2:900:3]]), np.concatenate([labels, np.full(300, 2)])
    model, params = generative_classifier(KEY, x, labels, CLASSES, min_std=1e-3)
    flat = x.reshape(len(x), -1)[:, ::-1].astype(np.float64)  # the last K pixels carry the logits
    expected = np.stack(
        [
            stats.multivariate_normal(flat[labels == c, 3:].mean(0), np.cov(flat[labels == c, 3:].T)).logpdf(
                flat[:50, 3:]
            )
            + np.log((labels == c).mean())
            for c in range(CLASSES)
        ],
        1,
    )
    np.testing.assert_allclose(model.apply(params, x[:50]), flat[:50, :3] + expected, rtol=2e-4, atol=2e-3)


def test_no_direction_is_trusted_to_vary_less_than_min_std():
    x, labels = two_moments()
    x[..., 0, 0, 0] = 0.5  # a pixel without variance
    base, moved = x[:1], x[:1] + np.eye(SIZE, dtype=np.float32)[0].reshape(1, *SHAPE)
    model, params = generative_classifier(KEY, x, labels, CLASSES, min_std=0.1)
    loss = model.apply(params, base) - model.apply(params, moved)
    np.testing.assert_allclose(loss, np.full((1, CLASSES), 1 / (2 * 0.1**2)), rtol=2e-3)


@pytest.mark.slow
def test_marginals_raise_the_likelihood_of_skewed_data():
    rng = np.random.default_rng(1)
    labels = np.arange(4000) % 2
    x = rng.exponential(size=(4000, 5)).astype(np.float32) + labels[:, None].astype(np.float32)

    def mean_log_density(rounds):
        model, params = generative_classifier(KEY, x, labels, 2, min_std=1e-3, rounds=rounds, knots=16)
        logits = model.apply(params, x) - x[:, ::-1][:, :2]
        return float(np.asarray(logits)[np.arange(4000), labels].mean())

    assert mean_log_density(1) > mean_log_density(0) + 0.2


def test_a_generative_classifier_is_invertible():
    x, labels = two_moments()
    model, params = generative_classifier(KEY, x, labels, CLASSES)
    code, logdet = model.encode(params, x[:20])
    np.testing.assert_allclose(model.decode(params, code), x[:20], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(logdet, np.zeros(20))


@pytest.mark.slow
def test_taking_the_code_away_from_digits_hardly_matters():
    train, test = load("digits", "train"), load("digits", "test")
    coded = binary_shift(train, "coded", seed=0)
    x = dequantize(KEY, jnp.asarray(as_float(coded.images[:], train.levels)), train.levels)
    model, params = generative_classifier(KEY, np.asarray(x), train.labels, 10, min_std=0.2)

    def error(data: Dataset):
        logits = np.asarray(model.apply(params, jnp.asarray(as_float(data.images[:], data.levels))))
        return reading(logits, data.labels).error

    assert error(binary_shift(test, "coded", seed=1)) < 0.05
    assert error(binary_shift(test, "removed", seed=1)) < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(8, int)}, "one for each image"),
        ({"labels": np.full(9, 3)}, "3"),
        ({"labels": np.arange(9) % 2}, "class 2 has 0"),
        ({"x": np.full((9, *SHAPE), np.nan, np.float32)}, "NaN"),
        ({"x": np.zeros((9, *SHAPE), np.uint8)}, "float"),
        ({"x": np.zeros((9, 2, 2, 1), np.float32)}, "D at least 5"),
        ({"min_std": 0.0}, "min_std must be positive"),
        ({"rounds": -1}, "rounds must be 0"),
    ],
    ids=["lengths", "range", "empty class", "nan", "integers", "small", "std", "rounds"],
)
def test_bad_input_is_refused(changes, message):
    given = {"x": two_moments(9)[0], "labels": two_moments(9)[1]} | changes
    with pytest.raises(ValueError, match=message):
        generative_classifier(KEY, num_classes=CLASSES, **given)
