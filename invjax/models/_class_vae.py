"""The variational autoencoder of one class, the generative model of analysis by synthesis.

Four convolutions with ELUs give the mean and the log variance of the latents of a 28x28 image; four transposed
convolutions map latents to an image. The networks have no batch norm: at test time batch norm is an affine map of each
channel, which the kernel and the bias of the previous layer can represent. All functions take one autoencoder;
`stack_vaes` adds a leading axis of classes to every array, for `jax.vmap` and `jax.lax.map`.

    vae = init_class_vae(key)
    step = make_train_step(vae_loss, optax.adam(1e-3))     # a batch: (images of this class, weight of the divergence)

Source: Schott, Rauber, Bethge, Brendel 2019, *Towards the first adversarially robust neural network model on MNIST*,
and their released weights. The authors train with batch norm.
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
    """A convolution or transposed convolution.

    Attributes:
        kernel: `[H, W, inputs, outputs]`, not flipped in either case.
        bias: `[outputs]`.
    """

    kernel: Float[Array, "*classes height width inputs outputs"]
    bias: Float[Array, "*classes outputs"]


class ClassVae(NamedTuple):
    """The variational autoencoder of one class, or those of several along a leading axis of every array.

    Attributes:
        encoder: four convolutions. The last one gives the mean and the log variance of each latent.
        decoder: four transposed convolutions.
    """

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]


def init_class_vae(
    key: Key, latent: int = 8, encoder: Sequence[int] = (32, 32, 64), decoder: Sequence[int] = (32, 16, 16)
) -> ClassVae:
    """A randomly initialised autoencoder of 28x28 images.

    Args:
        key: random key.
        latent: number of latents L.
        encoder: channels of the first three layers; the last one has 2 L.
        decoder: channels of the first three layers; the last one has 1.

    Raises:
        ValueError: `key` is no random key, a number is not positive, or `encoder` or `decoder` does not hold three
            numbers.
    """
    _check.key(key)
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
    """Stack the autoencoders of all classes along a leading axis of every array.

    Args:
        vaes: K autoencoders of the same widths, in the order of their classes.

    Returns:
        One record, whose arrays have shapes `[K, ...]`.
    """
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
    """Check that images are floating point and of shape `[B, 28, 28, 1]`.

    Raises:
        ValueError: `x` has an integer dtype or another shape.
    """
    _check.array("x", x)
    _check.floating("x", x)
    _check.sized("x", x, (28, 28, 1))


def _as_wide_as(x, layers):
    """The input in the wider of its dtype and that of the layers, because convolutions mix no dtypes."""
    return x.astype(jnp.promote_types(x.dtype, layers[0].kernel.dtype))


def encode(vae: ClassVae, x: Images) -> tuple[Latents, Latents]:
    """Mean and log variance, `[B, L]` each, of the latents of images `[B, 28, 28, 1]` by the encoder of one class."""
    mnist_shaped(x)
    x = _as_wide_as(jnp.asarray(x), vae.encoder)
    for i, (layer, (_, stride)) in enumerate(zip(vae.encoder, ENCODER, strict=True)):
        x, kernel = jax.nn.elu(x) if i else x, layer.kernel.astype(x.dtype)
        x = _conv(x, kernel, stride, 0) + layer.bias[None, None, None]
    mean, log_variance = jnp.split(x.reshape(len(x), -1), 2, axis=1)
    return mean, log_variance


def decode(vae: ClassVae, z: Latents) -> Images:
    """The images `[B, 28, 28, 1]` of latents `[B, L]` by the decoder of one class."""
    x = _as_wide_as(jnp.asarray(z), vae.decoder)[:, None, None]
    for i, (layer, (_, stride)) in enumerate(zip(vae.decoder, DECODER, strict=True)):
        x, kernel = jax.nn.elu(x) if i else x, layer.kernel.astype(x.dtype)
        x = _transposed_conv(x, kernel, stride) + layer.bias[None, None, None]
    return jax.nn.sigmoid(x)


def vae_loss(
    vae: ClassVae, key: Key, batch: tuple[Images, Scalar], step: Scalar = 0
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The training loss of the autoencoder of one class on images of that class, for `training.make_train_step`.

        [ |x - G(z)|^2 + beta KL(q(z | x) || N(0, I)) ] / D,    z drawn from q(z | x)

    To train all classes at once, map the loss over stacked autoencoders: `jax.vmap(vae_loss, (0, 0, (0, None)))`.

    Args:
        vae: autoencoder of one class.
        key: random key for z.
        batch: `(images [B, 28, 28, 1], beta)`. The paper lowers beta from 10 to 1 over 50 epochs of training.
        step: training step, not used.

    Returns:
        The mean loss over images, and its two parts as metrics "squared_error" and "divergence", not divided by D.
    """
    del step
    x, kl_weight = batch
    mean, log_variance = encode(vae, x)
    z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape, mean.dtype)
    squared_error = ((x - decode(vae, z)) ** 2).sum((1, 2, 3)).mean()
    divergence = (0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance)).sum(1).mean()
    loss = (squared_error + kl_weight * divergence) / x[0].size
    return loss, {"squared_error": squared_error, "divergence": divergence}


def negative_elbo(vae: ClassVae, x: Images, z: Latents, kl_weight: Scalar = 1.0) -> PerExample:
    """The cost `[B]` of explaining each image by these latents; smaller is better."""
    return (((x - decode(vae, z)) ** 2).sum((1, 2, 3)) + kl_weight * 0.5 * (z**2).sum(1)) / x[0].size
