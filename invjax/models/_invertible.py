r"""Classifiers with an exact inverse.

A bijector `F` maps an image of D values to D numbers, `z = F(x)`. The first `K` are the logits `z_s`. All others are
the nuisance `z_n`, on which the decision does not depend. The inverse maps any pair of logits and nuisance to an image:

    z_s, z_n = encode(x),    x = decode(z_s, z_n),    decision = argmax z_s.

An image with the logits of one image and the nuisance of another is a metamer: see `attacks.metamers`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from invjax import _check
from invjax.bijectors import Bijector, chain, flatten, logit_coupling
from invjax.types import Code, Images, Key, Logits, Net, Params, PerExample


class InvertibleClassifier(NamedTuple):
    """A classifier with an exact inverse.

    Attributes:
        init: `(key, x [B, *shape]) -> params`. `x` is real data, from which `actnorm` initialises.
        apply: `(params, x) -> logits [B, K]`, the function that every attack takes.
        encode: `(params, x) -> (Code, logdet [B])`. The code holds as many values as the image.
        decode: `(params, Code) -> x`, the exact inverse of `encode`.
        bijector: the underlying bijector, from `[B, *shape]` to an array of the same number of values.
        shape: shape of one image.
        num_classes: number of classes K.
    """

    init: Callable[[Key, Images], Params]
    apply: Callable[[Params, Images], Logits]
    encode: Callable[[Params, Images], tuple[Code, PerExample]]
    decode: Callable[[Params, Code], Images]
    bijector: Bijector
    shape: tuple[int, ...]
    num_classes: int


def invertible_classifier(bijector: Bijector, shape: Sequence[int], num_classes: int) -> InvertibleClassifier:
    """A classifier from any bijector: its logits are the first `num_classes` values of the flattened output.

    Args:
        bijector: a bijector of arrays `[B, *shape]`.
        shape: shape of one image, such as (28, 28, 1).
        num_classes: number of classes K, less than the number of values in an image.

    Raises:
        ValueError: `num_classes` is not less than the number of values; images have another shape, an integer dtype, or
            NaN; the bijector changes the number of values.
    """
    shape = tuple(shape)
    if not 0 < num_classes < math.prod(shape):
        raise ValueError(f"num_classes must be in [1, {math.prod(shape)}) for images of {shape}; got {num_classes}")

    def check(x):
        _check.array("images", x)
        _check.sized("images", x, shape)
        _check.floating("images", x)
        _check.finite("images", x)

    def init(key, x):
        check(x)
        return bijector.init(key, x)

    def encode(params, x):
        check(x)
        z, logdet = bijector.forward(params, x)
        if z.size != x.size:
            raise ValueError(
                f"the bijector must keep the number of values, or metamers are not exact; "
                f"it maps {x.shape} to {z.shape}; "
                "remove pad_channels()"
            )
        z = z.reshape(z.shape[0], -1)
        return Code(z[:, :num_classes], z[:, num_classes:]), logdet

    def decode(params, code):
        z = jnp.concatenate(code, -1)
        # the shape of the image determines the shape of the output, so a code needs no shape of its own
        image = jax.ShapeDtypeStruct((z.shape[0], *shape), z.dtype)
        z_shape = jax.eval_shape(bijector.forward, params, image)[0].shape
        return bijector.inverse(params, z.reshape(z_shape))[0]

    return InvertibleClassifier(
        init, lambda params, x: encode(params, x)[0].logits, encode, decode, bijector, shape, num_classes
    )


def round_trip_error(model: InvertibleClassifier, params: Params, given: Images | Code) -> PerExample:
    """How far images or codes are from themselves after both directions of the network, in the present precision.

        images:  max |decode(encode(x)) - x|        codes:  max |encode(decode(z)) - z|

    The inverse of a network is exact up to rounding, which an ill-conditioned network magnifies. Images of the data can
    have a small error while codes that no image has, such as those of metamers, have a large one. Float64
    (`jax.enable_x64`) and a lower learning rate help.

    Args:
        model: an invertible classifier.
        params: parameters of the model.
        given: `[B, *shape]` images, or a code of B images.

    Returns:
        The largest difference of each example, `[B]`; infinite where a value is not finite.
    """
    if isinstance(given, Code):
        given = jnp.concatenate(given, -1)
        image = model.decode(params, Code(given[:, : model.num_classes], given[:, model.num_classes :]))
        again = model.bijector.forward(params, image)[0]
    else:
        again = model.bijector.inverse(params, model.bijector.forward(params, jnp.asarray(given))[0])[0]
    gap = jnp.abs(again.reshape(given.shape) - given)  # not by `encode`, which refuses values that are not finite
    largest = gap.reshape(len(gap), -1).max(1)
    return jnp.where(jnp.isfinite(largest), largest, jnp.inf)


def coupled_classifier(
    conditioner_fn: Callable[[int], Net], shape: Sequence[int], num_classes: int
) -> InvertibleClassifier:
    """Any network as a fully invertible classifier: `z_s = x_1..K + net(x_rest)`, `z_n = x_rest`.

    This is one coupling layer. The logits replace the first K pixels (which are black in every MNIST image), and all
    other pixels are the nuisance. The classifier is as accurate as the network and maximally invariant: a metamer is
    the nuisance image with other values in K pixels of its first row.

    Args:
        conditioner_fn: `outputs -> Net`, the network from `[B, *shape]` to `[B, outputs]`. Its input has zeros in
            the first K pixels.
        shape: shape of one image.
        num_classes: number of classes K.
    """
    shape = tuple(shape)

    def on_picture(outputs):
        net = conditioner_fn(outputs)

        def picture(rest):
            return jnp.pad(rest, ((0, 0), (num_classes, 0))).reshape(-1, *shape)

        return Net(
            lambda key, rest: net.init(key, picture(rest)), lambda params, rest: net.apply(params, picture(rest))
        )

    bijector = chain([flatten(shape), logit_coupling(on_picture, num_classes)])
    return invertible_classifier(bijector, shape, num_classes)
