"""Readings never exceed the information there is, and a fresh head finds what a head of its kind can find."""

from functools import cache

import jax
import numpy as np
import pytest
import scipy.special

from invjax.analysis import fresh_head, reading, train_head
from invjax.models import mlp
from invjax.training import data_mesh

KEY = jax.random.key(0)
SAMPLE = 400  # one size, so that all tables share their compiled functions
LN2 = float(np.log(2))


def table(seed, values=5, classes=3):
    """Counts `[values, classes]` of a random joint distribution of z and y, and a sample with exactly these."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(values * classes, 0.7))  # uneven; every cell occurs at least once
    counts = 1 + rng.multinomial(SAMPLE - values * classes, shares).reshape(values, classes)
    z, y = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    return counts / counts.sum(), z, y.astype(np.int32)


def mutual_information(p):
    """I(y; z) of a joint distribution, nats."""
    return scipy.special.rel_entr(p, p.sum(1, keepdims=True) * p.sum(0, keepdims=True)).sum()


# Barber & Agakov's bound


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scale", [0.0, 0.3, 3.0])
def test_no_classifier_reads_more_than_the_mutual_information_and_the_gap_is_a_divergence(seed, scale):
    p, z, y = table(seed)
    posterior = p / p.sum(1, keepdims=True)
    logits = np.log(posterior) + scale * np.random.default_rng(seed + 100).normal(size=p.shape)
    q = scipy.special.softmax(logits, axis=1)
    gap = (p.sum(1) * scipy.special.rel_entr(posterior, q).sum(1)).sum()
    information = reading(logits[z].astype(np.float32), y).information
    assert information <= mutual_information(p) + 1e-5
    np.testing.assert_allclose(mutual_information(p) - information, gap, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_logits_that_are_any_function_of_z_stay_below_the_mutual_information(seed):
    p, z, y = table(seed, values=7)
    rng = np.random.default_rng(seed + 100)
    for scale in (0.1, 1.0, 10.0):
        logits = scale * rng.normal(size=p.shape).astype(np.float32)
        assert reading(logits[z], y).information <= mutual_information(p) + 1e-5


def test_guessing_by_the_class_frequencies_reads_nothing():
    p, z, y = table(0)
    logits = np.tile(np.log(p.sum(0)).astype(np.float32), (len(z), 1))
    result = reading(logits, y)
    np.testing.assert_allclose(result.information, 0, atol=1e-5)
    np.testing.assert_allclose(result.error, 1 - p.sum(0).max(), atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_entropy_is_in_nats_and_that_of_the_labels(classes):
    y = np.arange(6 * classes, dtype=np.int32) % classes
    know = reading((100 * np.eye(classes)[y]).astype(np.float32), y)
    np.testing.assert_allclose(know.information, np.log(classes), rtol=1e-6)
    assert know.error == 0 and abs(know.cross_entropy) < 1e-6
    guess = reading(np.zeros((6 * classes, classes), np.float32), y)
    np.testing.assert_allclose([guess.cross_entropy, guess.information], [np.log(classes), 0], atol=1e-6)


def test_entropy_of_unbalanced_labels_and_of_classes_that_do_not_occur():
    y = np.array([0, 0, 0, 3], np.int32)
    result = reading((100 * np.eye(5)[y]).astype(np.float32), y)
    np.testing.assert_allclose(result.information, -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), rtol=1e-6)


def test_the_error_is_a_fraction_and_confident_mistakes_give_negative_information():
    y = np.array([0, 1, 0, 1], np.int32)
    result = reading(10 * np.eye(2, dtype=np.float32)[[0, 1, 1, 0]], y)
    assert result.error == 0.5
    expected = (2 * np.log1p(np.exp(-10)) + 2 * (10 + np.log1p(np.exp(-10)))) / 4
    np.testing.assert_allclose([result.cross_entropy, result.information], [expected, LN2 - expected], rtol=1e-5)


# Fresh heads


def linear_problem(n, seed=0):
    """Two classes on either side of a plane, with a margin."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    score = x @ np.array([1.0, -1.0, 0.5, 0.0], np.float32)
    return x + 0.3 * np.sign(score)[:, None] * np.array([1, -1, 0, 0], np.float32), (score > 0).astype(np.int32)


def xor_problem(n, seed=0):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (n, 2))
    x = 2 * bits - 1 + 0.2 * rng.normal(size=(n, 2))
    return x.astype(np.float32), (bits[:, 0] ^ bits[:, 1]).astype(np.int32)


def noise_problem(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, 2, n).astype(np.int32)


def head(net, train, test, key=KEY, epochs=20, learning_rate=2e-2, batch_size=32, **more):
    arguments = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size, **more}
    return fresh_head(key, net, train, test, **arguments)


LINEAR, MLP = mlp(2, ()), mlp(2, (16,))


def test_a_fresh_head_finds_a_linear_code():
    result = head(LINEAR, linear_problem(400), linear_problem(256, 1))
    for split in ("train", "test"):
        assert result[split].error < 0.03
        assert 0.8 * LN2 < result[split].information <= LN2 + 1e-5
        np.testing.assert_allclose(result[split].information + result[split].cross_entropy, LN2, atol=0.02)


def test_only_a_nonlinear_head_finds_an_exclusive_or():
    train, test = xor_problem(400), xor_problem(256, 1)
    linear, nonlinear = head(LINEAR, train, test)["test"], head(MLP, train, test)["test"]
    assert linear.error > 0.35 and linear.information < 0.05
    assert nonlinear.error < 0.02 and nonlinear.information > 0.8 * LN2


def test_a_fresh_head_reads_no_information_from_noise():
    result = head(LINEAR, noise_problem(1024), noise_problem(1024, 1), epochs=5)["test"]
    assert abs(result.error - 0.5) < 4 * 0.5 / np.sqrt(1024)  # four standard errors of a coin
    assert -0.02 < result.information < 0.01


@cache
def plain():
    """What is read where no feature is scaled, shifted or reshaped."""
    return head(LINEAR, linear_problem(256), linear_problem(128, 1), epochs=10)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 100.0), (1e-9, 0.0)])
def test_scale_and_shift_of_the_features_do_not_matter(scale, shift):
    """All features alike here; each by itself, and other scales, below."""
    (x, y), (x_test, y_test) = linear_problem(256), linear_problem(128, 1)
    moved = [((scale * a + shift).astype(np.float32), b) for a, b in ((x, y), (x_test, y_test))]
    result = head(LINEAR, *moved, epochs=10)
    for split in ("train", "test"):
        np.testing.assert_allclose(result[split], plain()[split], atol=0.01)


def test_each_feature_is_standardised_for_itself():
    scales, shifts = np.array([1e-4, 1e4, 1.0, 1e2]), np.array([0.0, -3e4, 50.0, 0.0])
    (x, y), (x_test, y_test) = linear_problem(256), linear_problem(128, 1)
    moved = [((scales * a + shifts).astype(np.float32), b) for a, b in ((x, y), (x_test, y_test))]
    np.testing.assert_allclose(head(LINEAR, *moved, epochs=10)["test"], plain()["test"], atol=0.01)


@pytest.mark.parametrize("constant", [0.0, -1000.1])
def test_constant_features_change_nothing(constant):
    (x, y), (x_test, y_test) = linear_problem(256), linear_problem(128, 1)
    x, x_test = (np.concatenate([a, np.full((len(a), 2), constant, np.float32)], 1) for a in (x, x_test))
    result = head(LINEAR, (x, y), (x_test, y_test), epochs=10)
    assert np.isfinite(result["train"]).all() and np.isfinite(result["test"]).all()
    assert result["test"].error < 0.05


def test_a_feature_that_is_constant_in_training_alone_is_not_blown_up():
    (x, y), (x_test, y_test) = linear_problem(256), linear_problem(128, 1)
    noise = np.random.default_rng(0).normal(size=(128, 1)).astype(np.float32)
    train = np.concatenate([x, np.full((256, 1), 1.1, np.float32)], 1), y  # the float32 mean of this feature is not 1.1
    test = np.concatenate([x_test, 1.1 + 0.01 * noise], 1), y_test
    assert head(LINEAR, train, test, epochs=10)["test"].error < 0.05


def test_the_test_set_is_standardised_as_the_training_set_was():
    x, y = linear_problem(512)
    chosen = y == 1  # standardised by its own statistics, half of it would be on the wrong side
    result = head(LINEAR, (x, y), (x[chosen], y[chosen]))
    assert result["test"].error < 0.05


def test_the_test_reading_is_that_of_the_test_set():
    x, y = linear_problem(256)
    result = head(LINEAR, (x, y), (x[:100], 1 - y[:100]))
    assert result["train"].error < 0.05 and result["test"].error > 0.9
    assert result["train"].information > 0.5 and result["test"].information < 0


def test_features_of_any_rank_are_read():
    (x, y), (x_test, y_test) = linear_problem(256), linear_problem(128, 1)
    images = head(LINEAR, (x.reshape(-1, 2, 2, 1), y), (x_test.reshape(-1, 2, 2, 1), y_test), epochs=10)
    np.testing.assert_allclose(images["test"], plain()["test"], atol=1e-5)


def test_the_same_key_gives_the_same_reading_and_another_key_another():
    train, test = noise_problem(128), noise_problem(128, 1)
    results = [head(MLP, train, test, key=jax.random.key(seed), epochs=2) for seed in (0, 0, 1)]
    assert results[0] == results[1]
    assert results[0]["test"].cross_entropy != results[2]["test"].cross_entropy


def test_devices_do_not_change_the_reading():
    train, test = linear_problem(128), linear_problem(128, 1)
    alone = head(LINEAR, train, test, epochs=3)
    spread = head(LINEAR, train, test, epochs=3, mesh=data_mesh(jax.devices()[:2]))
    for split in ("train", "test"):
        np.testing.assert_allclose(alone[split], spread[split], atol=1e-4)


def test_the_head_starts_afresh_and_the_features_stay_as_they_are():
    """With a learning rate of next to nothing it reads nothing: what it knows it learned here."""
    train, test = linear_problem(256), linear_problem(128, 1)
    before = train[0].copy()
    result = head(mlp(2, (), zero_init=True), train, test, epochs=1, learning_rate=1e-9)
    np.testing.assert_allclose(result["test"].cross_entropy, LN2, atol=1e-5)
    np.testing.assert_array_equal(train[0], before)


def test_fresh_head_reads_the_head_of_train_head():
    train, (x_test, y_test) = linear_problem(128), linear_problem(100, 1)
    logits_fn = train_head(KEY, LINEAR, train, epochs=3, batch_size=32)
    result = fresh_head(KEY, LINEAR, train, (x_test, y_test), epochs=3, batch_size=32)
    np.testing.assert_allclose(reading(np.asarray(logits_fn(x_test)), y_test), result["test"], atol=1e-5)
    np.testing.assert_allclose(reading(np.asarray(logits_fn(train[0])), train[1]), result["train"], atol=1e-5)


def test_bad_training_data_of_a_head_are_refused():
    for spoil in (with_label_two, with_nan):
        with pytest.raises(ValueError, match=r"labels must be in \[0, 2\)|holds 4 NaN"):
            train_head(KEY, LINEAR, spoil(*linear_problem(64)), epochs=1, batch_size=64)


def with_label_two(x, y):
    return x, np.where(np.arange(len(y)) == 7, 2, y).astype(np.int32)


def with_nan(x, y):
    return np.where(np.arange(len(y))[:, None] == 7, np.float32(np.nan), x), y


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_label_two, r"labels must be in \[0, 2\); got values from 0 to 2"),
        (with_nan, "holds 4 NaN or infinite values"),
    ],
)
def test_labels_and_features_that_make_no_sense_are_refused(spoil, message, split):
    data = {"train": linear_problem(64), "test": linear_problem(64, 1)}
    data[split] = spoil(*data[split])
    with pytest.raises(ValueError, match=message):
        head(LINEAR, data["train"], data["test"], epochs=1, batch_size=64)


def test_fewer_examples_than_a_batch_are_refused_by_their_number():
    train, test = linear_problem(20), linear_problem(20, 1)
    with pytest.raises(ValueError, match="batch_size must be at most 20, the number of examples; got 32"):
        head(LINEAR, train, test)
