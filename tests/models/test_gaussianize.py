"""Gaussianising a trained classifier keeps its logits and takes from its nuisance what tells the classes apart."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from invjax.bijectors import decision_marginals, decision_whitening, flatten, logit_coupling, soft_tails
from invjax.models import coupled_classifier, gaussianize, invertible_classifier, mlp

KEY = jax.random.key(0)
CLASSES, SIZE, COUNT = 3, 4, 3000


@cache
def images():
    """Three classes of different mean, covariance and skewness in the nuisance; the logits say which."""
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % CLASSES
    mixing = rng.normal(size=(CLASSES, SIZE, SIZE))
    skewed = rng.exponential(size=(COUNT, SIZE)) * np.array([1.0, 2.0, 0.5])[labels, None]
    nuisance = np.einsum("nij,nj->ni", mixing[labels], skewed) + 3 * labels[:, None]
    logits = 4 * np.eye(CLASSES)[labels] + rng.normal(size=(COUNT, CLASSES)) / 4
    return np.concatenate([logits, nuisance], 1).astype(np.float32), labels


IDENTITY = invertible_classifier(flatten((CLASSES + SIZE,)), (CLASSES + SIZE,), CLASSES)


@cache
def gaussianized(rounds=2):
    return gaussianize(KEY, IDENTITY, (), images()[0], rounds=rounds, knots=16)


@pytest.mark.slow
def test_gaussianize_keeps_the_logits_bit_for_bit():
    x, _ = images()
    model, params = gaussianized()
    np.testing.assert_array_equal(model.apply(params, x), x[:, :CLASSES])


def test_each_class_has_mean_zero_and_covariance_one_before_the_tails_are_softened():
    x, labels = images()
    model, params = gaussianized()
    nuisance = np.sinh(model.encode(params, x)[0].nuisance)
    for c in range(CLASSES):
        np.testing.assert_allclose(nuisance[labels == c].mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(np.cov(nuisance[labels == c].T), np.eye(SIZE), atol=5e-3)


def test_the_marginals_of_each_class_come_near_the_normal():
    x, labels = images()
    before = [stats.kstest(stats.zscore(x[labels == c, CLASSES:]).ravel(), "norm").statistic for c in range(CLASSES)]
    model, params = gaussianized()
    nuisance = np.sinh(model.encode(params, x)[0].nuisance)
    after = [stats.kstest(nuisance[labels == c].ravel(), "norm").statistic for c in range(CLASSES)]
    assert all(now < then / 2 for now, then in zip(after, before, strict=True)), (before, after)


def test_a_quadratic_classifier_reads_nothing_from_the_gaussianized_nuisance():
    x, labels = images()
    model, params = gaussianized()

    def error(nuisance):
        scores = [
            stats.multivariate_normal(nuisance[labels == c].mean(0), np.cov(nuisance[labels == c].T)).logpdf(nuisance)
            for c in range(CLASSES)
        ]
        return (np.argmax(scores, 0) != labels).mean()

    assert error(x[:, CLASSES:]) < 0.1
    assert error(np.sinh(model.encode(params, x)[0].nuisance)) > 0.6  # chance: 0.667


def test_a_gaussianized_model_is_invertible_and_raises_the_likelihood():
    x, _ = images()
    model, params = gaussianized()
    code, logdet = model.encode(params, x[:200])
    np.testing.assert_allclose(model.decode(params, code), x[:200], rtol=1e-4, atol=1e-4)

    def log_likelihood(nuisance, logdet):
        return float((stats.norm.logpdf(nuisance).sum(1) + logdet).mean())

    after = log_likelihood(np.asarray(code.nuisance), np.asarray(logdet))
    assert after > log_likelihood(x[:200, CLASSES:], np.zeros(200)) + 5


def test_metamers_are_drawn_from_the_class_of_their_logits():
    x, labels = images()
    model, params = gaussianized()
    code, _ = model.encode(params, x)
    first, second = np.flatnonzero(labels == 0), np.flatnonzero(labels == 2)
    made = np.asarray(model.decode(params, type(code)(code.logits[first], code.nuisance[second])))
    mean = {c: x[labels == c, CLASSES:].mean(0) for c in (0, 2)}
    np.testing.assert_allclose(made[:, CLASSES:].mean(0), mean[0], atol=0.3)
    assert np.abs(mean[0] - mean[2]).max() > 3


def test_gaussianize_without_rounds_only_whitens():
    x, labels = images()
    model, params = gaussianized(0)
    whitened = np.sinh(model.encode(params, x)[0].nuisance[labels == 1])
    members = x[labels == 1, CLASSES:].astype(np.float64)
    expected = np.linalg.solve(np.cov(members.T), (members - members.mean(0)).T).T  # Mahalanobis lengths
    lengths = (expected * (members - members.mean(0))).sum(1)
    np.testing.assert_allclose((whitened**2).sum(1), lengths, rtol=1e-3)


def test_marginals_map_quantiles_to_normal_quantiles():
    x, labels = images()
    layer = decision_marginals(CLASSES, knots=32)
    z, _ = layer.forward(layer.init(KEY, x), x)
    for c in range(CLASSES):
        for level in (0.05, 0.5, 0.95):
            found = np.quantile(z[labels == c, CLASSES + 1], level)
            assert found == pytest.approx(stats.norm.ppf(level), abs=0.05)


def test_whitening_keeps_the_nuisance_of_a_class_that_it_has_never_seen():
    x = images()[0]
    layer = decision_whitening(CLASSES)
    params = layer.init(KEY, x[images()[1] != 1])
    unseen = x[images()[1] == 1]
    np.testing.assert_allclose(layer.forward(params, unseen)[0], unseen, rtol=1e-6)


def test_soft_tails_are_arcsinh_of_the_nuisance_alone():
    x = np.array([[100.0, -50.0, 0.0, 1.0, -1e6]], np.float32)
    z, logdet = soft_tails(2).forward((), x)
    np.testing.assert_allclose(z, np.concatenate([x[:, :2], np.arcsinh(x[:, 2:])], 1), rtol=1e-6)
    np.testing.assert_allclose(logdet, -0.5 * np.log1p(x[:, 2:].astype(np.float64) ** 2).sum(1), rtol=1e-6)


def test_a_coupled_classifier_has_the_logits_of_its_network_and_the_pixels_as_nuisance():
    model = coupled_classifier(lambda outputs: mlp(outputs, (5,)), (3, 3, 1), 4)
    x = np.random.default_rng(0).uniform(size=(6, 3, 3, 1)).astype(np.float32)
    params = model.init(KEY, x)
    code, logdet = model.encode(params, x)
    masked = x.reshape(6, 9) * (np.arange(9) >= 4)
    expected = x.reshape(6, 9)[:, :4] + mlp(4, (5,)).apply(params[1], masked.reshape(6, 3, 3, 1))
    np.testing.assert_allclose(code.logits, expected, rtol=1e-5)
    np.testing.assert_array_equal(code.nuisance, x.reshape(6, 9)[:, 4:])
    np.testing.assert_array_equal(logdet, np.zeros(6))
    np.testing.assert_allclose(model.decode(params, code), x, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_tails(2).forward((), jnp.zeros((2, 4, 4, 1))), "put flatten"),
        (lambda: logit_coupling(lambda k: mlp(k, ()), 4).init(KEY, jnp.zeros((2, 5))), "D at least 6"),
        (lambda: decision_marginals(3, knots=1), "knots must be at least 2"),
        (lambda: decision_whitening(0), "num_classes must be positive"),
        (lambda: decision_whitening(2, min_std=0.0), "min_std must be positive"),
        (lambda: flatten((2, 2)).forward((), jnp.zeros((3, 4))), "needs x of shape"),
        (lambda: gaussianize(KEY, IDENTITY, (), images()[0], rounds=-1), "rounds must be 0"),
        (lambda: coupled_classifier(lambda k: mlp(k, ()), (2, 2), 4), "num_classes must be in"),
    ],
    ids=["images", "short", "knots", "classes", "std", "flatten", "rounds", "too many classes"],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_jit_does_not_change_the_fit_of_a_layer():
    x, _ = images()
    for layer in (decision_whitening(CLASSES), decision_marginals(CLASSES, knots=8)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            layer.init(KEY, x[:600]),
            jax.jit(layer.init)(KEY, x[:600]),
        )
