"""Gamma equals its value from the Jacobian, and predicts the flips of a linear model exactly."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from invjax import analysis
from invjax.bijectors import additive_coupling, memory_saving
from invjax.losses import cross_entropy
from invjax.models import mlp, mnist_cnn
from invjax.training import data_mesh

CLASSES, COUNT, SHAPE = 4, 6, (4, 4, 1)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(16, CLASSES))
IMAGES = RNG.random((COUNT, *SHAPE))
LABELS = RNG.integers(0, CLASSES, COUNT).astype(np.int32)
FREE = (-jnp.inf, jnp.inf)


def linear(weights, x):
    return x.reshape(len(x), -1) @ weights


def smooth(x):
    """A small MLP, in the precision of its images."""
    first, second = (
        np.random.default_rng(seed).normal(size=shape) for seed, shape in ((1, (16, 9)), (2, (9, CLASSES)))
    )
    return jnp.tanh(x.reshape(len(x), -1) @ first.astype(x.dtype)) @ second.astype(x.dtype)


@cache
def convolutional():
    """Without the network's own initialisation, which takes longer to compile than all the rest."""
    net, rng = mnist_cnn(CLASSES, channels=(3,), dense=8), np.random.default_rng(3)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    return partial(net.apply, jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes))


@cache
def convolutional_jacobian():
    """Logits and the full Jacobian of the convolutional model, as NumPy arrays."""
    model, x = convolutional(), IMAGES.astype(np.float32)
    return jax.tree.map(np.asarray, jax.jit(lambda x: (model(x), analysis.logit_jacobian(model, x)))(x))


@cache
def smooth_jacobian():
    """The same of the smooth model, in double precision."""
    assert jax.config.read("jax_enable_x64")
    run = jax.jit(lambda x: (smooth(x), analysis.logit_jacobian(smooth, x)))
    return jax.tree.map(np.asarray, run(IMAGES))


def by_hand(jacobian, logits, labels, kind):
    """Gamma and direction from a full Jacobian and the softmax, in numpy."""
    jacobian = np.asarray(jacobian, np.float64).reshape(len(labels), CLASSES, -1)
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    delta = p / p.sum(1, keepdims=True)
    sign = 1
    if kind == "least_likely":
        labels, sign = logits.argmin(1), -1
    delta[np.arange(len(labels)), labels] -= 1
    gradient = sign * np.einsum("bkd,bk->bd", jacobian, delta)
    step = gradient / np.linalg.norm(gradient, axis=1, keepdims=True) if kind == "l2" else np.sign(gradient)
    return np.einsum("bkd,bd->bk", jacobian, step), step


# The Jacobian


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("mode", ["rev", "fwd"])
def test_the_jacobian_of_a_linear_model_is_its_weights(mode, vectorize):
    x, model = IMAGES.astype(np.float32), partial(linear, WEIGHTS.astype(np.float32))
    found = np.asarray(jax.jit(partial(analysis.logit_jacobian, model, mode=mode, vectorize=vectorize))(x))
    assert found.shape == (COUNT, CLASSES, *SHAPE)
    np.testing.assert_allclose(found, np.broadcast_to(WEIGHTS.T.reshape(1, CLASSES, *SHAPE), found.shape), rtol=1e-6)


def test_the_jacobian_of_a_network_is_the_same_both_ways_and_by_finite_differences(float64):
    found = {"rev": smooth_jacobian()[1], "fwd": jax.jit(partial(analysis.logit_jacobian, smooth, mode="fwd"))(IMAGES)}
    value = jax.jit(smooth)
    np.testing.assert_allclose(found["rev"], found["fwd"], rtol=1e-10)
    for pixel in ((0, 0, 0), (2, 3, 0)):
        up, down = IMAGES.copy(), IMAGES.copy()
        up[:, *pixel] += 1e-6
        down[:, *pixel] -= 1e-6
        slope = (np.asarray(value(up)) - np.asarray(value(down))) / 2e-6
        np.testing.assert_allclose(found["rev"][:, :, *pixel], slope, rtol=1e-6, atol=1e-8)


def test_the_jacobian_of_convolutions_is_that_of_jacrev():
    model, x = convolutional(), IMAGES.astype(np.float32)
    expected = jax.jit(jax.vmap(jax.jacrev(lambda image: model(image[None])[0])))(x)
    forward = jax.jit(partial(analysis.logit_jacobian, model, mode="fwd"))(x)
    for found in (convolutional_jacobian()[1], forward):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_class_after_another_needs_less_memory_than_all_at_once():
    model, x = convolutional(), jnp.zeros((64, *SHAPE))

    def temporary(vectorize):
        run = jax.jit(lambda x: analysis.logit_jacobian(model, x, vectorize=vectorize))
        return run.lower(x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(False) < 0.7 * temporary(True)


def test_forward_mode_through_a_net_that_has_none_is_a_type_error():
    layer = memory_saving([additive_coupling(lambda outputs: mlp(outputs, (3,)))])
    x = jnp.zeros((2, 4))
    params = jax.jit(layer.init)(jax.random.key(0), x)
    model = lambda x: layer.forward(params, x)[0]  # noqa: E731
    assert jax.eval_shape(partial(analysis.logit_jacobian, model), x).shape == (2, 4, 4)
    with pytest.raises(TypeError, match="forward-mode"):
        analysis.logit_jacobian(model, x, mode="fwd")


# Gamma


@pytest.mark.parametrize("kind", analysis.DIRECTIONS)
def test_gamma_is_that_of_the_full_jacobian(kind):
    model, x = convolutional(), IMAGES.astype(np.float32)
    run = lambda x: (analysis.linear_response(model, x, LABELS, direction=kind), direction(x))  # noqa: E731
    direction = partial(analysis.attack_direction, model, labels=LABELS, kind=kind)
    found, alone = jax.tree.map(np.asarray, jax.jit(run)(x))
    logits, jacobian = convolutional_jacobian()
    gamma, step = by_hand(jacobian, logits, LABELS, kind)
    np.testing.assert_allclose(found.gamma, gamma, rtol=1e-5, atol=1e-5 * np.abs(gamma).max())
    np.testing.assert_allclose(found.direction, step.reshape(x.shape), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-6)
    assert alone.shape == x.shape
    np.testing.assert_allclose(alone, found.direction, atol=1e-6)


@pytest.mark.parametrize("kind", analysis.DIRECTIONS)
def test_gamma_is_that_of_the_full_jacobian_in_double_precision(kind, float64):
    found = jax.jit(partial(analysis.gamma, smooth, direction=kind))(IMAGES, LABELS)
    logits, jacobian = smooth_jacobian()
    expected, _ = by_hand(jacobian, logits, LABELS, kind)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_gamma_is_the_slope_of_the_logits_along_the_direction(float64):
    found = jax.tree.map(np.asarray, jax.jit(partial(analysis.linear_response, smooth))(IMAGES, LABELS))
    value = jax.jit(smooth)
    ahead, behind = (np.asarray(value(IMAGES + sign * 1e-6 * found.direction)) for sign in (1, -1))
    np.testing.assert_allclose(found.gamma, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(found.direction.reshape(COUNT, -1), axis=1), 1, rtol=1e-12)


def test_a_saturated_model_has_the_gamma_that_double_precision_gives(float64):
    """Softmax rounds to 0 and 1 there, and the gradient of cross-entropy with it."""
    scale, x = 1e4, IMAGES.astype(np.float32)
    logits, jacobian = smooth_jacobian()
    labels = logits.argmax(1).astype(np.int32)
    model = lambda x: scale * smooth(x)  # noqa: E731
    assert np.abs(jax.grad(lambda x: cross_entropy(model(x), labels).sum())(x)).max() == 0
    found = jax.tree.map(np.asarray, jax.jit(partial(analysis.linear_response, model))(x, labels))
    one, two = np.argsort(-logits, 1)[:, :2].T  # delta is zero except for the two largest logits
    i = np.arange(COUNT)
    gradient = (jacobian[i, two] - jacobian[i, one]).reshape(COUNT, -1)
    step = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    np.testing.assert_allclose(found.direction.reshape(COUNT, -1), step, atol=1e-4)
    gamma = scale * np.einsum("bkd,bd->bk", jacobian.reshape(COUNT, CLASSES, -1), step)
    np.testing.assert_allclose(found.gamma, gamma, rtol=1e-3, atol=1e-3 * np.abs(gamma).max())


def test_a_flat_model_has_no_direction_and_never_flips():
    flat = lambda x: jnp.zeros((len(x), CLASSES)) * x.sum((1, 2)) + jnp.arange(4.0)[None]  # noqa: E731
    found = jax.jit(partial(analysis.linear_response, flat))(IMAGES.astype(np.float32), LABELS)
    np.testing.assert_array_equal(found.direction, 0)
    crossing = analysis.linear_epsilon(found.logits, found.gamma)
    assert np.isinf(crossing.eps).all() and (crossing.label == -1).all()


def test_a_data_set_in_batches_gives_the_results_of_one_call():
    x, weights = IMAGES.astype(np.float32), WEIGHTS.astype(np.float32)
    expected = jax.jit(partial(analysis.linear_response, partial(linear, weights), direction="sign"))(x, LABELS)
    for mesh in (None, data_mesh(jax.devices()[:2])):
        logits, gamma = analysis.dataset_response(linear, weights, x, LABELS, direction="sign", batch_size=4, mesh=mesh)
        assert isinstance(gamma, np.ndarray)
        np.testing.assert_allclose(logits, expected.logits, rtol=1e-5)
        np.testing.assert_allclose(gamma, expected.gamma, rtol=1e-5)


# Where classes cross


@jax.jit
def crossing(x, labels, direction, *, eps):
    """The true crossing of the linear model, compiled once."""
    return analysis.true_epsilon(partial(linear, WEIGHTS), x, labels, direction, eps=eps, steps=40)


@pytest.mark.parametrize("kind", analysis.DIRECTIONS)
def test_a_linear_model_flips_where_the_linear_response_says(kind, float64):
    model = partial(linear, WEIGHTS)
    labels = model(IMAGES).argmax(1).astype(np.int32)
    found = jax.jit(partial(analysis.linear_response, model, direction=kind))(IMAGES, labels)
    found = jax.tree.map(np.asarray, found)
    expected = jax.tree.map(np.asarray, analysis.linear_epsilon(found.logits, found.gamma))
    assert np.isfinite(expected.eps).all() and len(np.unique(expected.label)) > 1
    true = crossing(IMAGES, labels, found.direction, eps=1.1 * expected.eps.max())
    np.testing.assert_allclose(true.eps, expected.eps, rtol=1e-9)
    np.testing.assert_array_equal(true.label, expected.label)


def test_an_l2_step_of_two_classes_flips_at_the_distance_of_the_hyperplane(float64):
    weights = WEIGHTS[:, :2]
    logits = IMAGES.reshape(COUNT, -1) @ weights
    run = jax.jit(partial(analysis.linear_response, partial(linear, weights)))
    found = run(IMAGES, logits.argmax(1).astype(np.int32))
    distance = np.abs(logits[:, 0] - logits[:, 1]) / np.linalg.norm(weights[:, 0] - weights[:, 1])
    np.testing.assert_allclose(analysis.linear_epsilon(found.logits, found.gamma).eps, distance, rtol=1e-12)


def test_the_first_class_to_cross_is_the_smallest_positive_ratio():
    logits = np.array([[5, 3, 1], [1, 2, 0], [3, 3, 0], [9, 0, 0]], np.float32)
    gamma = np.array([[-1, 0, 3], [9, 1, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    found = analysis.linear_epsilon(logits, gamma)
    np.testing.assert_allclose(found.eps, [1, 1 / 8, 0, np.inf])
    np.testing.assert_array_equal(found.label, [2, 0, 1, -1])


def test_the_order_of_classes_and_of_images_does_not_matter():
    logits, gamma = RNG.normal(size=(2, 50, 5)).astype(np.float32)
    classes, images = np.array([3, 0, 4, 1, 2]), RNG.permutation(50)
    one = analysis.linear_epsilon(logits, gamma)
    other = analysis.linear_epsilon(logits[images][:, classes], gamma[images][:, classes])
    np.testing.assert_array_equal(other.eps, one.eps[images])
    flips = np.asarray(other.label) >= 0
    np.testing.assert_array_equal(classes[np.asarray(other.label)][flips], one.label[images][flips])
    mean = analysis.mean_field_epsilon(logits, gamma)
    np.testing.assert_allclose(
        analysis.mean_field_epsilon(logits[images][:, classes], gamma[images][:, classes]), mean[images], rtol=1e-6
    )
    # a factor or a shift of the logits changes Gamma equally
    np.testing.assert_allclose(analysis.linear_epsilon(4 * logits + 8, 4 * gamma).eps, one.eps, rtol=1e-4)


def test_the_mean_field_takes_the_means_by_rank():
    logits = np.array([[1, 5, 3], [0, 1, 8]], np.float32)
    gamma = np.array([[7, -2, 1], [8, 3, -4]], np.float32)
    np.testing.assert_allclose(analysis.rank_means(logits, gamma), [-3, 2, 7.5])
    np.testing.assert_allclose(analysis.mean_field_epsilon(logits, gamma), [2 / 5, 7 / 5])
    assert np.isinf(analysis.mean_field_epsilon(logits, -gamma)).all()


def test_the_mean_field_is_exact_where_all_images_have_one_gamma():
    logits = -np.sort(-RNG.random((20, 3)).astype(np.float32), 1)
    gamma = np.tile(np.array([[-1, 2, -5]], np.float32), (20, 1))
    np.testing.assert_allclose(
        analysis.mean_field_epsilon(logits, gamma), analysis.linear_epsilon(logits, gamma).eps, rtol=1e-5
    )


def test_the_true_crossing_is_at_zero_where_the_label_is_wrong_and_nowhere_where_it_holds(float64):
    model = partial(linear, WEIGHTS)
    predicted = model(IMAGES).argmax(1).astype(np.int32)
    labels = np.where(np.arange(COUNT) == 0, (predicted + 1) % CLASSES, predicted).astype(np.int32)
    away = -np.asarray(jax.jit(partial(analysis.attack_direction, model))(IMAGES, predicted))  # away from the boundary
    found = jax.tree.map(np.asarray, crossing(IMAGES, labels, away, eps=0.1))
    assert found.eps[0] == 0 and np.isinf(found.eps[1:]).all()
    assert found.label[0] == predicted[0] and (found.label[1:] == -1).all()


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": "linf"}, "direction must be one of 'l2', 'sign', 'least_likely'; got 'linf'"),
        ({"x": (255 * IMAGES).astype(np.uint8)}, "x must be floating point"),
        ({"x": np.full_like(IMAGES, np.nan)}, "x holds 96 NaN or infinite values of 96"),
        ({"labels": LABELS[:2]}, "labels must have shape [6]"),
        ({"labels": LABELS + 9}, "labels must be in [0, 4)"),
        ({"logits_fn": lambda x: x.sum((1, 2))}, "two classes need two logits"),
        ({"logits_fn": lambda x: 2 * x}, "the model must map images (6, 4, 4, 1) to logits [6, classes]"),
    ],
)
def test_bad_arguments_of_linear_response_are_refused(change, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    given = {"logits_fn": smooth, "x": IMAGES, "labels": LABELS, "direction": "l2"} | change
    kind = given.pop("direction")
    with pytest.raises(ValueError, match=re.escape(message)):
        analysis.linear_response(**given, direction=kind)
    with pytest.raises(ValueError, match=re.escape(message)):
        analysis.attack_direction(**given, kind=kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": "linf"}, "direction must be one of"),
        ({"images": (255 * IMAGES).astype(np.uint8)}, "images must be floating point"),
        ({"images": np.full(IMAGES.shape, np.nan, np.float32)}, "logits holds 24 NaN or infinite values of 24"),
        ({"labels": LABELS[:2]}, "labels must have shape ["),
        ({"labels": LABELS + 9}, "labels must be in [0, 4)"),
    ],
)
def test_data_sets_without_a_response_are_refused(change, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    images, weights = IMAGES.astype(np.float32), WEIGHTS.astype(np.float32)
    given = {"apply_fn": linear, "params": weights, "images": images, "labels": LABELS} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        analysis.dataset_response(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "reverse"}, "mode must be one of 'rev', 'fwd'; got 'reverse'"),
        ({"x": (255 * IMAGES).astype(np.uint8)}, "x must be floating point"),
        ({"logits_fn": lambda x: x.sum((1, 2))}, "two classes need two logits"),
    ],
)
def test_bad_arguments_of_the_jacobian_are_refused(change, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=re.escape(message)):
        analysis.logit_jacobian(**{"logits_fn": smooth, "x": IMAGES} | change)


@pytest.mark.parametrize("run", [analysis.linear_epsilon, analysis.mean_field_epsilon, analysis.rank_means])
@pytest.mark.parametrize(
    ("logits", "gamma", "message"),
    [
        (np.ones((2, 1)), np.ones((2, 1)), "2 classes or more; got (2, 1) and (2, 1)"),
        (np.ones((2, 3)), np.ones((2, 4)), "got (2, 3) and (2, 4)"),
        (np.ones((2, 2)), np.array([[1, np.inf], [0, np.nan]]), "gamma holds 2 NaN or infinite values of 4"),
        (np.array([[1, np.inf], [0, 1]]), np.ones((2, 2)), "logits holds 1 NaN or infinite values of 4"),
    ],
)
def test_an_infinite_gamma_is_refused(run, logits, gamma, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=re.escape(message)):
        run(logits, gamma)


def test_a_model_with_an_infinite_gamma_is_refused_for_a_data_set():
    steep = lambda _, x: jnp.stack([1 - x, jnp.sqrt(jnp.maximum(x, 0))], -1)[:, 0]  # noqa: E731
    with pytest.raises(ValueError, match="gamma holds"):
        analysis.dataset_response(steep, None, np.zeros((2, 1), np.float32), np.zeros(2, np.int32))


@pytest.mark.slow
def test_a_model_without_a_prediction_has_no_class_that_overtakes():
    nothing = lambda x: jnp.full((len(x), 3), jnp.nan)  # noqa: E731
    x = jnp.full((2, 4), 0.5)
    found = analysis.true_epsilon(nothing, x, jnp.zeros(2, int), jnp.ones((2, 4)), eps=1.0, points=4, steps=2)
    assert found.eps.tolist() == [0, 0] and found.label.tolist() == [-1, -1]
