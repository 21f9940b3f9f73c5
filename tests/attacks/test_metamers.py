"""Metamers are exact: the logits of one image, the nuisance of another, to the rounding of the number format.

The search for features is not: it gets as near as its ball allows."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from invjax.attacks import feature_adversary, interpolate, l2, linf, metamers
from invjax.bijectors import affine_coupling, conv1x1
from invjax.models import fi_revnet, mlp, round_trip_error

SHAPE, CLASSES, BATCH = (4, 4, 2), 3, 5


fi = partial(fi_revnet, SHAPE, CLASSES, blocks=(2,), hidden=((5,),))
MODELS = {"additive": fi(), "affine-conv1x1": fi(coupling=affine_coupling, mix=conv1x1), "plain": fi(save_memory=False)}
TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
CASES = [("additive", "float32"), ("additive", "float64"), ("affine-conv1x1", "float64"), ("plain", "float32")]


@cache
def functions(name):
    """`metamers`, `encode` and `apply` of a model, compiled."""
    encode = jax.jit(lambda params, x: MODELS[name].encode(params, x)[0])
    return jax.jit(partial(metamers, MODELS[name])), encode, jax.jit(MODELS[name].apply)


def images(seed):
    return np.random.default_rng(seed).random((BATCH, *SHAPE))


@cache
def trained(name, dtype):
    """Parameters that are not those of a model's start, where every coupling is the identity."""
    params = jax.jit(MODELS[name].init)(jax.random.key(0), jnp.asarray(images(0), dtype))
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    moved = [np.asarray(leaf) + np.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    return jax.tree.unflatten(structure, moved)


@cache
def case(name, dtype):
    """Two batches, their metamers, and the codes of all three."""
    metamers_fn, encode, _ = functions(name)
    params = trained(name, dtype)
    a, b = (images(seed).astype(dtype) for seed in (2, 3))
    x = np.asarray(metamers_fn(params, a, b))
    return a, b, x, *(jax.tree.map(np.asarray, encode(params, image)) for image in (a, b, x))


@pytest.fixture(params=CASES, ids="-".join)
def name_and_dtype(request):
    with jax.enable_x64(request.param[1] == "float64"):
        yield request.param


def assert_equal(a, b, dtype):
    np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype])


def test_a_metamer_has_the_logits_of_the_first_image(name_and_dtype):
    _, _, x, code_a, code_b, code_x = case(*name_and_dtype)
    assert x.dtype == name_and_dtype[1]
    assert np.abs(code_a.logits - code_b.logits).max() > 0.1  # the two codes differ
    assert_equal(code_x.logits, code_a.logits, x.dtype.name)


def test_a_metamer_has_the_nuisance_of_the_second_image(name_and_dtype):
    _, _, x, code_a, code_b, code_x = case(*name_and_dtype)
    assert np.abs(code_a.nuisance - code_b.nuisance).max() > 0.1
    assert_equal(code_x.nuisance, code_b.nuisance, x.dtype.name)


def test_a_metamer_is_neither_of_the_two_images(name_and_dtype):
    a, b, x, *_ = case(*name_and_dtype)
    assert x.shape == a.shape
    for image in (a, b):
        assert (np.abs(x - image).max((1, 2, 3)) > 0.01).all()


def test_the_classifier_gives_a_metamer_the_logits_of_the_first_image(name_and_dtype):
    name, dtype = name_and_dtype
    a, _, x, *_ = case(name, dtype)
    params, apply = trained(name, dtype), functions(name)[2]
    assert_equal(apply(params, x), apply(params, a), dtype)


def test_an_image_and_itself_give_the_image_back(name_and_dtype):
    name, dtype = name_and_dtype
    a, *_ = case(name, dtype)
    assert_equal(functions(name)[0](trained(name, dtype), a, a), a, dtype)


def test_swapping_the_logits_back_gives_the_second_image_back(name_and_dtype):
    name, dtype = name_and_dtype
    _, b, x, *_ = case(name, dtype)
    assert_equal(functions(name)[0](trained(name, dtype), b, x), b, dtype)


def test_the_metamer_of_a_pair_does_not_depend_on_the_batch():
    a, b, x, *_ = case("additive", "float32")
    order = np.array([3, 0, 4, 1, 2])
    shuffled = functions("additive")[0](trained("additive", "float32"), a[order], b[order])
    np.testing.assert_allclose(shuffled, x[order], atol=1e-5)


def test_jit_equals_eager():
    a, b, x, *_ = case("additive", "float32")
    np.testing.assert_allclose(metamers(MODELS["additive"], trained("additive", "float32"), a, b), x, atol=1e-5)


def batch(shape=(BATCH, *SHAPE), dtype=np.float32):
    return np.zeros(shape, dtype)


def with_nan():
    x = batch()
    x[1, 2, 3, 0], x[0, 0, 0, 1] = np.nan, np.inf
    return x


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (batch(), batch((2, *SHAPE)), f"got logits_from {(BATCH, *SHAPE)} and nuisance_from {(2, *SHAPE)}; repeat the"),
        (
            batch((2, 8, 8, 2)),
            batch((2, 8, 8, 2)),
            "must have shape [batch, 4, 4, 2]; got (2, 8, 8, 2); crop",
        ),
        (with_nan(), batch(), "images holds 2 NaN or infinite values of 160; remove them"),
        (batch(), with_nan(), "images holds 2 NaN or infinite values of 160; remove them"),
        (
            batch(dtype=np.uint8),
            batch(),
            "images must be floating point; got dtype uint8; convert bytes with data.as_float",
        ),
        (
            batch(),
            batch(dtype=np.uint8),
            "images must be floating point; got dtype uint8; convert bytes with data.as_float",
        ),
    ],
)
def test_bad_images_of_a_metamer_are_refused(monkeypatch, a, b, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    with pytest.raises(ValueError, match=re.escape(message)):
        metamers(MODELS["additive"], trained("additive", "float32"), jnp.asarray(a), jnp.asarray(b))


def test_shapes_and_dtypes_are_checked_while_tracing(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for a, b in [(batch(), batch((2, *SHAPE))), (batch(dtype=np.uint8), batch(dtype=np.uint8))]:
        with pytest.raises(ValueError, match="got"):
            jax.eval_shape(partial(metamers, MODELS["additive"]), trained("additive", "float32"), a, b)


# The way from an image to its metamer


WEIGHTS = np.array([0.0, 0.25, 1.0, 1.5])


@cache
def way(name):
    """The way from a to its metamer, and the code of every image on it, in float64."""
    a, b, *_ = case(name, "float64")
    params = trained(name, "float64")
    path = jax.jit(partial(interpolate, MODELS[name]))(params, a, b, WEIGHTS)
    path = np.asarray(path)
    codes = [jax.tree.map(np.asarray, functions(name)[1](params, x)) for x in path]
    return path, codes


@pytest.fixture(params=["additive", "affine-conv1x1"])
def on_the_way(request):
    with jax.enable_x64(True):
        yield *case(request.param, "float64"), *way(request.param)


def test_interpolation_starts_at_the_image_and_passes_its_metamer(on_the_way):
    a, _, x, *_, path, _ = on_the_way
    assert path.shape == (4, *a.shape) and path.dtype == a.dtype
    np.testing.assert_allclose(path[0], a, atol=1e-9)
    np.testing.assert_allclose(path[2], x, atol=1e-9)


def test_interpolation_keeps_the_logits_and_moves_the_nuisance_linearly(on_the_way):
    _, _, _, code_a, code_b, _, _, codes = on_the_way
    assert np.abs(code_a.nuisance - code_b.nuisance).max() > 0.1
    for t, code in zip(WEIGHTS, codes, strict=True):
        np.testing.assert_allclose(code.logits, code_a.logits, atol=1e-9)
        expected = np.asarray(code_a.nuisance) + t * np.asarray(code_b.nuisance - code_a.nuisance)
        np.testing.assert_allclose(code.nuisance, expected, atol=1e-9)


def test_interpolation_keeps_the_dtype_of_the_images():
    a, b, x, *_ = case("plain", "float32")
    path = jax.jit(partial(interpolate, MODELS["plain"]))(trained("plain", "float32"), a, b, np.linspace(0, 1, 2))
    assert path.dtype == np.float32
    np.testing.assert_allclose(path[-1], x, atol=1e-3)


@pytest.mark.parametrize(
    ("a", "b", "weights", "message"),
    [
        (batch(), batch((2, *SHAPE)), np.zeros(2), f"got first {(BATCH, *SHAPE)} and second {(2, *SHAPE)}; repeat the"),
        (batch(), with_nan(), np.zeros(2), "images holds 2 NaN or infinite values of 160; remove them"),
        (batch(), batch(), np.zeros((2, 1)), "weights must be a list of numbers, [T]; got shape (2, 1); ravel it"),
        (batch(), batch(), np.array(0.5), "weights must be a list of numbers, [T]; got shape (); ravel it"),
        (batch(), batch(), np.array([0, np.nan]), "weights holds 1 NaN or infinite values of 2; remove them"),
    ],
)
def test_bad_arguments_of_interpolate_are_refused(monkeypatch, a, b, weights, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    with pytest.raises(ValueError, match=re.escape(message)):
        interpolate(MODELS["additive"], trained("additive", "float32"), jnp.asarray(a), jnp.asarray(b), weights)


# Metamers by search


FEATURES = mlp(3, (12,))
SEEN = np.random.default_rng(5).random((4, 3, 3, 1)).astype(np.float32)
FEATURE_PARAMS = jax.jit(FEATURES.init)(jax.random.key(6), SEEN)
features_fn = jax.jit(partial(FEATURES.apply, FEATURE_PARAMS))
TARGETS = np.asarray(features_fn(SEEN[::-1]))
SEARCHES = {  # threat, a radius that reaches the targets and one that does not
    "l2": (l2(), 3.0, 0.1),
    "linf": (linf(), 1.0, 0.02),
}


@cache
def compiled_search(name):
    attack = partial(feature_adversary, features_fn, SEEN, TARGETS, threat=SEARCHES[name][0])
    return jax.jit(lambda eps, tolerance: attack(eps=eps, tolerance=tolerance))


def search(name, eps, tolerance=1e-2):
    return jax.tree.map(np.asarray, compiled_search(name)(eps, tolerance))


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_in_a_large_ball_reaches_the_features_of_another_image(name):
    found = search(name, SEARCHES[name][1])
    rest = np.asarray(features_fn(found.x)) - TARGETS
    assert np.abs(np.asarray(features_fn(SEEN)) - TARGETS).max(1).min() > 0.05  # the search has to move the images
    assert found.success.all() and np.abs(rest).max() <= 1e-2
    np.testing.assert_allclose(found.loss, -np.sqrt((rest**2).sum(1)), atol=1e-5)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_in_a_small_ball_stays_inside_and_comes_nearer(name):
    threat, _, small = SEARCHES[name]
    found = search(name, small)
    assert found.x.min() >= 0 and found.x.max() <= 1
    assert (found.distance <= small * (1 + 1e-5)).all()
    np.testing.assert_allclose(jax.jit(jax.vmap(threat.distance))(found.x, SEEN), found.distance, rtol=1e-6)
    distance = lambda x: np.sqrt(((np.asarray(features_fn(x)) - TARGETS) ** 2).sum(1))  # noqa: E731
    assert not found.success.any()
    assert (distance(found.x) < distance(SEEN)).all()
    np.testing.assert_allclose(found.loss, -distance(found.x), rtol=1e-4)
    assert found.trace.shape == (4, 200)
    np.testing.assert_array_equal(found.trace.max(1), found.loss)  # the nearest on the way is kept


def test_the_tolerance_defines_a_success():
    found = search("l2", 0.1)
    rest = np.abs(np.asarray(features_fn(found.x)) - TARGETS).max(1)
    bar = float(np.sort(rest)[1]) * 1.001
    np.testing.assert_array_equal(search("l2", 0.1, tolerance=bar).success, rest <= bar)


def test_the_steps_shrink_to_nothing():
    """From the image on, each of its steps in one direction: 5 / n (1 + (n - 1) / n + ... + 1 / n) of the radius."""
    ramp = lambda x: 1e3 * x  # noqa: E731
    x, targets = np.full((1, 2), 0.5, np.float32), np.float32([[1e6, 500.0]])
    free = l2((-np.inf, np.inf))
    found = jax.jit(lambda x: feature_adversary(ramp, x, targets, eps=100.0, threat=free, steps=4, step_size=1.0))(x)
    np.testing.assert_allclose(found.x, [[0.5 + 1 + 0.75 + 0.5 + 0.25, 0.5]], rtol=1e-5)


def test_a_search_of_radius_zero_returns_the_image():
    found = search("l2", 0.0)
    np.testing.assert_array_equal(found.x, SEEN)
    np.testing.assert_array_equal(found.distance, np.zeros(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": np.zeros((4, 2), np.float32)}, "targets must have the shape of the features, (4, 3); got (4, 2)"),
        ({"targets": np.zeros((1, 3), np.float32)}, "targets must have the shape of the features, (4, 3); got (1, 3)"),
        ({"x": np.float32(255) * SEEN}, "x must lie in (0.0, 1.0)"),
        ({"x": np.where(np.arange(4)[:, None, None, None] == 0, np.float32(np.nan), SEEN)}, "x holds 9 NaN"),
        ({"steps": 0}, "steps must be positive"),
        ({"eps": -1.0}, "eps must not be negative"),
    ],
)
def test_bad_arguments_of_a_feature_search_are_refused(change, message):
    given = {"x": SEEN, "targets": TARGETS, "eps": 0.1} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        feature_adversary(features_fn, **given)


FACTOR = 8.0


def steep(factor):
    """A network whose coupling networks are multiplied, so that rounding grows by their slope at every layer."""
    params = trained("additive", "float32")
    return jax.tree.map(lambda leaf: np.asarray(leaf * factor if leaf.ndim > 1 else leaf, np.float32), params)


def test_metamers_of_an_ill_conditioned_network_give_a_warning(recwarn):
    model, (a, b) = MODELS["additive"], (images(seed).astype(np.float32) for seed in (2, 3))
    a, b = jnp.asarray(a), jnp.asarray(b)
    metamers(model, steep(1), a, b)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"logits of these metamers are off by up to .*float64 .*learning rate"):
        made = metamers(model, steep(FACTOR), a, b)
    codes = [model.encode(steep(FACTOR), x)[0] for x in (a, b)]
    error = round_trip_error(model, steep(FACTOR), codes[0]._replace(nuisance=codes[1].nuisance))
    gap = np.abs(model.apply(steep(FACTOR), made) - codes[0].logits).max()
    assert error.max() >= 0.99 * gap > 0.1
    recwarn.clear()
    jax.jit(partial(metamers, model))(steep(FACTOR), a, b)  # inside of jit nothing can be said
    assert not recwarn.list


@pytest.mark.slow
def test_the_round_trip_error_is_that_of_images_and_of_codes(recwarn):
    model, x = MODELS["additive"], jnp.asarray(images(2), jnp.float32)
    for factor, bounds in ((1, (0, 1e-4)), (FACTOR, (1e-3, np.inf))):
        params = steep(factor)
        code = model.encode(params, x)[0]
        again = model.decode(params, code)
        expected = np.abs(again - x).reshape(BATCH, -1).max(1)
        found = round_trip_error(model, params, x)
        np.testing.assert_allclose(found, np.where(np.isfinite(expected), expected, np.inf), rtol=1e-5)
        of_code = round_trip_error(model, params, code)
        assert found.shape == of_code.shape == (BATCH,)
        assert bounds[0] <= of_code.max() <= bounds[1]
    broken = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), steep(1))
    assert np.isinf(round_trip_error(model, broken, x)).all()


@pytest.mark.slow
def test_interpolations_of_an_ill_conditioned_network_warn_as_metamers_do():
    model = MODELS["additive"]
    params = jax.tree.map(
        lambda leaf: leaf + 3 * jax.random.normal(jax.random.key(5), leaf.shape), trained("additive", "float32")
    )
    first, second = (jnp.asarray(images(seed), jnp.float32) for seed in (1, 2))
    for call in (metamers, partial(interpolate, weights=np.array([0.0, 0.5, 1.0]))):
        with pytest.warns(UserWarning, match="the logits of these metamers are off by up to"):
            call(model, params, first, second)
