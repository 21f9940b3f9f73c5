"""Autoencoders of one class, against plain loops in numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invjax.models import _class_vae, init_class_vae, stack_vaes
from invjax.models import vae_loss as vae_loss_eagerly
from invjax.models._class_vae import DECODER, ENCODER
from invjax.training import init_state, make_train_step

# compiled as a whole, because eager operations would compile one by one
encode, decode, negative_elbo, vae_loss = map(
    jax.jit, (_class_vae.encode, _class_vae.decode, _class_vae.negative_elbo, vae_loss_eagerly)
)

KEY = jax.random.key(0)
SMALL = {"latent": 2, "encoder": (3, 4, 2), "decoder": (4, 2, 3)}


def random_vae(key=KEY, **sizes):
    """With biases that are not zero."""
    rng = np.random.default_rng(int(jax.random.key_data(key)[-1]))
    shapes = jax.eval_shape(lambda key: init_class_vae(key, **(SMALL | sizes)), key)
    scale = lambda leaf: 1 / np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1  # noqa: E731
    return jax.tree.map(lambda leaf: (scale(leaf) * rng.normal(size=leaf.shape)).astype(leaf.dtype), shapes)


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def decoded(vae, z):
    """One image of one latent, pixel by pixel."""
    x = np.asarray(z)[None, None]
    for i, (layer, (side, stride)) in enumerate(zip(vae.decoder, DECODER, strict=True)):
        x = elu(x) if i else x
        size = (len(x) - 1) * stride + side
        y = np.zeros((size, size, layer.bias.size)) + np.asarray(layer.bias)
        for row in range(len(x)):
            for column in range(len(x)):
                for a in range(side):
                    for b in range(side):
                        y[row * stride + a, column * stride + b] += x[row, column] @ np.asarray(layer.kernel[a, b])
        x = y
    return 1 / (1 + np.exp(-x))


def encoded(vae, x):
    for i, (layer, (side, stride)) in enumerate(zip(vae.encoder, ENCODER, strict=True)):
        x = elu(x) if i else x
        size = (len(x) - side) // stride + 1
        y = np.zeros((size, size, layer.bias.size))
        for row in range(size):
            for column in range(size):
                window = x[row * stride : row * stride + side, column * stride : column * stride + side]
                y[row, column] = np.einsum("abi,abio->o", window, np.asarray(layer.kernel)) + np.asarray(layer.bias)
        x = y
    return np.split(x.ravel(), 2)


def test_the_decoder_is_four_transposed_convolutions(float64):
    vae = random_vae()
    z = np.random.default_rng(0).normal(size=(2, 2))
    images = decode(vae, z)
    assert images.shape == (2, 28, 28, 1)
    np.testing.assert_allclose(images, [decoded(vae, one) for one in z], rtol=1e-10)


def test_the_encoder_is_four_convolutions(float64):
    vae = random_vae()
    x = np.random.default_rng(0).uniform(size=(2, 28, 28, 1))
    mean, log_variance = encode(vae, x)
    expected = [encoded(vae, image) for image in x]
    np.testing.assert_allclose(mean, [m for m, _ in expected], rtol=1e-10)
    np.testing.assert_allclose(log_variance, [v for _, v in expected], rtol=1e-10)


def test_the_elbo_of_latents_is_squared_error_and_divergence_a_pixel(float64):
    vae, rng = random_vae(), np.random.default_rng(1)
    x, z = rng.uniform(size=(2, 28, 28, 1)), rng.normal(size=(2, 2))
    expected = [
        (((image - decoded(vae, one)) ** 2).sum() + 3 * (one**2).sum() / 2) / 784
        for image, one in zip(x, z, strict=True)
    ]
    np.testing.assert_allclose(negative_elbo(vae, x, z, 3.0), expected, rtol=1e-10)


def test_the_loss_has_the_divergence_of_the_posterior_and_the_error_of_its_draws(float64):
    vae, x = random_vae(), np.random.default_rng(2).uniform(size=(3, 28, 28, 1))
    at, step = np.linspace(-12, 12, 20001, retstep=True)
    log_normal = lambda mean, log_variance: (  # noqa: E731
        -0.5 * (np.log(2 * np.pi) + log_variance + (at - mean) ** 2 / np.exp(log_variance))
    )
    divergences = []
    for mean, log_variance in (encoded(vae, image) for image in x):
        logs = [(log_normal(m, v), log_normal(0, 0)) for m, v in zip(mean, log_variance, strict=True)]
        divergences.append(sum((np.exp(q) * (q - p)).sum() * step for q, p in logs))
    loss, metrics = vae_loss(vae, KEY, (jnp.asarray(x), 2.0))
    assert metrics["divergence"] == pytest.approx(np.mean(divergences), rel=1e-6)
    assert loss == pytest.approx((metrics["squared_error"] + 2 * metrics["divergence"]) / 784)
    # a posterior with zero variance draws its mean
    last = vae.encoder[-1]
    sharp = vae._replace(encoder=(*vae.encoder[:-1], last._replace(bias=last.bias - jnp.array([0, 0, 60.0, 60.0]))))
    _, metrics = vae_loss(sharp, KEY, (jnp.asarray(x), 2.0))
    errors = [((image - decoded(vae, encoded(vae, image)[0])) ** 2).sum() for image in x]
    assert metrics["squared_error"] == pytest.approx(np.mean(errors), rel=1e-9)
    # a posterior with positive variance draws other points, which depend on the key
    draws = {float(vae_loss(vae, key, (jnp.asarray(x), 2.0))[1]["squared_error"]) for key in jax.random.split(KEY, 3)}
    assert len(draws) == 3


def test_autoencoders_of_all_classes_train_at_once_as_each_alone():
    vaes = [random_vae(key) for key in jax.random.split(KEY, 2)]
    x = np.random.default_rng(3).uniform(size=(2, 4, 28, 28, 1)).astype(np.float32)
    keys = jax.random.split(KEY, 2)
    losses, _ = jax.jit(jax.vmap(vae_loss, (0, 0, (0, None))))(stack_vaes(vaes), keys, (jnp.asarray(x), 1.0))
    alone = [vae_loss(vae, key, (jnp.asarray(images), 1.0))[0] for vae, key, images in zip(vaes, keys, x, strict=True)]
    np.testing.assert_allclose(losses, alone, rtol=1e-5)


@pytest.mark.slow
def test_a_trained_autoencoder_reconstructs_its_images():
    images = np.zeros((16, 28, 28, 1), np.float32)
    for i in range(16):
        images[i, 4 : 8 + i, 10:18] = 1  # a bar with one of sixteen lengths
    optimizer = optax.adam(3e-3)
    step = jax.jit(make_train_step(vae_loss_eagerly, optimizer))
    state = init_state(KEY, jax.jit(partial(init_class_vae, **SMALL))(KEY), optimizer)
    state, first = step(state, (images, np.float32(0.1)))
    for _ in range(150):
        state, metrics = step(state, (images, np.float32(0.1)))
    assert metrics["squared_error"] < 0.15 * first["squared_error"]
    # the reconstruction is better than the best single image for all bars
    assert metrics["squared_error"] < 0.7 * ((images - images.mean(0)) ** 2).sum((1, 2, 3)).mean()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="three widths each"):
        init_class_vae(KEY, encoder=(3, 4))
    with pytest.raises(ValueError, match="latent must be positive"):
        init_class_vae(KEY, latent=0)
    with pytest.raises(ValueError, match=r"x must have shape \[batch, 28, 28, 1\]; got \(2, 32, 32, 1\); crop"):
        encode(random_vae(), np.zeros((2, 32, 32, 1), np.float32))
