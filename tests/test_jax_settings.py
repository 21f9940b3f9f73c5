"""Settings of JAX that users choose: other random generators, double precision for float32 images, no compilation."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.attacks import (
    affine_grid,
    aligned_neighbours,
    autoattack,
    jit_attack,
    l2,
    linf,
    pgd,
    reference_bank,
    square,
    transformed,
)
from invjax.attacks.building import example_keys
from invjax.bounds import smoothed
from invjax.features import adversarial_squares
from invjax.models import analysis_by_synthesis, init_class_vae, prior_latents, stack_vaes, vae_loss, with_prior

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(0.2, 0.8, (3, 5, 5, 1)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(25, 4)).astype(np.float32)
LABELS, IDS = np.array([0, 1, 2], np.int32), np.arange(3, dtype=np.uint32)


def logits_fn(x):
    return x.reshape(len(x), -1) @ WEIGHTS.astype(x.dtype)


ATTACKS = {
    "pgd": pgd(steps=1),
    "square": square(queries=2),
    "square-l2": square(l2(), queries=2),
    "transformed": transformed(pgd(steps=1), tries=2),
}


@cache
def compiled(name):
    return jax.jit(lambda key, x, y, ids: ATTACKS[name](key, logits_fn, x, y, eps=0.05, ids=ids))


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
@pytest.mark.parametrize("name", ["pgd", "square", "transformed"])
def test_an_image_gets_the_same_example_in_any_batch_from_every_generator(name, generator):
    """A `vmap` over keys of these generators draws all numbers from the first key."""
    key, run = jax.random.key(0, impl=generator), compiled(name)
    together = run(key, IMAGES, LABELS, IDS).x
    for i in range(3):
        alone = run(key, IMAGES[i : i + 1], LABELS[i : i + 1], IDS[i : i + 1]).x
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_smoothing_gives_an_image_the_same_noise_in_any_batch_from_every_generator(generator):
    def bright(x):  # the noise moves the mean by 0.1, so each class wins now and then
        return jnp.stack([x.mean((1, 2, 3)) - 0.4, jnp.zeros(len(x))], 1)

    key, options = jax.random.key(0, impl=generator), {"sigma": 0.5, "trials": 100, "selection": 3, "alpha": 0.4}
    together = smoothed(key, bright, IMAGES, **options)
    alone = [smoothed(key, bright, IMAGES[i : i + 1], ids=np.array([i]), **options) for i in range(3)]
    assert (together.radius > 0).any()
    np.testing.assert_array_equal(np.concatenate([found.radius for found in alone]), together.radius)


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_of_examples_depend_on_every_word_of_the_key(generator):
    words = jax.random.key_data(jax.random.key(0, impl=generator))
    keys = [jax.random.wrap_key_data(words.at[i].add(1), impl=generator) for i in range(len(words))]
    data = np.concatenate([np.asarray(jax.random.key_data(example_keys(key, None, 2))) for key in keys])
    assert len(np.unique(data, axis=0)) == 2 * len(words)


def test_keys_of_examples_from_threefry_are_folded_in_as_they_are():
    key = jax.random.key(3)
    expected = [jax.random.key_data(jax.random.fold_in(key, i)) for i in range(2)]
    np.testing.assert_array_equal(jax.random.key_data(example_keys(key, None, 2)), jnp.stack(expected))


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_double_precision_finds_the_same_image_in_float32(name):
    single = compiled(name)(KEY, IMAGES, LABELS, IDS)
    with jax.enable_x64(True):
        double = compiled(name)(KEY, IMAGES, LABELS, IDS)
    assert [value.dtype for value in double] == [value.dtype for value in single]
    np.testing.assert_allclose(double.x, single.x, atol=1e-6)


def test_double_precision_attacks_float64_images_in_float64(float64):
    found = compiled("transformed")(KEY, IMAGES.astype(float), LABELS, IDS)
    assert found.x.dtype == found.distance.dtype == np.float64


@pytest.mark.slow
def test_neighbours_are_aligned_in_double_precision_as_in_single():
    images = np.random.default_rng(2).uniform(0, 1, (3, 6, 6, 1)).astype(np.float32)
    grid = affine_grid(rotation=(0, 10), shift=(0,))

    def aligned():
        bank = reference_bank(images, np.arange(3), norm="l2")
        return aligned_neighbours(images[:1], np.array([0]), bank, transforms=grid, candidates=1, steps=1)

    single = aligned()
    with jax.enable_x64(True):
        double = aligned()
    np.testing.assert_allclose(double.images, single.images, atol=1e-4)
    assert double.images.dtype == np.float32


def test_squares_of_double_precision_are_those_of_single():
    single = adversarial_squares(KEY, count=20, side=2, flip=0.3)
    with jax.enable_x64(True):
        double = adversarial_squares(KEY, count=20, side=2, flip=0.3)
    for a, b in zip(single, double, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.slow
def test_float64_images_are_attacked_in_float32_without_a_warning():
    """NumPy makes float64 by default, and warnings are errors here."""
    images = IMAGES.astype(np.float64)
    found = jit_attack(ATTACKS["pgd"], lambda w, x: x.reshape(3, -1) @ w)(KEY, WEIGHTS, images, LABELS, eps=0.05)
    expected = compiled("pgd")(KEY, IMAGES, LABELS, IDS)
    assert found.x.dtype == np.float32
    np.testing.assert_allclose(found.x, expected.x, atol=1e-6)


@pytest.mark.slow
def test_autoencoders_of_double_precision_take_float32_images(float64):
    """`init` follows the precision of JAX, and convolutions mix no dtypes."""
    vae, images = init_class_vae(KEY, 1, (1, 1, 1), (1, 1, 1)), np.full((1, 28, 28, 1), 0.5, np.float32)
    exact, _ = vae_loss(vae, KEY, (images.astype(float), 1.0))
    np.testing.assert_allclose(vae_loss(vae, KEY, (images, 1.0))[0], exact, rtol=1e-12)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), vae)
    np.testing.assert_allclose(vae_loss(single, KEY, (images.astype(float), 1.0))[0], exact, rtol=1e-5)
    net = analysis_by_synthesis(2, draws=2, latent=1, steps=1)
    params = with_prior(stack_vaes([vae, vae]), prior_latents(KEY, 2, 1))
    assert jax.eval_shape(net.apply, params, images).shape == (1, 2)


@pytest.mark.slow
def test_attacks_run_step_by_step_where_jit_is_disabled():
    """So that users can look into them with a debugger."""
    attack = autoattack(linf(), num_classes=2, steps=1, queries=1)

    def run():
        return attack(KEY, lambda x: logits_fn(x)[:, :2], IMAGES, LABELS % 2, eps=0.05)

    with jax.disable_jit():
        slow = run()
    fast = jax.jit(run)()
    np.testing.assert_allclose(slow.x, fast.x, atol=1e-6)
    np.testing.assert_array_equal(slow.success, fast.success)
