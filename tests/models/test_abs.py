"""Analysis by synthesis: the search for latents and the logits of the network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.attacks import jit_attack, linf, pgd
from invjax.models import (
    AbsParams,
    analysis_by_synthesis,
    black_and_white,
    init_class_vae,
    prior_latents,
    stack_vaes,
    with_prior,
)
from invjax.models._abs_search import best_latents
from invjax.models._class_vae import decode as decode_eagerly
from invjax.models._class_vae import negative_elbo as negative_elbo_eagerly

# compiled as a whole, because eager operations would compile one by one
decode, negative_elbo = jax.jit(decode_eagerly), jax.jit(negative_elbo_eagerly)
explained = partial(jax.jit, static_argnames=("steps", "step_size", "clip"))(best_latents)

KEY = jax.random.key(0)
CLASSES, DRAWS = 2, 30


@pytest.fixture(scope="module")
def params():
    """Two classes whose images differ, and differ with their latents."""
    keys = jax.random.split(KEY, CLASSES)
    make = jax.jit(lambda key: jax.tree.map(lambda leaf: 2 * leaf, init_class_vae(key, 2, (2, 2, 2), (4, 3, 3))))
    return jax.jit(with_prior)(stack_vaes([make(key) for key in keys]), prior_latents(KEY, DRAWS, 2))


def of_class(params, c):
    return jax.tree.map(lambda leaf: leaf[c], params.vaes)


def costs_of_draws(params, x):
    """`[B, K, N]`, one after the other."""
    every = [
        [
            negative_elbo(of_class(params, c), jnp.broadcast_to(one, (DRAWS, 28, 28, 1)), params.latents)
            for c in range(CLASSES)
        ]
        for one in x
    ]
    return np.array(every)


def some_images(seed, count=5):
    return np.random.default_rng(seed).uniform(size=(count, 28, 28, 1)).astype(np.float32)


def elbos(params, x, z):
    return np.stack([negative_elbo(of_class(params, c), x, z[:, c]) for c in range(CLASSES)], 1)


@pytest.mark.slow
def test_the_prior_is_decoded_class_by_class(params):
    assert isinstance(params, AbsParams) and params.images.shape == (CLASSES, DRAWS, 784)
    for c in range(CLASSES):
        expected = decode(of_class(params, c), params.latents).reshape(DRAWS, -1)
        np.testing.assert_allclose(params.images[c], expected, atol=1e-6)


def test_without_steps_the_search_returns_the_best_draw(params):
    x, costs = some_images(0), costs_of_draws(params, some_images(0))
    np.testing.assert_array_equal(explained(params, x, steps=0), params.latents[costs.argmin(2)])
    logits = jax.jit(analysis_by_synthesis(CLASSES, steps=0).apply)(params, x)
    np.testing.assert_allclose(logits, -costs.min(2), rtol=1e-5)


@pytest.mark.parametrize("step_size", [0.05, 5.0])
def test_the_search_finds_latents_at_least_as_good_as_every_draw(params, step_size):
    """This holds also for steps that are so large that they only increase the cost."""
    x = np.concatenate([some_images(1), np.asarray(decode(of_class(params, 1), params.latents[:3] + 0.3))])
    best_draw = costs_of_draws(params, x).min(2)
    found = elbos(params, x, explained(params, x, steps=15, step_size=step_size))
    assert (found <= best_draw + 1e-6).all()
    if step_size < 1:
        assert (found < best_draw - 1e-5).mean() > 0.8


def test_the_search_reaches_the_latents_that_generated_an_image(params):
    z = params.latents[:6] + np.random.default_rng(2).normal(size=(6, 2)).astype(np.float32) / 5
    x = decode(of_class(params, 0), z)
    found = elbos(params, x, explained(params, x, steps=100))
    made = np.asarray((z**2).sum(1) / 2 / 784)
    assert (found[:, 0] <= made + 1e-6).all() and (found[:, 0] < found[:, 1]).all()
    assert (costs_of_draws(params, x).min(2)[:, 0] > made).any()


def test_steps_stay_within_the_clip(params):
    far = jnp.array([[3.0, 0.0], [0.0, -3.0]])
    x = decode(of_class(params, 0), far)
    near = params._replace(latents=params.latents / 10)
    near = jax.jit(with_prior)(near.vaes, near.latents)
    norms = jnp.linalg.norm(explained(near, x, steps=60, step_size=0.1, clip=0.8), axis=-1)
    assert float(norms.max()) <= 0.8 + 1e-5
    assert float(norms[:, 0].max()) > 0.79  # the steps reach the clip
    free = jnp.linalg.norm(explained(near, x, steps=60, step_size=0.1), axis=-1)
    assert float(free[:, 0].max()) > 1


def test_the_logits_of_an_image_do_not_depend_on_its_batch(params):
    x = some_images(3)
    apply_fn = jax.jit(analysis_by_synthesis(CLASSES, steps=10).apply)
    logits = apply_fn(params, x)
    np.testing.assert_allclose(apply_fn(params, x[3:4]), logits[3:4], rtol=1e-5)
    np.testing.assert_allclose(logits, -elbos(params, x, explained(params, x, steps=10)), rtol=1e-5)


def test_the_gradient_treats_the_latents_as_constants(params):
    x = jnp.asarray(some_images(4, 2))
    net = analysis_by_synthesis(CLASSES, steps=5, scales=(1.0, 3.0))
    z = explained(params, x, steps=5)
    gradient = jax.jit(jax.grad(lambda x: net.apply(params, x)[:, 1].sum()))(x)
    expected = -3 * 2 * (x - decode(of_class(params, 1), z[:, 1])) / 784
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_binary_looks_at_black_and_white_and_weighs_the_classes(params):
    x = some_images(5)
    at_two_values = black_and_white(x)
    np.testing.assert_array_equal(at_two_values, x > 0.5)
    np.testing.assert_array_equal(black_and_white(at_two_values), at_two_values)
    plain = jax.jit(analysis_by_synthesis(CLASSES, steps=3).apply)
    binary = jax.jit(analysis_by_synthesis(CLASSES, steps=3, binary=True, scales=(1.0, 1.5)).apply)
    logits = binary(params, x)
    np.testing.assert_allclose(logits, plain(params, at_two_values) * np.float32([[1, 1.5]]), rtol=1e-6)
    np.testing.assert_array_equal(binary(params, at_two_values), logits)
    assert not np.allclose(logits[:, 0], plain(params, x)[:, 0], rtol=1e-3)


@pytest.mark.slow
def test_analysis_by_synthesis_can_be_attacked_with_pgd():
    net = analysis_by_synthesis(2, draws=20, latent=2, steps=2)
    x = jnp.asarray(some_images(6, 4))
    made = jax.jit(net.init)(KEY, x)
    labels = jax.jit(net.apply)(made, x).argmax(1).astype(jnp.int32)
    found = jit_attack(pgd(linf(), steps=2), net.apply)(KEY, made, x, labels, eps=0.4)
    assert float(found.success.mean()) > 0.5


def test_the_least_probable_draws_are_discarded():
    z = prior_latents(KEY, 4000, 3, discarded_fraction=0.25)
    assert z.shape == (4000, 3)
    norms = np.linalg.norm(z, axis=1)
    # the chi distribution of 3 degrees has three quarters of its mass below 2.0269
    assert 1.95 < norms.max() < 2.1
    np.testing.assert_allclose(np.asarray(z).mean(0), 0, atol=0.06)
    assert np.linalg.norm(prior_latents(KEY, 4000, 3, discarded_fraction=0), axis=1).max() > 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(analysis_by_synthesis, steps=-1), "steps must not be negative"),
        (partial(analysis_by_synthesis, clip=0), "clip must be positive"),
        (partial(analysis_by_synthesis, 3, scales=(1.0, 2.0)), "scales needs one number for each of 3 classes; got 2"),
        (partial(prior_latents, KEY, 10, discarded_fraction=1.0), r"discarded_fraction must be in \[0, 1\); got 1.0"),
        (partial(analysis_by_synthesis().init, KEY, np.zeros((1, 8, 8, 1))), r"x must have shape \[batch, 28, 28, 1\]"),
    ],
    ids=["steps", "clip", "scales", "discarded", "digits"],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_images_of_another_size_are_refused(params):
    with pytest.raises(ValueError, match=r"x must have shape \[batch, 28, 28, 1\]; got \(2, 32, 32, 1\); crop"):
        explained(params, np.zeros((2, 32, 32, 1), np.float32))
