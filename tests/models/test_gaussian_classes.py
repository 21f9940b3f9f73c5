"""Class-conditional normal densities of few directions: the fit and the densities against scipy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from invjax.attacks import linf, pgd
from invjax.data import as_float, load
from invjax.models import fit_gaussian_classes, gaussian_class_log_densities

CLASSES, SIZE, KEPT = 3, 6, 2


def three_classes(count=900, dtype=np.float64):
    """Classes that differ in mean, covariance and number."""
    rng = np.random.default_rng(0)
    labels = np.concatenate(
        [np.full(count // 2, 0), np.full(count // 3, 1), np.full(count - count // 2 - count // 3, 2)]
    )
    mixing = rng.normal(size=(CLASSES, SIZE, SIZE))
    x = np.einsum("nij,nj->ni", mixing[labels], rng.normal(size=(count, SIZE))) + 2 * labels[:, None]
    return x.reshape(count, 2, 3, 1).astype(dtype), labels


def covariances(flat, labels, floor=0.0):
    """By the definition: the leading variances stay, the others become their mean; none falls below the floor."""
    for c in range(CLASSES):
        values, vectors = np.linalg.eigh(np.cov(flat[labels == c].T, bias=True))
        values = np.concatenate([np.full(SIZE - KEPT, values[:-KEPT].mean()), values[-KEPT:]])
        yield vectors @ np.diag(np.maximum(values, floor)) @ vectors.T


@pytest.mark.parametrize("floor", [1e-6, 1.2])
def test_the_logits_are_log_prior_and_log_density(float64, floor):
    x, labels = three_classes()
    flat = x.reshape(len(x), -1)
    expected = [
        stats.multivariate_normal(flat[labels == c].mean(0), covariance).logpdf(flat[::7])
        + np.log((labels == c).mean())
        for c, covariance in enumerate(covariances(flat, labels, floor**2))
    ]
    params = fit_gaussian_classes(x, labels, CLASSES, components=KEPT, min_std=floor)
    np.testing.assert_allclose(
        gaussian_class_log_densities(params, jnp.asarray(x[::7])), np.stack(expected, 1), rtol=1e-10
    )


def test_the_variance_floor_is_active_in_the_test_above():
    x, labels = three_classes()
    variances = [np.linalg.eigvalsh(c) for c in covariances(x.reshape(len(x), -1), labels)]
    assert np.min(variances) < 1.2**2 < np.max(variances)


def test_the_densities_integrate_to_one(float64):
    x = np.random.default_rng(1).normal(size=(200, 2)) @ np.array([[1.0, 0.4], [0, 0.5]])
    params = fit_gaussian_classes(x, np.zeros(200, int), 1, components=1, min_std=0.01)
    at = np.linspace(-8, 8, 401)
    grid = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
    total = np.exp(gaussian_class_log_densities(params, jnp.asarray(grid))).sum() * (at[1] - at[0]) ** 2
    assert total == pytest.approx(1, abs=1e-6)


def test_no_other_variances_of_that_kind_make_the_data_more_likely(float64):
    x, labels = three_classes()
    params = fit_gaussian_classes(x, labels, CLASSES, components=KEPT, min_std=1e-6)

    def likelihood(changed):
        logits = gaussian_class_log_densities(changed, jnp.asarray(x))
        return float(jnp.take_along_axis(logits, labels[:, None], 1).mean())

    best = likelihood(params)
    for name in ("mean", "variances", "rest"):
        for factor in (0.9, 1.1):
            assert likelihood(params._replace(**{name: factor * getattr(params, name)})) < best


@pytest.mark.slow
def test_gaussian_densities_classify_digits_and_can_be_attacked():
    train, test = load("digits", "train"), load("digits", "test")
    params = fit_gaussian_classes(as_float(train.images, train.levels), train.labels, 10, components=15, min_std=0.05)
    assert all(leaf.dtype == np.float32 for leaf in params)
    x, labels = jnp.asarray(as_float(test.images[:64], test.levels)), jnp.asarray(test.labels[:64])
    logits_fn = jax.jit(lambda x: gaussian_class_log_densities(params, x))
    assert float((logits_fn(x).argmax(1) != labels).mean()) < 0.1
    found = pgd(linf(), steps=5)(jax.random.key(0), logits_fn, x, labels, eps=0.3)
    assert float(found.success.mean()) > 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((30, SIZE), np.uint8)}, "floating point"),
        ({"x": np.full((30, SIZE), np.nan)}, "NaN"),
        ({"labels": np.full(30, 3)}, r"labels must be in \[0, 3\)"),
        ({"labels": np.arange(30) % 2}, "class 2 has 0"),
        ({"components": 10}, "fewer than the 6 values"),
        ({"components": 5, "labels": np.repeat([0, 1, 2], [15, 11, 4])}, "class 2 has 4; lower components"),
        ({"components": 0}, "components must be positive"),
        ({"min_std": 0.0}, "min_std must be positive"),
    ],
    ids=["bytes", "nan", "range", "empty class", "components", "few", "none", "floor"],
)
def test_bad_input_is_refused(changes, message):
    given = {"x": np.random.default_rng(0).normal(size=(30, SIZE)), "labels": np.arange(30) % 3, "components": KEPT}
    with pytest.raises(ValueError, match=message):
        fit_gaussian_classes(**(given | changes), num_classes=CLASSES)
