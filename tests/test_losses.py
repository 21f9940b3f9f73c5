"""Losses against optax, scipy and integrals worked out here; gradients of iCE for each of its two players."""

import math
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from invjax import losses
from invjax.bijectors import actnorm, affine_coupling, chain
from invjax.models import Code, mlp

# Each function is compiled once for each shape. Only concrete labels are checked, so tests of bad labels call
# `losses.cross_entropy` and the other losses without jit.
cross_entropy, entropy, error_rate, log_odds, margin, dlr, targeted_dlr, reverse_gradient = map(
    jax.jit,
    (
        losses.cross_entropy,
        losses.entropy,
        losses.error_rate,
        losses.log_odds,
        losses.margin,
        losses.dlr,
        losses.targeted_dlr,
        losses.reverse_gradient,
    ),
)
dequantize, bits_per_dim = (jax.jit(f, static_argnames="levels") for f in (losses.dequantize, losses.bits_per_dim))
ADVERSARIES = {name: jax.jit(adversary) for name, adversary in losses.ADVERSARIES.items()}
optax_cross_entropy = jax.jit(optax.softmax_cross_entropy_with_integer_labels)

KEY = jax.random.key(0)
CLASSES, NUISANCE, BATCH = 3, 4, 6


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def some_labels(seed=0, batch=BATCH, classes=CLASSES):
    return np.random.default_rng(seed).integers(0, classes, batch).astype(np.int32)


def assert_trees_close(a, b, **tolerances):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), a, b)


@cache
def value_and_gradient(loss):
    """`(logits, labels) -> (loss [B], its gradient [B, K])`."""

    def summed(logits, labels):
        values = loss(logits, labels)
        return values.sum(), values

    def run(logits, labels):
        (_, values), gradient = jax.value_and_grad(summed, has_aux=True)(logits, labels)
        return values, gradient

    return jax.jit(run)


# Entropy of the prediction

entropy_gradient = jax.jit(jax.grad(lambda h: losses.entropy(h).sum()))


def test_entropy_is_scipys_and_zero_where_the_model_is_sure():
    logits = normal(0, BATCH, CLASSES) * 3
    np.testing.assert_allclose(
        entropy(logits), scipy.stats.entropy(scipy.special.softmax(logits, 1), axis=1), rtol=1e-5
    )
    sure, barred = np.float32([[1000, 0, 0]]), np.float32([[0, 0, -np.inf]])
    np.testing.assert_allclose(entropy(sure), [0.0])
    np.testing.assert_allclose(entropy(barred), [math.log(2)], rtol=1e-6)
    assert np.isfinite(entropy_gradient(barred)).all()


def test_descending_entropy_widens_the_gap_to_the_runner_up():
    logits = np.float32([[2, 1, 0]])
    step = -np.asarray(entropy_gradient(logits))
    assert float(step[0, 0]) > 0 > float(step[0, 1])


# Cross-entropy and error rate


@pytest.mark.parametrize(
    ("logits", "label", "nats"),
    [
        ([0.0, 0.0, 0.0, 0.0], 2, math.log(4)),
        ([0.0, math.log(3)], 0, math.log(4)),
        ([0.0, math.log(3)], 1, math.log(4 / 3)),
        ([1000.0, 0.0], 1, 1000.0),
        ([1000.0, 0.0], 0, 0.0),
        ([-1000.0, -1000.0], 0, math.log(2)),
    ],
)
def test_cross_entropy_of_logits_equals_the_closed_form(logits, label, nats):
    np.testing.assert_allclose(cross_entropy(np.float32([logits]), np.array([label])), [nats], rtol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_cross_entropy_and_its_gradient_are_those_of_optax(scale):
    logits, labels = scale * normal(0, 20, 5), some_labels(0, 20, 5)
    ours, theirs = value_and_gradient(losses.cross_entropy), value_and_gradient(optax_cross_entropy)
    (values, gradient), (expected, expected_gradient) = ours(logits, labels), theirs(logits, labels)
    assert values.shape == (20,)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_cross_entropy_takes_host_arrays():
    logits, labels = np.zeros((2, 4), np.float32), np.array([0, 3])
    np.testing.assert_allclose(losses.cross_entropy(logits, labels), np.log([4, 4]), rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "labels must be in [0, 3); got values from 0 to 3; check num_classes"),
        ([-1, 2], "labels must be in [0, 3); got values from -1 to 2; check num_classes, or subtract the smallest"),
        ([1.0, 2.0], "got dtype float32; use argmax on one-hot labels"),
        ([True, False], "got dtype bool; use argmax on one-hot labels"),
    ],
)
def test_labels_that_are_not_class_indices_are_refused(monkeypatch, labels, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    with pytest.raises(ValueError, match=re.escape(message)):
        losses.cross_entropy(jnp.zeros((2, 3)), jnp.array(labels))


def test_float_labels_are_refused_while_tracing(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="got dtype float32"):
        jax.eval_shape(losses.cross_entropy, jnp.zeros((2, 3)), jnp.array([1.0, 2.0]))


def test_invalid_traced_labels_give_nan_for_their_images_only():
    found = cross_entropy(np.zeros((5, 3), np.float32), np.array([-4, -1, 2, 3, 99]))
    np.testing.assert_allclose(found, [np.nan, np.nan, np.log(3), np.nan, np.nan], rtol=1e-6)


def test_error_rate_is_the_fraction_of_wrong_decisions():
    logits = np.float32([[1, 0], [0, 1], [3, 2], [-1, -2]])
    assert float(error_rate(logits, np.array([0, 1, 0, 0]))) == 0
    assert float(error_rate(logits, np.array([1, 1, 0, 0]))) == 0.25
    assert float(error_rate(logits, np.array([1, 0, 1, 1]))) == 1


def test_a_nan_logit_is_an_error_for_every_label():
    logits = np.float32([[np.nan, 0], [np.nan, np.nan], [1, 0]])
    np.testing.assert_allclose(error_rate(logits, np.array([0, 0, 0])), 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(error_rate(logits, np.array([1, 1, 0])), 2 / 3, rtol=1e-6)


# Losses of attacks


def rows(count, classes, scale=3.0):
    """Logits with their labels and targets, which differ, for loops in double precision."""
    logits = np.asarray(scale * normal(7, count, classes), np.float64)
    labels = np.asarray(some_labels(7, count, classes))
    return logits, labels, (labels + 1 + np.arange(count) % (classes - 1)) % classes


def single(*arrays):
    logits, *indices = arrays
    return np.asarray(logits, np.float32), *(np.asarray(i, np.int32) for i in indices)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_log_odds_are_the_log_of_the_odds_against_the_label(classes):
    logits, labels, _ = rows(50, classes)
    p = scipy.special.softmax(logits, axis=-1)[np.arange(50), labels]
    np.testing.assert_allclose(log_odds(*single(logits, labels)), np.log((1 - p) / p), rtol=1e-4, atol=1e-5)


def test_cross_entropy_is_the_softplus_of_the_log_odds():
    logits, labels = single(*rows(50, 5)[:2])
    softplus = np.logaddexp(0, log_odds(logits, labels))
    np.testing.assert_allclose(softplus, cross_entropy(logits, labels), rtol=1e-4)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_log_odds_rise_in_the_direction_of_cross_entropy(scale):
    logits, labels = single(*rows(50, 5, scale)[:2])
    gradients = [value_and_gradient(loss)(logits, labels)[1] for loss in (losses.log_odds, losses.cross_entropy)]
    directions = [g / np.linalg.norm(g, axis=-1, keepdims=True) for g in gradients]
    np.testing.assert_allclose(*directions, rtol=0, atol=1e-4)


def test_log_odds_keep_a_gradient_where_that_of_cross_entropy_rounds_to_zero():
    logits, labels = np.float32([[200, 0, -1]]), np.int32([0])
    flat, steep = (value_and_gradient(f)(logits, labels)[1] for f in (losses.cross_entropy, losses.log_odds))
    np.testing.assert_array_equal(flat, 0)
    likelier = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(steep, [[-1, likelier, 1 - likelier]], rtol=1e-5)


@pytest.mark.parametrize(
    ("logits", "label", "value"),
    [([1.0, 3.0, 2.0], 1, -1.0), ([1.0, 3.0, 2.0], 0, 2.0), ([-200.0, -5.0], 0, 195.0), ([4.0, 4.0], 0, 0.0)],
)
def test_margin_of_logits_equals_the_closed_form(logits, label, value):
    np.testing.assert_allclose(margin(np.float32([logits]), np.array([label])), [value], rtol=1e-6)


@pytest.mark.parametrize("loss", [margin, log_odds, dlr])
def test_a_loss_of_attacks_has_the_sign_of_the_decision(loss):
    """Up to log(K - 1) for the log odds, which add up what the wrong classes have."""
    logits, labels, _ = rows(200, 3, 10.0)
    others = np.where(np.arange(3) == labels[:, None], -np.inf, logits).max(1)
    clear = np.abs(others - logits[np.arange(200), labels]) > math.log(2)
    wrong = logits.argmax(1) != labels
    assert 40 < (wrong & clear).sum() < 160
    np.testing.assert_array_equal((np.asarray(loss(*single(logits, labels))) > 0)[clear], wrong[clear])


@pytest.mark.parametrize("classes", [3, 4, 10])
def test_dlr_is_the_formula_of_the_paper(classes):
    logits, labels, _ = rows(50, classes)
    expected = []
    for row, y in zip(logits, labels, strict=True):
        ordered = sorted(row, reverse=True)
        expected.append(-(row[y] - max(np.delete(row, y))) / (ordered[0] - ordered[2]))
    np.testing.assert_allclose(dlr(*single(logits, labels)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [4, 5, 10])
def test_targeted_dlr_is_the_formula_of_the_paper(classes):
    logits, labels, targets = rows(50, classes)
    expected = []
    for row, y, t in zip(logits, labels, targets, strict=True):
        ordered = sorted(row, reverse=True)
        expected.append(-(row[y] - row[t]) / (ordered[0] - (ordered[2] + ordered[3]) / 2))
    np.testing.assert_allclose(targeted_dlr(*single(logits, labels, targets)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e3, 0.0), (1.0, 20.0), (7.0, -3.0)])
def test_no_scaling_or_shift_of_the_logits_changes_dlr(scale, shift):
    logits, labels, targets = single(*rows(50, 5))
    moved = scale * logits + shift
    np.testing.assert_allclose(dlr(moved, labels), dlr(logits, labels), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        targeted_dlr(moved, labels, targets), targeted_dlr(logits, labels, targets), rtol=1e-3, atol=1e-5
    )


def test_equal_logits_give_dlr_zero():
    logits, labels = np.full((2, 4), 3, np.float32), np.array([1, 2])
    np.testing.assert_array_equal(dlr(logits, labels), 0)
    np.testing.assert_array_equal(targeted_dlr(logits, labels, labels - 1), 0)


def test_dlr_is_the_margin_where_masks_leave_too_few_logits():
    """An infinite scale would make the ratio 0 with a gradient of 0, which no attack could climb."""
    masked, labels, targets = np.float32([[1, 0.25, -np.inf, -np.inf]]), np.array([0]), np.array([1])
    np.testing.assert_allclose(dlr(masked, labels), [-0.75])
    np.testing.assert_allclose(targeted_dlr(masked, labels, targets), [-0.75])
    for loss in (losses.dlr, lambda h, y: losses.targeted_dlr(h, y, targets)):
        np.testing.assert_allclose(jax.grad(lambda h, loss=loss: loss(h, labels).sum())(masked), [[-1, 1, 0, 0]])
    one = np.float32([[1, 0.25, -1, -np.inf]])
    np.testing.assert_allclose(dlr(one, labels), [-0.75 / 2], rtol=1e-6)  # three logits are enough for the ratio


ZEROS = np.zeros((1, 3), np.float32)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda: losses.dlr(jnp.zeros((1, 2)), jnp.array([0])),
            "dlr needs at least 3 classes; got logits of (1, 2); use",
        ),
        (
            lambda: losses.targeted_dlr(ZEROS, jnp.array([0]), jnp.array([1])),
            "targeted_dlr needs at least 4 classes; got logits of (1, 3); use margin",
        ),
        (
            lambda: losses.log_odds(ZEROS[:, :2], jnp.array([2])),
            "labels must be in [0, 2); got values from 2 to 2",
        ),
        (
            lambda: losses.margin(ZEROS[:, :2], jnp.array([-1])),
            "labels must be in [0, 2); got values from -1 to -1",
        ),
        (lambda: losses.dlr(ZEROS, jnp.array([3])), "labels must be in [0, 3); got values from 3 to 3"),
    ],
)
def test_a_loss_of_attacks_refuses_too_few_classes_and_wrong_labels(loss, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        loss()


# Dequantisation and likelihood


def quantized(levels, copies):
    """Every level, as an image in [0, 1], `copies` times: `[copies, levels]`."""
    return np.tile(np.arange(levels, dtype=np.float32) / np.float32(levels - 1), (copies, 1))


@cache
def dequantized(levels):
    return dequantize(KEY, quantized(levels, 2**21 // levels), levels)


# at least 2^21 values, because rounding moves a value out of its bin about once in 10^5 draws
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_dequantized_values_stay_in_the_bin_of_their_level(levels):
    out = dequantized(levels)
    assert out.dtype == jnp.float32
    out = np.asarray(out, np.float64)  # the product below has a smaller rounding error than float32
    assert out.min() >= 0 and out.max() < 1
    wrong = np.floor(levels * out).astype(int) != np.arange(levels)
    assert wrong.sum() == 0, f"{wrong.sum()} of {wrong.size} values lie in the bin of another level"


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_dequantized_values_are_uniform_in_their_bin(levels):
    out = np.asarray(dequantized(levels), np.float64)[: 40_000 // levels]
    position = levels * out - np.arange(levels)
    assert scipy.stats.kstest(position.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(position[:-1].ravel(), position[1:].ravel())[0, 1]) < 0.03


def test_the_noise_depends_on_the_key_alone():
    x = quantized(17, 3)
    one, same, other = (np.asarray(dequantize(jax.random.key(seed), x, 17)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.99


def test_with_ids_an_image_has_the_same_noise_in_any_batch():
    x = quantized(17, 3)
    ids = np.array([4, 9, 2])
    noisy = dequantize(KEY, x, 17, ids=ids)
    np.testing.assert_array_equal(dequantize(KEY, x[1:2], 17, ids=ids[1:2]), noisy[1:2])
    position = np.asarray(17 * noisy - np.round(x * 16))
    assert (position >= 0).all() and (position < 1).all() and len(np.unique(position)) > 0.99 * position.size
    with pytest.raises(ValueError, match="ids"):
        dequantize(KEY, x, 17, ids=ids[:2])


def test_dequantize_refuses_a_number_of_levels_that_is_not_positive():
    with pytest.raises(ValueError, match=re.escape("levels must be positive; got levels=0")):
        losses.dequantize(KEY, np.zeros((1, 2), np.float32), 0)


def code_of(z, classes=1):
    return Code(z[:, :classes], z[:, classes:])


@pytest.mark.parametrize(("levels", "classes"), [(1, 1), (17, 2), (256, 4), (256, 1)])
def test_bits_per_dim_of_the_identity_is_a_normal_log_density_in_base_two(levels, classes):
    x = np.random.default_rng(0).random((7, 5), np.float32)
    expected = -scipy.stats.norm.logpdf(x.astype(np.float64)).sum(-1) / (5 * np.log(2)) + np.log2(levels)
    bits = bits_per_dim(code_of(x, classes), np.zeros(7, np.float32), levels)
    np.testing.assert_allclose(bits, expected, rtol=1e-6)


def test_the_logdet_enters_in_nats_and_one_for_each_example():
    code = code_of(normal(0, 3, 4))
    logdet = np.array([0.0, 4 * math.log(2), -8 * math.log(2)], np.float32)
    gain = np.asarray(bits_per_dim(code, np.zeros_like(logdet))) - np.asarray(bits_per_dim(code, logdet))
    np.testing.assert_allclose(gain, [0, 1, -2], atol=1e-5)


def scale_by_two():
    bijector = actnorm()
    return bijector, {"shift": np.float32([0.3, -0.2]), "log_scale": np.full(2, math.log(2), np.float32)}


def curved():
    bijector = chain([affine_coupling(lambda outputs: mlp(outputs, (3,))), actnorm()])
    params = jax.jit(bijector.init)(KEY, normal(0, 50, 2))
    leaves, structure = jax.tree.flatten(params)
    noise = [0.3 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    return bijector, jax.tree.unflatten(structure, [np.asarray(a) + b for a, b in zip(leaves, noise, strict=True)])


@pytest.mark.parametrize("model", [scale_by_two, curved])
def test_the_density_that_bits_per_dim_measures_integrates_to_one(model):
    bijector, params = model()
    axis = np.linspace(-8, 8, 201)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2).astype(np.float32)
    z, logdet = map(np.asarray, jax.jit(bijector.forward)(params, grid))
    bits = np.asarray(bits_per_dim(code_of(z), logdet, levels=1), np.float64)
    density = 2.0 ** (-2 * bits)
    np.testing.assert_allclose(density.sum() * (axis[1] - axis[0]) ** 2, 1, atol=2e-3)


def test_data_stretched_by_two_cost_one_bit_more_for_each_value():
    x = normal(1, 9, 2)
    bijector, params = scale_by_two()

    @jax.jit
    def bits(params, x):
        z, logdet = bijector.forward(params, x)
        return losses.bits_per_dim(code_of(z), logdet)

    halved = {"shift": 2 * params["shift"], "log_scale": params["log_scale"] - np.float32(math.log(2))}
    difference = np.asarray(bits(halved, 2 * x)) - np.asarray(bits(params, x))
    np.testing.assert_allclose(difference, np.ones(9), atol=1e-5)


@pytest.mark.parametrize("levels", [2, 256])
def test_no_density_codes_uniform_integers_in_fewer_bits_than_their_entropy(levels):
    rng = np.random.default_rng(levels)
    integers = rng.integers(0, levels, (5000, 4))

    @jax.jit
    def bits(x):
        x = losses.dequantize(KEY, x, levels)
        bijector = actnorm()  # actnorm gives the best normal fit
        z, logdet = bijector.forward(bijector.init(KEY, x), x)
        unfitted = losses.bits_per_dim(code_of(x), jnp.zeros(5000), levels)
        return unfitted.mean(), losses.bits_per_dim(code_of(z), logdet, levels).mean()

    unfitted, fitted = bits((integers / (levels - 1)).astype(np.float32))
    assert float(unfitted) > np.log2(levels)
    # cross-entropy of U[0, 1) under a normal of its own mean and variance, 1 / 12
    np.testing.assert_allclose(fitted, np.log2(levels) + 0.5 * np.log2(2 * np.pi * np.e / 12), atol=0.01)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_true_density_codes_uniform_integers_in_exactly_their_entropy(levels, float64):
    integers = np.random.default_rng(0).integers(0, levels, (50, 4))
    x = np.asarray(dequantize(KEY, integers / (levels - 1), levels))
    z = scipy.special.ndtri(x)  # F = the inverse of the normal distribution function, F' = 1 / N(z; 0, 1)
    logdet = -scipy.stats.norm.logpdf(z).sum(-1)
    bits = bits_per_dim(code_of(z), logdet, levels)
    np.testing.assert_allclose(bits, np.full(50, np.log2(levels)), rtol=1e-12)


# Gradient reversal


@jax.jit
def reversed_sine(x, weight):
    gradient = jax.grad(lambda x, weight: jnp.sin(losses.reverse_gradient(x, weight)).sum())(x, weight)
    return losses.reverse_gradient(x, weight), gradient


@pytest.mark.parametrize("weight", [0, 1, 0.25, 3.0])
@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
def test_reverse_gradient_is_the_identity_with_a_gradient_of_minus_weight(jit, weight):
    x = normal(0, 5)
    with jax.disable_jit(not jit):
        value, gradient = reversed_sine(x, weight)
    np.testing.assert_array_equal(value, x)
    np.testing.assert_allclose(gradient, -weight * np.cos(x), rtol=1e-6)


def test_the_weight_of_reverse_gradient_has_no_gradient():
    gradient = jax.jit(jax.grad(lambda weight: (reverse_gradient(normal(0, 5), weight) ** 2).sum()))(2.0)
    assert float(gradient) == 0


def test_reverse_gradient_maps_over_examples_and_weights():
    x, weights = normal(0, 4), np.arange(4, dtype=np.float32)
    gradients = jax.jit(jax.vmap(jax.grad(lambda x, weight: jnp.exp(reverse_gradient(x, weight)))))(x, weights)
    np.testing.assert_allclose(gradients, -np.arange(4) * np.exp(x), rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 5])
def test_reverse_gradient_inside_a_scan_reverses_at_each_step(steps):
    def run(x, weight):
        return jax.lax.scan(lambda x, _: (1.5 * reverse_gradient(x, weight), None), x, None, length=steps)[0]

    value, gradient = jax.jit(jax.value_and_grad(run))(2.0, 0.7)
    np.testing.assert_allclose([value, gradient], [2 * 1.5**steps, (-0.7 * 1.5) ** steps], rtol=1e-6)


# Loss terms of the nuisance


def test_the_adversaries_have_their_names():
    assert set(losses.ADVERSARIES) == {"reversal", "uniform", "permuted-2019", "negated-permuted-2020"}


def test_reversal_is_minus_the_cross_entropy():
    logits, labels = normal(0, BATCH, CLASSES), some_labels()
    expected = -optax_cross_entropy(logits, labels)
    np.testing.assert_allclose(ADVERSARIES["reversal"](KEY, logits, labels), expected, rtol=1e-5)


def test_uniform_is_the_divergence_of_the_uniform_distribution_from_q():
    logits = np.float32(3) * normal(0, 50, 5)
    q = scipy.special.softmax(np.asarray(logits, np.float64), axis=-1)
    divergence = scipy.special.rel_entr(0.2, q).sum(-1)
    values = ADVERSARIES["uniform"](KEY, logits, some_labels(0, 50, 5))
    np.testing.assert_allclose(values, divergence, rtol=1e-4)
    assert values.shape == (50,) and values.min() > 0


uniform = partial(losses.uniform, KEY)


@pytest.mark.parametrize("level", [-7.0, 0.0, 40.0])
def test_uniform_is_zero_and_stationary_where_q_is_uniform(level):
    logits = np.full((BATCH, CLASSES), level, np.float32)
    values, gradient = value_and_gradient(uniform)(logits, some_labels())
    np.testing.assert_allclose(values, np.zeros(BATCH), atol=1e-6)
    np.testing.assert_allclose(gradient, np.zeros((BATCH, CLASSES)), atol=1e-6)


def labels_read_off(losses, logits):
    """The label which each cross-entropy belongs to, of logits whose rows hold distinct values."""
    candidates = -scipy.special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    distance = np.abs(candidates - np.asarray(losses)[:, None])
    assert (distance.min(-1) < 1e-5).all()
    return distance.argmin(-1)


def test_permuted_takes_each_label_to_another_example():
    logits, labels = normal(0, 40, 5), some_labels(0, 40, 5)

    def used_with(seed):
        return labels_read_off(ADVERSARIES["permuted-2019"](jax.random.key(seed), logits, labels), logits)

    used = [used_with(0), used_with(1)]
    for taken in used:
        assert sorted(taken) == sorted(labels.tolist())
        assert (taken != np.asarray(labels)).mean() > 0.5
    assert (used[0] != used[1]).mean() > 0.5
    np.testing.assert_array_equal(used_with(0), used[0])


def test_negated_permuted_is_the_negation_of_permuted():
    logits, labels = normal(0, BATCH, CLASSES), some_labels()
    old, new = (ADVERSARIES[name](KEY, logits, labels) for name in ("permuted-2019", "negated-permuted-2020"))
    np.testing.assert_array_equal(new, -old)
    assert old.min() > 0


# Independence cross-entropy


def encode(params, x):
    """A small code with a log-determinant that depends on parameters and example."""
    z = jnp.tanh(x @ params["a"]) @ params["b"]
    return code_of(z, CLASSES), (x * params["c"][None]).sum(-1)


def critic(params, nuisance):
    return jnp.tanh(nuisance @ params["w"]) @ params["v"]


MODEL = {"a": normal(1, 7, 7), "b": normal(2, 7, 7), "c": normal(3, 7)}
CRITIC = {"w": normal(4, NUISANCE, 5), "v": normal(5, 5, CLASSES)}
X, Y = normal(6, BATCH, 7), some_labels(1)


def game_loss(model, critic_params, adversary="reversal", **weights):
    """What the model minimises in the two-player game."""
    code, logdet = encode(model, X)
    q = critic(critic_params, code.nuisance)
    return losses.independence_cross_entropy(KEY, code, logdet, q, Y, adversary=ADVERSARIES[adversary], **weights)


def reversal_loss(model, critic_params, **weights):
    """What both players descend in one backward pass."""
    return losses.gradient_reversal_ice(*encode(model, X), partial(critic, critic_params), Y, **weights)


def critic_cross_entropy(model, critic_params):
    logits = critic(critic_params, encode(model, X)[0].nuisance)
    return optax_cross_entropy(logits, Y).mean()


@jax.jit
def parts():
    """Code, log-determinant and the critic's logits of the fixed parameters."""
    code, logdet = encode(MODEL, X)
    return code, logdet, critic(CRITIC, code.nuisance)


compiled = partial(jax.jit, static_argnames=("adversary", "levels"))
compiled_game, compiled_reversal = compiled(game_loss), compiled(reversal_loss)
critic_gradient = jax.jit(jax.grad(critic_cross_entropy, (0, 1)))


@partial(jax.jit, static_argnums=(0, 1))
def gradient(loss, argument, nuisance_weight, likelihood_weight=1.0):
    weights = {"nuisance_weight": nuisance_weight, "likelihood_weight": likelihood_weight}
    return jax.grad(lambda *params: loss(*params, **weights).total.mean(), argument)(MODEL, CRITIC)


@pytest.mark.parametrize("loss", [game_loss, reversal_loss])
@pytest.mark.parametrize("weight", [0.05, 1.0, 4.0])
def test_the_models_nuisance_gradient_is_minus_weight_times_that_of_the_critics_cross_entropy(loss, weight):
    weighted, unweighted = (jax.tree.map(np.asarray, gradient(loss, 0, w)) for w in (weight, 0.0))
    from_nuisance = jax.tree.map(np.subtract, weighted, unweighted)
    expected = jax.tree.map(lambda g: -weight * np.asarray(g), critic_gradient(MODEL, CRITIC)[0])
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected)) > 0.01 * weight
    assert_trees_close(from_nuisance, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 1.0), (7.0, 0.5)])
def test_the_critic_in_gradient_reversal_minimises_its_cross_entropy_whatever_the_weights(weights):
    expected = critic_gradient(MODEL, CRITIC)[1]
    assert_trees_close(gradient(reversal_loss, 1, *weights), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.05, 1.0), (3.0, 0.2)])
def test_game_and_gradient_reversal_move_the_model_alike(weights):
    game, reversal = (gradient(loss, 0, *weights) for loss in (game_loss, reversal_loss))
    assert_trees_close(game, reversal, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adversary", sorted(ADVERSARIES))
@pytest.mark.parametrize(("nuisance_weight", "likelihood_weight"), [(1, 1), (0.05, 2.0), (0, 0), (3.0, 0.0)])
def test_the_total_is_linear_in_both_weights(adversary, nuisance_weight, likelihood_weight):
    weights = {"nuisance_weight": float(nuisance_weight), "likelihood_weight": float(likelihood_weight)}
    loss = compiled_game(MODEL, CRITIC, adversary=adversary, levels=17, **weights)
    code, logdet, logits = parts()
    ce = optax_cross_entropy(code.logits, Y)
    z = np.concatenate(code, -1).astype(np.float64)
    bits = -(scipy.stats.norm.logpdf(z).sum(-1) + logdet) / (7 * np.log(2)) + np.log2(17)
    nuisance = ADVERSARIES[adversary](KEY, logits, Y)
    np.testing.assert_allclose(loss.cross_entropy, ce, rtol=1e-5)
    np.testing.assert_allclose(loss.bits_per_dim, bits, rtol=1e-5)
    np.testing.assert_allclose(loss.nuisance, nuisance, rtol=1e-5)
    total = np.asarray(ce) + nuisance_weight * np.asarray(nuisance) + likelihood_weight * bits
    np.testing.assert_allclose(loss.total, total, rtol=1e-4)


def test_weights_of_one_are_the_default_and_reversal_the_default_adversary():
    code, logdet, logits = parts()
    default = jax.jit(losses.independence_cross_entropy)(KEY, code, logdet, logits, Y)
    given = compiled_game(MODEL, CRITIC, adversary="reversal", nuisance_weight=1.0, likelihood_weight=1.0, levels=256)
    assert_trees_close(default, given, rtol=1e-6)
    nats = [np.asarray(optax_cross_entropy(z, Y)) for z in (code.logits, logits)]
    np.testing.assert_allclose(default.total, nats[0] - nats[1] + bits_per_dim(code, logdet, 256), rtol=1e-5)


def test_weights_of_one_are_the_default_of_gradient_reversal():
    loss, found = jax.jit(jax.value_and_grad(lambda model: reversal_loss(model, CRITIC).total.mean()))(MODEL)
    given = compiled_reversal(MODEL, CRITIC, nuisance_weight=1.0, likelihood_weight=1.0, levels=256)
    np.testing.assert_allclose(loss, np.mean(given.total), rtol=1e-6)
    assert_trees_close(found, gradient(reversal_loss, 0, 1.0, 1.0), rtol=1e-5, atol=1e-6)


def test_gradient_reversal_reports_its_parts():
    loss = compiled_reversal(MODEL, CRITIC, nuisance_weight=0.3, likelihood_weight=0.5, levels=17)
    game = compiled_game(MODEL, CRITIC, adversary="reversal", nuisance_weight=1.0, likelihood_weight=1.0, levels=17)
    loss, game = jax.tree.map(np.asarray, (loss, game))
    np.testing.assert_allclose(loss.nuisance, -game.nuisance, rtol=1e-6)
    np.testing.assert_allclose(loss.total, loss.cross_entropy + loss.nuisance + 0.5 * loss.bits_per_dim, rtol=1e-6)
    assert_trees_close((loss.cross_entropy, loss.bits_per_dim), (game.cross_entropy, game.bits_per_dim), rtol=1e-6)


def test_scaling_the_logits_is_rewarded_without_bound_unless_the_prior_covers_them():
    """With a prior on the nuisance alone the loss falls by K log c; with one on all of z it rises."""
    y = some_labels(2, 8)
    logits = (0.4 * np.eye(CLASSES)[y] - 0.2 + 0.1 * normal(0, 8, CLASSES)).astype(np.float32)
    nuisance, q = normal(1, 8, NUISANCE), normal(2, 8, CLASSES)
    values = CLASSES + NUISANCE
    scales = 10.0 ** np.arange(2, 7)  # at these scales every decision is certain and the cross-entropy is 0

    loss_of = jax.jit(lambda code, logdet: losses.independence_cross_entropy(KEY, code, logdet, q, y, levels=1))
    prior = scipy.stats.norm.logpdf(np.asarray(nuisance)).sum(-1)

    def parts(scale):
        logdet = np.full(8, CLASSES * math.log(scale), np.float32)
        loss = jax.tree.map(np.asarray, loss_of(Code(np.float32(scale) * logits, nuisance), logdet))
        nuisance_only = loss.cross_entropy + loss.nuisance - (prior + logdet) / (values * math.log(2))
        return float(nuisance_only.mean()), float(loss.total.mean()), float(loss.bits_per_dim.mean())

    nuisance_only, total, bits = np.array([parts(scale) for scale in scales]).T
    np.testing.assert_allclose(np.diff(nuisance_only), -CLASSES * np.log2(10) / values, atol=0.01)
    assert (np.diff(total) > 0).all() and (np.diff(bits) > 0).all()
    np.testing.assert_allclose(bits[1:] / bits[:-1], 100, rtol=0.05)  # quadratic in the scale

    # bits per dimension is minimal if the logits have the second moment of the prior
    best = np.sqrt(CLASSES / np.mean(np.sum(np.asarray(logits) ** 2, -1)))
    near = [parts(best * factor)[2] for factor in (0.8, 0.95, 1.0, 1.05, 1.25)]
    assert np.argmin(near) == 2


def test_the_entropy_of_a_model_without_a_prediction_is_no_number():
    found = losses.entropy(jnp.array([[jnp.nan, 0.0], [0.0, 0.0], [-jnp.inf, 0.0]]))
    np.testing.assert_allclose(found, [np.nan, np.log(2), 0.0], atol=1e-6)
    with pytest.raises(ValueError, match=r"logits must be \[batch, classes\], 2 classes or more; got \(3, 1\)"):
        losses.entropy(jnp.zeros((3, 1)))
