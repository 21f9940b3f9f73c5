r"""The fully invertible RevNet: a classifier that throws nothing away.

A bijector `F` maps an image to as many numbers, `z = F(x)`. The first `K` are the logits `z_s`, all others the nuisance
`z_n` that the decision never sees; the inverse turns any pair of them back into an image:

    z_s, z_n = encode(x),    x = decode(z_s, z_n),    decision = argmax z_s.

So one can keep the logits of one image and take all the rest from another: see `attacks.metamers`.

Source: Jacobsen, Behrmann, Zemel, Bethge 2019, *Excessive Invariance Causes Adversarial Vulnerability*, section 2 and
figure 3. The authors' code reads its logits from one spatial position and normalises them; the paper, and the default
here, reads the lowest coefficients of a cosine transform.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from invjax import _check
from invjax.bijectors import (
    Bijector,
    actnorm,
    additive_coupling,
    chain,
    dct2,
    flatten,
    logit_coupling,
    memory_saving,
    repeat,
    reverse,
    squeeze,
)
from invjax.models._nets import conv_net
from invjax.types import Code, Images, Key, Logits, Net, Params, PerExample


class InvertibleClassifier(NamedTuple):
    """A classifier with an exact inverse.

    Attributes:
        init: `(key, x [B, *shape]) -> params`, from real data (actnorm).
        apply: `(params, x) -> logits [B, K]`; what every attack takes.
        encode: `(params, x) -> (Code, logdet [B])`; nothing is dropped.
        decode: `(params, Code) -> x`, the exact inverse of `encode`.
        bijector: the map underneath, `[B, *shape]` to a map of the same number of values.
        shape: of one image.
        num_classes: K.
    """

    init: Callable[[Key, Images], Params]
    apply: Callable[[Params, Images], Logits]
    encode: Callable[[Params, Images], tuple[Code, PerExample]]
    decode: Callable[[Params, Code], Images]
    bijector: Bijector
    shape: tuple[int, ...]
    num_classes: int


def invertible_classifier(bijector: Bijector, shape: Sequence[int], num_classes: int) -> InvertibleClassifier:
    """Read logits off any bijector: the first `num_classes` values of its flattened output.

    Args:
        bijector: any map of `[B, *shape]`.
        shape: of one image, such as (28, 28, 1).
        num_classes: K, less than the number of values in an image.

    Raises:
        ValueError: as many classes as values, or more; images of another shape, of an integer dtype, or with NaN; a
            bijector that pads.
    """
    shape = tuple(shape)
    if not 0 < num_classes < math.prod(shape):
        raise ValueError(f"num_classes must be in [1, {math.prod(shape)}) for images of {shape}; got {num_classes}")

    def check(x):
        if x.shape[1:] != shape:
            raise ValueError(
                f"images must have shape [batch, {', '.join(map(str, shape))}]; got {x.shape}; reshape them, "
                f"or build the model for shape={x.shape[1:]}"
            )
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
        # the output map's shape follows from the input's: no need for the user to carry it along
        image = jax.ShapeDtypeStruct((z.shape[0], *shape), z.dtype)
        z_shape = jax.eval_shape(bijector.forward, params, image)[0].shape
        return bijector.inverse(params, z.reshape(z_shape))[0]

    return InvertibleClassifier(
        init, lambda params, x: encode(params, x)[0].logits, encode, decode, bijector, shape, num_classes
    )


def coupled_classifier(net_fn: Callable[[int], Net], shape: Sequence[int], num_classes: int) -> InvertibleClassifier:
    """Any network as a fully invertible classifier: `z_s = x_1..K + net(x_rest)`, `z_n = x_rest`.

    One coupling layer: the first K pixels (of MNIST always black) make room for the logits, and all others are the
    nuisance. It is as accurate as the network, and as invariant as can be: a metamer is the nuisance image with other
    values in K pixels of its first row.

    Args:
        net_fn: `outputs -> Net`, the network from `[B, *shape]` to `[B, outputs]`; it sees zeros in the first K pixels.
        shape: of one image.
        num_classes: K.
    """
    shape = tuple(shape)

    def on_picture(outputs):
        net = net_fn(outputs)

        def picture(rest):
            return jnp.pad(rest, ((0, 0), (num_classes, 0))).reshape(-1, *shape)

        return Net(
            lambda key, rest: net.init(key, picture(rest)), lambda params, rest: net.apply(params, picture(rest))
        )

    bijector = chain([flatten(shape), logit_coupling(on_picture, num_classes)])
    return invertible_classifier(bijector, shape, num_classes)


def fi_revnet(
    shape: Sequence[int],
    num_classes: int,
    blocks: Sequence[int],
    hidden: Sequence[Sequence[int]],
    *,
    coupling: Callable[..., Bijector] = additive_coupling,
    mix: Callable[[], Bijector] = reverse,
    readout: Bijector | None = None,
    save_memory: bool = True,
    anchor_every: int | None = 8,
) -> InvertibleClassifier:
    """The fully invertible RevNet: for each level squeeze, then blocks of actnorm, channel mixing and a coupling layer.

    Coupling networks of a level of more than four blocks are scaled by `4 / blocks`: together they do no more than four
    do. This keeps the inverse well conditioned at any depth, also on codes that no image has, such as metamers'.

    >>> model = fi_revnet((4, 4, 1), num_classes=3, blocks=(2,), hidden=((8,),))
    >>> x = jax.random.uniform(jax.random.key(0), (5, 4, 4, 1))
    >>> params = model.init(jax.random.key(1), x)
    >>> code, logdet = model.encode(params, x)
    >>> code.logits.shape, code.nuisance.shape, logdet.shape
    ((5, 3), (5, 13), (5,))
    >>> bool(jnp.allclose(model.decode(params, code), x, atol=1e-5))
    True

    Args:
        shape: of one image, (H, W, C); H and W divisible by 2 for each level.
        num_classes: K.
        blocks: for each level, how many blocks follow its squeeze (0: the squeeze alone).
        hidden: for each level, the hidden channels of its coupling networks.
        coupling: `additive_coupling` (keeps volume, as in the authors' code) or `affine_coupling`.
        mix: what exchanges the halves between couplings: `reverse`, `conv1x1`, or `partial(permute, seed)`.
        readout: applied to the last map before its first K values become logits; default `dct2()`, whose first values
            are the lowest frequencies of the first channels. `roll((2, 2))` reads position (2, 2), as the authors' code
            does.
        save_memory: rebuild activations in the backward pass (`bijectors.memory_saving`); same parameters and values as
            without, but no forward-mode derivatives.
        anchor_every: blocks between two kept activations, or None.
    """
    if len(blocks) != len(hidden):
        raise ValueError(f"blocks and hidden need one entry a level; got {len(blocks)} and {len(hidden)}")
    layers = []
    for n, widths in zip(blocks, hidden, strict=True):
        layers.append(squeeze())
        if n:
            # the inverse of a long sum of residuals of gain 1 explodes off the data; see BUILD_NOTES
            net_fn = partial(conv_net, hidden=widths, gain=min(1.0, 4 / n))
            step = chain([actnorm(), mix(), coupling(net_fn)])
            layers.append(repeat(step, n))
    layers.append(dct2() if readout is None else readout)
    bijector = memory_saving(layers, anchor_every) if save_memory else chain(layers)
    return invertible_classifier(bijector, shape, num_classes)


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"shape": (8, 8, 1), "num_classes": 10, "blocks": (4, 4), "hidden": ((32,), (64,))},
    "mnist": {"shape": (28, 28, 1), "num_classes": 10, "blocks": (4, 4), "hidden": ((32,), (64,))},
    "cifar10": {"shape": (32, 32, 3), "num_classes": 10, "blocks": (4, 4), "hidden": ((64,), (128,))},
    # 16 bottleneck blocks of 3 convolutions in the stages of a ResNet-50, after two squeezes: 224 -> 3072 x 7 x 7
    "imagenet-48": {
        "shape": (224, 224, 3),
        "num_classes": 1000,
        "blocks": (0, 3, 4, 6, 3),
        "hidden": ((), (6, 6), (24, 24), (96, 96), (384, 384)),
    },
}
"""Named sizes, arguments of `fi_revnet`. The split of the paper's 48 layers over its stages is not published; this is
ours."""


def preset(name: str, **changes: Any) -> InvertibleClassifier:
    """`fi_revnet` in a named size: "digits", "mnist", "cifar10" or "imagenet-48".

    Args:
        name: a key of `PRESETS`.
        **changes: arguments of `fi_revnet` that replace the preset's, such as `blocks=(32, 32)`.

    Raises:
        ValueError: the name is not a preset.
    """
    _check.one_of("preset", name, PRESETS)
    return fi_revnet(**{**PRESETS[name], **changes})
