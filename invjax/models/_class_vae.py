"""The variational autoencoder of one class: what analysis by synthesis explains an image with.

Four convolutions give mean and log variance of the latents of a 28x28 image, four transposed ones make an image of
latents; ELU between. There is no batch norm: what a trained one does at test time is an affine map of each channel,
which the kernel and the bias of the layer before it can hold. All functions take one autoencoder; those of all classes
have a leading axis in every array (`stack_vaes`), to map over.

    vae = init_class_vae(key)
    step = make_train_step(vae_loss, optax.adam(1e-3))     # a batch: (images of this class, weight of the divergence)

Source: Schott, Rauber, Bethge, Brendel 2019, *Towards the first adversarially robust neural network model on MNIST*,
and their released weights. Theirs are trained with batch norm.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from invjax import _check
from invjax._conv import conv_general_dilated
from invjax.types import Array, Images, Key, PerExample, Scalar

ENCODER = ((5, 1), (4, 2), (3, 2), (5, 1))
"""Kernel and stride of each convolution, without padding: 28 x 28 becomes one position."""

DECODER = ((4, 1), (5, 2), (5, 2), (4, 1))
"""Kernel and stride of each transposed convolution: one position becomes 28 x 28."""

Latents = Float[Array, "batch latent"]


class Layer(NamedTuple):
    """A convolution: `kernel [H, W, in, out]` (unflipped, also of a transposed one) and `bias [out]`."""

    kernel: Float[Array, "*classes height width inputs outputs"]
    bias: Float[Array, "*classes outputs"]


class ClassVae(NamedTuple):
    """The variational autoencoder of one class, or those of several along a leading axis of every array.

    Attributes:
        encoder: four layers; the last gives the mean and the log variance of each latent.
        decoder: four layers.
    """

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]


def init_class_vae(
    key: Key, latent: int = 8, encoder: Sequence[int] = (32, 32, 64), decoder: Sequence[int] = (32, 16, 16)
) -> ClassVae:
    """A random autoencoder of 28x28 images.

    Args:
        key: random key.
        latent: L, values that describe an image.
        encoder: channels of all layers but the last, which has 2 L.
        decoder: channels of all layers but the last, which has one.

    Raises:
        ValueError: widths that are not positive, or not three.
    """
    _check.positive(latent=latent, encoder=encoder, decoder=decoder)
    if len(encoder) != 3 or len(decoder) != 3:
        raise ValueError(f"encoder and decoder need three widths each; got {tuple(encoder)} and {tuple(decoder)}")
    fan_in = jax.nn.initializers.lecun_normal()

    def layers(key, widths, shapes):
        keys = jax.random.split(key, len(shapes))
        sizes = zip(keys, shapes, widths[:-1], widths[1:], strict=True)
        return tuple(Layer(fan_in(k, (side, side, i, o)), jnp.zeros(o)) for k, (side, _), i, o in sizes)

    first, second = jax.random.split(key)
    return ClassVae(layers(first, (1, *encoder, 2 * latent), ENCODER), layers(second, (latent, *decoder, 1), DECODER))


def stack_vaes(vaes: Sequence[ClassVae]) -> ClassVae:
    """The autoencoders of all classes as one, class by class along the first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *vaes)


def _conv(x, kernel, stride, padding):
    pads = ((padding, padding),) * 2
    return conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _transposed_conv(x, kernel, stride):
    """`y[i * stride + a] = sum x[i] kernel[a]`, along both axes."""
    height, width = ((side - 1) * stride + reach for side, reach in zip(x.shape[1:3], kernel.shape[:2], strict=True))
    y = jax.ShapeDtypeStruct((len(x), height, width, kernel.shape[3]), x.dtype)
    return jax.linear_transpose(lambda y: _conv(y, kernel.swapaxes(2, 3), stride, 0), y)(x)[0]


def mnist_shaped(x: Array) -> None:
    """Refuse all images but floating point ones of 28x28 with one channel.

    Raises:
        ValueError: `x` is of integers, or not `[B, 28, 28, 1]`.
    """
    _check.floating("x", x)
    if x.shape[1:] != (28, 28, 1):
        raise ValueError(f"analysis by synthesis is built for images [B, 28, 28, 1]; got x.shape={x.shape}")


def encode(vae: ClassVae, x: Images) -> tuple[Latents, Latents]:
    """Mean and log variance of the latents of images `[B, 28, 28, 1]`, as one class sees them: `[B, L]` each."""
    mnist_shaped(x)
    x = jnp.asarray(x)
    for i, (layer, (_, stride)) in enumerate(zip(vae.encoder, ENCODER, strict=True)):
        x = _conv(jax.nn.elu(x) if i else x, layer.kernel, stride, 0) + layer.bias[None, None, None]
    mean, log_variance = jnp.split(x.reshape(len(x), -1), 2, axis=1)
    return mean, log_variance


def decode(vae: ClassVae, z: Latents) -> Images:
    """The images `[B, 28, 28, 1]` that one class makes of latents `[B, L]`."""
    x = jnp.asarray(z)[:, None, None]
    for i, (layer, (_, stride)) in enumerate(zip(vae.decoder, DECODER, strict=True)):
        x = _transposed_conv(jax.nn.elu(x) if i else x, layer.kernel, stride) + layer.bias[None, None, None]
    return jax.nn.sigmoid(x)


def vae_loss(
    vae: ClassVae, key: Key, batch: tuple[Images, Scalar]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """What the autoencoder of one class minimises on images of that class, for `training.make_train_step`.

        [ |x - G(z)|^2 + beta KL(q(z | x) || N(0, I)) ] / D,    z drawn from q(z | x)

    For all classes at once map it over stacked autoencoders: `jax.vmap(vae_loss, (0, 0, (0, None)))`.

    Args:
        vae: of one class.
        key: draws z.
        batch: `(images [B, 28, 28, 1], beta)`; the paper lowers beta from 10 to 1 over the 50 epochs of its training.

    Returns:
        The mean over images; the metrics are its two parts, "squared_error" and "divergence", not divided by D.
    """
    x, kl_weight = batch
    mean, log_variance = encode(vae, x)
    z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape, mean.dtype)
    squared_error = ((x - decode(vae, z)) ** 2).sum((1, 2, 3)).mean()
    divergence = (0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance)).sum(1).mean()
    loss = (squared_error + kl_weight * divergence) / x[0].size
    return loss, {"squared_error": squared_error, "divergence": divergence}


def negative_elbo(vae: ClassVae, x: Images, z: Latents, kl_weight: Scalar = 1.0) -> PerExample:
    """What it costs one class to explain each image by these latents, `[B]`: the smaller, the better."""
    return (((x - decode(vae, z)) ** 2).sum((1, 2, 3)) + kl_weight * 0.5 * (z**2).sum(1)) / x[0].size
