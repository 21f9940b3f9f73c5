"""Convolutional networks of any width, kernels and activations as one function of arrays; see `_masked.py`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from invjax import _check
from invjax._conv import conv_general_dilated
from invjax.models._masked import MaskedNet, dropped, init_of, outer
from invjax.types import Array

ACTIVATIONS = {"relu": jax.nn.relu, "elu": jax.nn.elu, "tanh": jnp.tanh}
"""The activations that `Convolutions.activation` indexes."""

POOLINGS = {"average": jnp.mean, "max": jnp.max}
"""The poolings that `Convolutions.pooling` indexes."""


class Convolutions(NamedTuple):
    """Convolutional architectures. Each field may have a leading population axis.

    Attributes:
        channels: number of channels of each layer, at least 1.
        kernel: side of the kernel of each layer, odd.
        activation: index in `ACTIVATIONS` for each layer.
        pooling: index in `POOLINGS` for each layer; it has no effect in layers without pooling.
        skip: 1 for layers whose input is added to their output, else 0. A channel that only one of the two has stays
            unchanged.
        dropout: fraction of the values of the last layer dropped in training, in [0, 1).
    """

    channels: Int[Array, "*population layers"]
    kernel: Int[Array, "*population layers"]
    activation: Int[Array, "*population layers"]
    pooling: Int[Array, "*population layers"]
    skip: Int[Array, "*population layers"]
    dropout: Float[Array, "*population"]


def masked_cnn(num_classes: int, max_channels: int, layers: int = 2, max_kernel: int = 5, pooled: int = 2) -> MaskedNet:
    """Convolutions and a linear layer as a function of `Convolutions`; the first `pooled` convolutions pool 2x2.

    Args:
        num_classes: number of logits.
        max_channels: largest number of channels of a convolution.
        layers: number of convolutions, the same in all networks.
        max_kernel: side of the largest kernel, odd. A smaller kernel is a large one with zeros at its border.
        pooled: number of layers with pooling. The sides of the images must be divisible by `2^pooled`.

    Raises:
        ValueError: a number is out of range, or an architecture or an image does not fit (when called).
    """
    _check.positive(num_classes=num_classes, max_channels=max_channels, layers=layers, max_kernel=max_kernel)
    if max_kernel % 2 == 0:
        raise ValueError(f"max_kernel must be odd; got {max_kernel}; take {max_kernel + 1}")
    if not 0 <= pooled <= layers:
        raise ValueError(f"pooled must be from 0 to layers={layers}; got {pooled}")

    def channels(architecture):
        _need_convolutions(architecture, layers, max_channels, max_kernel)
        return jnp.arange(max_channels)[None] < architecture.channels[:, None]

    def windows(architecture):
        side = abs(np.arange(max_kernel) - max_kernel // 2)
        reach = jnp.asarray(np.maximum(side[:, None], side[None]))
        return 2 * reach[None] < architecture.kernel[:, None, None]

    def mask(architecture, x):
        own, window = channels(architecture), windows(architecture)
        _check.divisible(f"2x2 pooling of x.shape={x.shape}", x.shape[1:3], 2**pooled, "crop or pad the images")
        ends = [jnp.ones(x.shape[-1], bool), *own]
        positions = jnp.ones((x.shape[1] * x.shape[2]) // 4**pooled, bool)
        convolutions = [
            {"kernel": window[i][:, :, None, None] & outer(ends[i], own[i])[None, None], "bias": own[i]}
            for i in range(layers)
        ]
        kernel = positions[:, None, None] & outer(own[-1], jnp.ones(num_classes, bool))[None]
        return {"hidden": convolutions, "readout": {"kernel": kernel, "bias": jnp.ones(num_classes, bool)}}

    def apply(params, architecture, x, key=None):
        own, window = channels(architecture), windows(architecture)
        for i, layer in enumerate(params["hidden"]):
            kernel = layer["kernel"] * window[i][:, :, None, None]
            h = conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            h = jax.lax.switch(
                architecture.activation[i], list(ACTIVATIONS.values()), h + layer["bias"][None, None, None]
            )
            if i:
                h = h + architecture.skip[i] * x
            x = own[i][None, None, None] * h
            if i < pooled:
                x = jax.lax.switch(architecture.pooling[i], [_pool(reduce) for reduce in POOLINGS.values()], x)
        x = dropped(key, layers, architecture.dropout, x)
        readout = params["readout"]
        return x.reshape(len(x), -1) @ readout["kernel"].reshape(-1, num_classes) + readout["bias"][None]

    return MaskedNet(mask, init_of(mask), apply)


def _need_convolutions(architecture: Convolutions, layers: int, channels: int, kernel: int) -> None:
    ranges = {
        "channels": (1, channels),
        "kernel": (1, kernel),
        "activation": (0, len(ACTIVATIONS) - 1),
        "pooling": (0, len(POOLINGS) - 1),
        "skip": (0, 1),
    }
    for name, (low, high) in ranges.items():
        values = getattr(architecture, name)
        if values.shape != (layers,):
            raise ValueError(f"{name} needs one value for each of {layers} layers; got shape {values.shape}")
        if isinstance(values, jax.core.Tracer):
            continue
        if np.min(values) < low or np.max(values) > high:
            raise ValueError(f"{name} must be from {low} to {high}; got {np.asarray(values).tolist()}")
        if name == "kernel" and not (np.asarray(values) % 2).all():
            raise ValueError(f"kernel must be odd; got {np.asarray(values).tolist()}")


def _pool(reduce: Callable) -> Callable[[jax.Array], jax.Array]:
    def pooled(x):
        batch, height, width, channels = x.shape
        return reduce(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))

    return pooled
