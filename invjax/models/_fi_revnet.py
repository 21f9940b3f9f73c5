r"""The fully invertible RevNet: an invertible classifier of couplings, with an invertible readout.

Source: Jacobsen, Behrmann, Zemel, Bethge 2019, *Excessive Invariance Causes Adversarial Vulnerability*, section 2 and
figure 3. The authors' code reads its logits from one spatial position and normalises them. The paper, and the default
here, reads the lowest coefficients of a cosine transform.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from invjax import _check
from invjax.bijectors import (
    Bijector,
    actnorm,
    additive_coupling,
    chain,
    dct2,
    memory_saving,
    repeat,
    reverse,
    squeeze,
)
from invjax.models._invertible import InvertibleClassifier, invertible_classifier
from invjax.models._nets import conv_net


def fi_revnet(
    shape: Sequence[int],
    num_classes: int,
    blocks: Sequence[int],
    hidden: Sequence[Sequence[int]],
    *,
    coupling: Callable[..., Bijector] = additive_coupling,
    mix: Callable[[], Bijector] = reverse,
    entry: Bijector | None = None,
    readout: Bijector | None = None,
    save_memory: bool = True,
    anchor_every: int | None = 8,
) -> InvertibleClassifier:
    """The fully invertible RevNet: each level is a squeeze and then blocks of actnorm, channel mixing, and a coupling.

    In a level of more than four blocks the outputs of the conditioners are multiplied by `4 / blocks`. This keeps the
    inverse well conditioned at any depth, also on codes that belong to no image of the data, such as those of metamers.

    >>> import jax, jax.numpy as jnp
    >>> model = fi_revnet((4, 4, 1), num_classes=3, blocks=(2,), hidden=((),))
    >>> x = jax.random.uniform(jax.random.key(0), (5, 4, 4, 1))
    >>> params = jax.jit(model.init)(jax.random.key(1), x)
    >>> code, logdet = jax.jit(model.encode)(params, x)
    >>> code.logits.shape, code.nuisance.shape, logdet.shape
    ((5, 3), (5, 13), (5,))
    >>> bool(jnp.allclose(jax.jit(model.decode)(params, code), x, atol=1e-5))
    True

    Args:
        shape: shape (H, W, C) of one image. H and W must be divisible by 2 once for each level.
        num_classes: number of classes K.
        blocks: number of blocks of each level (0: the squeeze alone).
        hidden: hidden channels of the conditioners of each level.
        coupling: `additive_coupling` (preserves volume, as in the authors' code) or `affine_coupling`.
        mix: the layer that exchanges the halves between couplings: `reverse`, `conv1x1`, or `partial(permute, seed)`.
        entry: bijector of the pixels before the first squeeze, such as `bijectors.logit_box()`, which keeps decoded
            images near the range of pixel values. By default there is none.
        readout: bijector before the first K values become logits. The default is `dct2()`, whose first values are the
            lowest frequencies of the first channels. `roll((2, 2))` reads position (2, 2), as the authors' code does.
        save_memory: recompute activations in the backward pass (`bijectors.memory_saving`). Parameters and values are
            the same, but forward-mode derivatives are not available.
        anchor_every: blocks between two stored activations, or None (see `bijectors.memory_saving`).

    Raises:
        ValueError: `blocks` and `hidden` have different lengths, or the image cannot be squeezed (when traced).
    """
    if len(blocks) != len(hidden):
        raise ValueError(f"blocks and hidden need one entry for each level; got {len(blocks)} and {len(hidden)}")
    layers = [] if entry is None else [entry]
    for n, widths in zip(blocks, hidden, strict=True):
        layers.append(squeeze())
        if n:
            # with gain 1 the inverse of many blocks diverges on codes far from the data; see BUILD_NOTES
            conditioner_fn = partial(conv_net, hidden=widths, gain=min(1.0, 4 / n))
            step = chain([actnorm(), mix(), coupling(conditioner_fn)])
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
"""Arguments of `fi_revnet` in named sizes. The paper does not say how it divides its 48 layers over the stages; this
division is ours."""


def preset(name: str, **changes: Any) -> InvertibleClassifier:
    """`fi_revnet` in a named size: "digits", "mnist", "cifar10" or "imagenet-48".

    Args:
        name: key of `PRESETS`.
        **changes: arguments of `fi_revnet` that replace the preset's, such as `blocks=(32, 32)`.

    Raises:
        ValueError: `name` is not a preset.
    """
    _check.one_of("preset", name, PRESETS)
    return fi_revnet(**{**PRESETS[name], **changes})
