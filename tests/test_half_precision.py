"""Images and models of half precision: what is summed or searched is computed in float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax import analysis, attacks, bijectors, evaluation, features, losses, models
from invjax.attacks import l2, linf, pgd, smallest
from invjax.models import mlp
from invjax.types import Code

KEY = jax.random.key(0)
HALF = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])


@HALF
def test_dequantized_images_fill_their_bins(dtype):
    levels = jnp.arange(256, dtype=jnp.float32) / 255
    x = jnp.broadcast_to(levels.astype(dtype), (64, 256))
    noisy = losses.dequantize(KEY, x) * 256
    within = noisy - jnp.round(x.astype(jnp.float32) * 255)
    assert noisy.dtype == jnp.float32
    assert abs(float(within.mean()) - 0.5) < 0.01 and float(within.min()) >= 0 and float(within.max()) < 1
    np.testing.assert_allclose(within.std(), 1 / np.sqrt(12), rtol=0.02)


@HALF
def test_bits_per_dim_of_half_precision_are_those_of_the_same_numbers_in_float32(dtype):
    z = jax.random.normal(KEY, (5, 3072)).astype(dtype)
    code, logdet = Code(z[:, :10], z[:, 10:]), jnp.arange(5, dtype=jnp.float32).astype(dtype)
    same = Code(*(part.astype(jnp.float32) for part in code))
    found = losses.bits_per_dim(code, logdet)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, losses.bits_per_dim(same, logdet.astype(jnp.float32)), rtol=1e-6)


@HALF
def test_the_matrix_of_channels_is_made_and_inverted_in_half_precision(dtype):
    """The factorisations of a matrix need float32."""
    layer, x = bijectors.conv1x1(), jax.random.normal(KEY, (3, 2, 2, 6)).astype(dtype)
    params = layer.init(KEY, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    z, logdet = layer.forward(params, x)
    again, back = layer.inverse(params, z)
    assert z.dtype == again.dtype == dtype and logdet.dtype == jnp.float32
    np.testing.assert_allclose(again.astype(jnp.float32), x.astype(jnp.float32), atol=16 * float(jnp.finfo(dtype).eps))
    np.testing.assert_array_equal(back, -logdet)


LAYERS = {
    "affine_coupling": lambda: bijectors.affine_coupling(lambda channels: mlp(channels, (4,))),
    "actnorm": bijectors.actnorm,
    "conv1x1": bijectors.conv1x1,
    "logit_box": bijectors.logit_box,
}


@pytest.mark.parametrize("name", LAYERS)
def test_log_determinants_of_bfloat16_are_summed_in_float32(name):
    layer = LAYERS[name]()
    x = jax.random.uniform(KEY, (6, 512), jnp.float32, 0.1, 0.9).astype(jnp.bfloat16)
    start = jax.tree.map(lambda leaf: leaf + 0.013, layer.init(KEY, x.astype(jnp.float32)))  # no sum of logs is 0
    params = jax.tree.map(lambda leaf: leaf.astype(x.dtype), start)
    _, logdet = layer.forward(params, x)
    assert logdet.dtype == jnp.float32
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    _, expected = layer.forward(wide, x.astype(jnp.float32))
    # each term is rounded to 8 bits; a sum in bfloat16 would be off by up to a unit in the eighth bit of the sum
    np.testing.assert_allclose(logdet, expected, rtol=2e-3, atol=0.2)


SIZE, CLASSES = 200, 3
W = np.random.default_rng(0).normal(size=(SIZE, CLASSES)).astype(np.float32)


def problem(dtype):
    """Images whose true distance to the boundary of a linear model is known."""
    x = jnp.asarray(np.random.default_rng(1).uniform(0.3, 0.7, (64, SIZE)), dtype)
    logits = np.asarray(x.astype(jnp.float32)) @ W
    return x, logits.argmax(1).astype(np.int32), logits


def model(w, x):
    return x.astype(jnp.float32) @ w  # the rounding of the images is all that half precision does here


@HALF
def test_an_attack_on_half_precision_succeeds_as_often_as_on_float32(dtype):
    x, labels, logits = problem(dtype)
    other = np.sort(np.where(np.arange(CLASSES) == labels[:, None], np.inf, _distance_linf(logits, labels)), 1)[:, 0]
    eps = float(np.median(other))
    run = jax.jit(partial(pgd(linf(), steps=100, random_start=False), KEY, partial(model, W)))
    found, expected = run(x, labels, eps=eps), run(x.astype(jnp.float32), labels, eps=eps)
    assert found.x.dtype == found.distance.dtype == jnp.float32
    assert float(found.distance.max()) <= eps * (1 + 1e-6)
    assert abs(float(found.success.mean()) - float(expected.success.mean())) <= 0.07
    assert 0.4 <= float(expected.success.mean()) <= 0.6


def _distance_linf(logits, labels):
    """The closed form for a linear model: the difference of two logits over the l1 norm of their weights."""
    own = W[:, labels].T
    return np.stack(
        [
            (logits[np.arange(len(labels)), labels] - logits[:, k]) / np.maximum(np.abs(own - W[:, k]).sum(1), 1e-9)
            for k in range(CLASSES)
        ],
        1,
    )


@pytest.mark.slow
@HALF
def test_evaluations_of_half_precision_keep_the_images_that_were_searched(dtype):
    x, labels, _ = problem(dtype)
    apply_fn, threat = partial(model), linf()
    curve = evaluation.robustness_curve(KEY, pgd(steps=20), apply_fn, W, np.asarray(x), labels, epsilons=[0.01, 0.03])
    wide = evaluation.robustness_curve(
        KEY, pgd(steps=20), apply_fn, W, np.asarray(x, np.float32), labels, epsilons=[0.01, 0.03]
    )
    np.testing.assert_allclose(curve.accuracy(), wide.accuracy(), atol=0.07)
    stages = attacks.autoattack_stages(threat, num_classes=CLASSES, steps=10)[:1]
    found = evaluation.benchmark(KEY, apply_fn, W, np.asarray(x), labels, threat=threat, eps=0.03, stages=stages)
    assert found.x.dtype == np.float32
    moved = np.abs(found.x - np.asarray(x, np.float32)).max(1)
    np.testing.assert_allclose(moved[found.broken], found.distance[found.broken], atol=1e-7)
    assert moved.max() <= 0.03 * (1 + 1e-6) and found.broken.any()
    report = evaluation.report(
        KEY, apply_fn, W, np.asarray(x), labels, threats=[evaluation.ThreatModel(pgd(l2(), steps=10), 0.5)]
    )
    assert np.isfinite(report.sensitivity["l2"].smallest_eps).any()


def test_the_smallest_radius_of_bfloat16_images_is_that_of_the_closed_form():
    x, labels, logits = problem(jnp.bfloat16)
    true = np.where(np.arange(CLASSES) == labels[:, None], np.inf, _distance_linf(logits, labels)).min(1)
    search = smallest(pgd(linf(), steps=40, random_start=False), steps=12)
    found = search(KEY, partial(model, W), x, labels, eps=float(true.max() * 1.5))
    assert found.success.all()
    np.testing.assert_allclose(found.distance, true, rtol=0.3)  # the model sees rounded images
    assert np.median(np.asarray(found.distance) / true) < 1.1


def test_a_data_set_of_bfloat16_features_is_read_back(tmp_path):
    x = np.random.default_rng(0).uniform(0.2, 0.8, (8, 4, 4, 1)).astype(np.float32)
    labels = np.arange(8, dtype=np.int32)
    features_fn = lambda params, x: (x.reshape(len(x), -1) @ params).astype(jnp.bfloat16)  # noqa: E731
    make = partial(features.robust_dataset, KEY, features_fn, jnp.asarray(W[:16]), x, labels, steps=3,
                   path=tmp_path / "data.npz")  # fmt: skip
    made = make()
    again = make()
    assert features.load(tmp_path / "data.npz").sha256 == made.sha256 == again.sha256


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_distances_of_half_precision_images_are_those_of_their_values(norm):
    """In bfloat16 the sum over 3,072 values has eight digits, so that different distances tie."""
    x, y = (jax.random.uniform(jax.random.key(i), (3, 32, 32, 3)).astype(jnp.bfloat16) for i in (1, 2))
    wide_x, wide_y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    found = analysis.distances(x, y, norm=norm)
    np.testing.assert_allclose(found, analysis.distances(wide_x, wide_y, norm=norm), rtol=1e-6)
    distance = attacks.THREATS[norm]().distance(x[0], y[0])
    assert distance.dtype == jnp.float32
    np.testing.assert_allclose(distance, found[0, 0], rtol=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "log_odds", "margin", "dlr", "entropy"])
def test_losses_of_half_precision_logits_are_computed_in_single_precision(loss):
    logits = 100 + jax.random.normal(KEY, (8, 5)).astype(jnp.bfloat16)
    labels = () if loss == "entropy" else (np.arange(8) % 5,)
    found = getattr(losses, loss)(logits, *labels)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, getattr(losses, loss)(logits.astype(jnp.float32), *labels))


def test_gaps_and_crossings_of_half_precision_logits_are_computed_in_single_precision():
    logits, gamma = (jax.random.normal(jax.random.key(i), (20, 5)).astype(jnp.bfloat16) for i in (3, 4))
    single = [values.astype(jnp.float32) for values in (logits, gamma)]
    np.testing.assert_array_equal(analysis.logit_gaps(logits), analysis.logit_gaps(single[0]))
    np.testing.assert_array_equal(analysis.linear_epsilon(logits, gamma).eps, analysis.linear_epsilon(*single).eps)


@pytest.mark.slow
def test_gaussian_classes_and_inversions_search_and_sum_in_single_precision():
    x = jax.random.uniform(KEY, (40, 6)).astype(jnp.bfloat16)
    labels = np.arange(40) % 2
    fitted = models.fit_gaussian_classes(x, labels, 2, components=2)
    assert {leaf.dtype for leaf in jax.tree.leaves(fitted)} == {jnp.dtype(jnp.float32)}
    wide = models.fit_gaussian_classes(np.asarray(x, np.float32), labels, 2, components=2)
    np.testing.assert_array_equal(
        models.gaussian_class_log_densities(fitted, x),
        models.gaussian_class_log_densities(wide, x.astype(jnp.float32)),
    )
    weights = jax.random.normal(jax.random.key(1), (6, 3))
    run = lambda x: features.robustify(KEY, lambda z: z.astype(jnp.float32) @ weights, x, steps=30, step_size=0.01)  # noqa: E731
    half, single = run(x[:4]), run(x[:4].astype(jnp.float32))
    assert half.x.dtype == jnp.float32 and (half.distance < 2 * single.distance + 0.05).all()
