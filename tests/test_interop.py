"""Models of other libraries: the same logits as there, under the same attacks, and errors that name a fix."""

import re
import sys
from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from invjax import attacks, data, evaluation, fast_convs, interop

SHAPE, CLASSES, BATCH = (6, 6, 2), 3, 5
LABELS = np.array([0, 1, 2, 0, 1], np.int32)


def images(seed=0):
    return np.random.default_rng(seed).random((BATCH, *SHAPE)).astype(np.float32)


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(CLASSES)(x.reshape(x.shape[0], -1))


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(SHAPE[-1], 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(4 * SHAPE[0] * SHAPE[1], CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(self.norm(nnx.relu(self.conv(x))))
        return self.dense(x.reshape(x.shape[0], -1))


@cache
def linen_variables(seed):
    return jax.jit(partial(LinenModel().init, train=False))(jax.random.key(seed), images())


def linen_model(seed):
    """A model, as its library calls it, and what interop makes of it."""
    module = LinenModel()
    variables = linen_variables(seed)
    # averages that differ from the initial ones, for which batch norm is the identity
    variables = variables | {"batch_stats": jax.tree.map(lambda leaf: leaf + 0.3, variables["batch_stats"])}
    return partial(module.apply, variables, train=False), interop.from_linen(module, variables, train=False)


def nnx_model(seed):
    model = NnxModel(nnx.Rngs(seed))
    model.norm.mean[...] += 0.3
    model.eval()
    return model, interop.from_nnx(model)


def equinox_model(seed):
    keys = jax.random.split(jax.random.key(seed))
    layers = eqx.nn.Sequential(
        [
            eqx.nn.Lambda(lambda x: jnp.moveaxis(x, -1, 0)),
            eqx.nn.Conv2d(SHAPE[-1], 4, 3, padding=1, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Dropout(0.5),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(4 * SHAPE[0] * SHAPE[1], CLASSES, key=keys[1]),
        ]
    )
    model = eqx.nn.inference_mode(layers)
    return jax.vmap(model), interop.from_equinox(model)


def standardised_model(seed):
    """A linen model of standardised images."""
    mean, std = np.array([0.4, 0.6], np.float32), np.array([0.2, 0.5], np.float32)
    original, (apply_fn, params) = linen_model(seed)
    row = (None, None, None)
    return lambda x: original((x - mean[row]) / std[row]), (interop.normalized(apply_fn, mean, std), params)


# each model is made once, and each function is compiled once
MODELS = {"linen": linen_model, "nnx": nnx_model, "equinox": equinox_model, "normalized": standardised_model}
every_model = pytest.mark.parametrize("make", [cache(make) for make in MODELS.values()], ids=MODELS)


@cache
def compiled(function):
    return jax.jit(lambda *args: function(*args))


@every_model
def test_the_logits_are_those_of_the_original(make):
    original, (apply_fn, params) = make(0)
    logits = np.asarray(compiled(apply_fn)(params, images()))
    assert logits.shape == (BATCH, CLASSES) and np.ptp(logits) > 0.1
    np.testing.assert_allclose(logits, compiled(original)(images()), rtol=1e-5, atol=1e-6)


@every_model
def test_the_parameters_are_a_pytree_that_decides(make):
    _, (apply_fn, params) = make(0)
    _, (_, others) = make(1)
    assert jax.tree.structure(params) == jax.tree.structure(others)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    other = np.asarray(compiled(make(1)[0])(images()))
    np.testing.assert_allclose(compiled(apply_fn)(others, images()), other, rtol=1e-5, atol=1e-6)
    assert np.abs(compiled(apply_fn)(params, images()) - other).max() > 0.1


@every_model
def test_an_attack_compiles_once_and_is_that_on_the_original(make):
    original, (apply_fn, params) = make(0)
    calls = []

    def counted(params, x):
        calls.append(x.shape)
        return apply_fn(params, x)

    attack = attacks.pgd(steps=2)
    run = attacks.jit_attack(attack, counted)
    key = jax.random.key(3)
    found = run(key, params, images(), LABELS, eps=0.1)
    traced = len(calls)
    bare = jax.jit(lambda x: attack(key, original, x, LABELS, eps=0.1))(images())
    np.testing.assert_allclose(found.x, bare.x, atol=1e-6)
    np.testing.assert_array_equal(found.success, bare.success)
    assert np.asarray(found.distance).max() > 0.09

    other = run(key, make(1)[1][1], images(), LABELS, eps=0.05)
    assert len(calls) <= traced + 1  # for the check of the shapes; no new trace of the attack
    assert np.abs(np.asarray(other.x) - np.asarray(found.x)).max() > 0.01


@every_model
def test_evaluation_accepts_models_of_other_libraries(make):
    original, (apply_fn, params) = make(0)
    x = np.asarray(images())
    curve = evaluation.robustness_curve(
        jax.random.key(0), attacks.fgsm(), apply_fn, params, x, LABELS, epsilons=[0.0, 1.0], vectorize=False
    )
    clean = np.asarray(compiled(original)(x)).argmax(1) == LABELS
    np.testing.assert_array_equal(curve.broken_at > 0, clean)


@every_model
def test_fast_convs_rewrites_models_of_other_libraries(make):
    original, (apply_fn, params) = make(0)
    fast = jax.jit(fast_convs(apply_fn))(params, images())
    np.testing.assert_allclose(fast, compiled(original)(images()), rtol=1e-5, atol=1e-6)
    program = str(jax.make_jaxpr(fast_convs(apply_fn))(params, images()))
    assert "canonical_conv" in program and "conv_general_dilated" not in program


def test_a_plain_function_of_images_that_are_rows_can_be_normalized():
    apply_fn = interop.normalized(lambda w, x: x @ w, mean=2, std=[0.5, 4.0])
    x = np.array([[2.5, 6.0], [1.0, 2.0]], np.float32)
    np.testing.assert_allclose(apply_fn(jnp.eye(2), x), [[1, 1], [-2, 0]])


def test_an_attack_on_a_normalized_model_stays_in_the_range_of_pixels():
    weights = jnp.asarray([[1.0, -1.0], [-1.0, 1.0]])
    apply_fn = interop.normalized(lambda w, x: x @ w, [0.5, 0.5], [0.1, 0.01])
    x, labels = jnp.array([[0.95, 0.02]]), jnp.array([0], jnp.int32)
    found = jax.jit(lambda x: attacks.fgsm()(jax.random.key(0), partial(apply_fn, weights), x, labels, eps=0.1))(x)
    np.testing.assert_allclose(found.x, [[0.85, 0.12]], atol=1e-6)


def test_half_precision_stays_half_precision():
    apply_fn = interop.normalized(lambda params, x: x, [0.5, 0.5], [0.5, 0.5])
    assert apply_fn(None, jnp.ones((1, 2), jnp.float16)).dtype == jnp.float16


def test_a_call_does_not_change_the_nnx_model():
    class Counting(nnx.Module):
        def __init__(self):
            self.calls = nnx.Variable(jnp.zeros(()))

        def __call__(self, x):
            self.calls[...] += 1
            return x.reshape(x.shape[0], -1)[:, :2] + self.calls[...]

    model = Counting()
    apply_fn, params = interop.from_nnx(model)
    first, second = (jax.jit(apply_fn)(params, images()) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, images().reshape(BATCH, -1)[:, :2] + 1)
    assert float(model.calls[...]) == 0


def test_changing_the_nnx_model_later_changes_nothing():
    model, (apply_fn, params) = nnx_model(0)
    run = jax.jit(apply_fn)
    before = np.asarray(run(params, images()))
    model.dense.bias[...] += 1.0
    np.testing.assert_array_equal(run(params, images()), before)
    assert np.abs(np.asarray(jax.jit(lambda x: model(x))(images())) - before).min() > 0.5


def test_an_nnx_model_in_training_mode_is_refused_by_the_names_of_its_parts():
    model = NnxModel(nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first") as error:
        interop.from_nnx(model)
    assert "dropout (Dropout, deterministic=False)" in str(error.value)
    assert "norm (BatchNorm, use_running_average=False)" in str(error.value)
    interop.from_nnx(nnx.view(model, deterministic=True, use_running_average=True))


def test_a_linen_model_in_training_mode_does_not_run():
    module = LinenModel()
    variables = linen_variables(0)
    apply_fn, params = interop.from_linen(module, variables, train=True)
    with pytest.raises(Exception, match="batch_stats"):
        apply_fn(params, images())


def test_the_variables_of_a_linen_model_are_passed_whole():
    module = LinenModel()
    variables = linen_variables(0)
    apply_fn, params = interop.from_linen(module, variables, train=False)
    assert params is variables
    moved = params | {"batch_stats": jax.tree.map(lambda leaf: leaf + 1, params["batch_stats"])}
    logits = [np.asarray(compiled(apply_fn)(p, images())) for p in (moved, params)]
    assert np.abs(logits[0] - logits[1]).max() > 0.01


def test_a_method_of_a_linen_module_can_be_called():
    class Two(nn.Module):
        def setup(self):
            self.dense = nn.Dense(2)

        def __call__(self, x):
            return self.dense(x), x

        def logits(self, x):
            return self.dense(x)

    x = jnp.ones((1, 3))
    variables = Two().init(jax.random.key(0), x)
    apply_fn, params = interop.from_linen(Two(), variables, method="logits")
    np.testing.assert_array_equal(apply_fn(params, x), Two().apply(variables, x)[0])


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        (
            {"Dense_0": {}, "Conv_0": {}},
            {},
            "got a mapping of ['Conv_0', 'Dense_0']; pass all that module.init returned",
        ),
        ({}, {}, 'variables must hold "params" beside its other collections; got a mapping of []'),
        ({"params": {}}, {"mutable": ["batch_stats"]}, "mutable must be left out; got mutable=['batch_stats']"),
    ],
)
def test_linen_variables_that_give_no_logits_are_refused(variables, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        interop.from_linen(LinenModel(), variables, **arguments)


def test_equinox_is_asked_for_by_name_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match=r"^from_equinox needs equinox: pip install equinox$"):
        interop.from_equinox(None)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5, 0.5], [0.5, 0.0], "std must be positive; got std=[0.5, 0.0]; use 1 for a channel that never varies"),
        (0.5, -1.0, "std must be positive; got std=-1.0"),
        ([0.5, 0.5], [1.0, 1.0, 1.0], "mean and std must be of the same channels; got 2 and 3 numbers"),
        (np.zeros((1, 1, 3)), 1.0, "mean must be one finite number, or one for each channel; got mean=[[[0.0"),
        (0.0, np.ones((3, 1)), "std must be one finite number, or one for each channel; got std=[[1.0]"),
        ([0.5, float("nan")], 1.0, "mean must be one finite number, or one for each channel; got mean=[0.5, nan]"),
    ],
)
def test_numbers_that_do_not_standardise_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        interop.normalized(lambda params, x: x, mean, std)


@pytest.mark.parametrize(
    ("mean", "std", "x", "message"),
    [
        ([0.5] * 3, [0.5] * 3, images(), f"are of 3 channels; got images {(BATCH, *SHAPE)}; move the channel"),
        ([0.5] * 3, 0.5, images(), "are of 3 channels"),
        (0.5, [0.5] * 6, images(), "are of 6 channels"),
        (0.5, 0.5, np.zeros((1, 2, 2, 1), np.uint8), "images must be floating point; got dtype uint8"),
    ],
)
def test_images_that_do_not_fit_the_numbers_are_refused(monkeypatch, mean, std, x, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    apply_fn = interop.normalized(lambda params, x: x, mean, std)
    for _ in range(2):  # the second time as well
        with pytest.raises(ValueError, match=re.escape(message)):
            jax.eval_shape(apply_fn, None, x)


def test_normalized_takes_the_output_of_as_float():
    pixels = np.full((2, *SHAPE), 255, np.uint8)
    apply_fn = interop.normalized(lambda params, x: x.mean((1, 2)), 1.0, 0.5)
    np.testing.assert_array_equal(apply_fn(None, data.as_float(pixels)), np.zeros((2, 2)))


def test_a_linen_module_with_keys_for_its_masks_is_refused():
    dense = nn.Dense(3)
    variables = dense.init(jax.random.key(0), jnp.ones((1, 4)))
    with pytest.raises(ValueError, match="rngs must be left out"):
        interop.from_linen(dense, variables, rngs={"dropout": jax.random.key(1)})


class WithArguments(nnx.Module):
    """As in flax's example of MNIST, the call takes the keys of its masks."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x, scale, rngs):
        assert rngs is None
        return scale * self.dense(x)


class KeyedMlp(eqx.Module):
    """An equinox model that takes a key, which it needs in training only."""

    dense: eqx.nn.Linear

    def __call__(self, x, scale, key):
        assert key is None
        return scale * self.dense(x)


class Parts(nn.Module):
    """A module that has no logits of its own."""


class NnxParts(nnx.Module):
    """A module that has no logits of its own."""


class EqxParts(eqx.Module):
    """A module that has no logits of its own."""


def test_arguments_of_the_call_reach_nnx_and_equinox_models():
    x = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    model = WithArguments(nnx.Rngs(0))
    apply_fn, params = interop.from_nnx(model, scale=2.0, rngs=None)
    np.testing.assert_allclose(apply_fn(params, x), 2 * model.dense(x), rtol=1e-6)
    keyed = KeyedMlp(eqx.nn.Linear(4, CLASSES, key=jax.random.key(0)))
    apply_fn, params = interop.from_equinox(keyed, 2.0, key=None)
    np.testing.assert_allclose(apply_fn(params, x), 2 * jax.vmap(keyed.dense)(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: interop.from_linen(lambda x: x, {"params": {}}),
            "must be a flax linen module, with init and apply; got the function <lambda>; use from_nnx",
        ),
        (
            lambda: interop.from_nnx(nn.Dense(3)),
            "must be a flax nnx module; got a flax.linen.*; use from_linen",
        ),
        (
            lambda: interop.from_equinox(nn.Dense(3)),
            "equinox module with __call__; got a flax.linen.*; use from_linen or",
        ),
        (
            lambda: interop.from_linen(LinenModel, {"params": {}}),
            "with init and apply; got the class LinenModel; make an instance of it",
        ),
        (lambda: interop.from_nnx(NnxModel), "flax nnx module; got the class NnxModel; make an instance of it"),
        (lambda: interop.from_equinox(KeyedMlp), "with __call__; got the class KeyedMlp; make an instance of it"),
        (
            lambda: interop.from_linen(Parts(), {"params": {}}),
            "logits by __call__; got a .*Parts without it",
        ),
        (
            lambda: interop.from_linen(LinenModel(), {"params": {}}, method="head"),
            "module must give logits by head; got a .*LinenModel without it; pass method",
        ),
        (lambda: interop.from_nnx(NnxParts()), "model must be a function x -> logits; got a .*NnxParts"),
        (lambda: interop.from_equinox(EqxParts()), "must be an equinox module with __call__; got a .*EqxParts"),
    ],
    ids=[
        "a function as linen",
        "linen as nnx",
        "linen as equinox",
        "a linen class",
        "an nnx class",
        "an equinox class",
        "linen without a call",
        "linen without a method",
        "nnx without a call",
        "equinox without a call",
    ],
)
def test_a_model_of_another_kind_is_refused_when_it_is_given(call, message):
    with pytest.raises(ValueError, match=message):
        call()
