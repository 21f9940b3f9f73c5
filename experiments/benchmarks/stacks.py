"""The invertible nets that `memory` and `reversible_step` measure, and the three ways of running them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from invjax.bijectors import Bijector, actnorm, chain, memory_saving, repeat, reverse, squeeze
from invjax.models import conv_net, preset
from invjax.types import Net

MODES: dict[str, dict[str, Any]] = {
    "chain": {"save_memory": False},
    "no anchors": {"anchor_every": None},
    "default anchors": {},
}
"""Arguments of `models.preset`. Activations are kept, all rebuilt, or rebuilt from every 8th block."""


def noisy_conv_net(channels: int, hidden: tuple[int, ...], gain: float) -> Net:
    """`conv_net` with a random last kernel of `gain` times the usual scale, so the coupling is not the identity."""
    net = conv_net(channels, hidden)

    def init(key, x):
        params = net.init(key, x)
        last = params["params"][f"Conv_{len(hidden)}"]
        last["kernel"] = gain * jax.nn.initializers.lecun_normal()(jax.random.fold_in(key, 1), last["kernel"].shape)
        return params

    return Net(init, net.apply)


def block(coupling: Callable[..., Bijector], gain: float = 0.05) -> Bijector:
    """A block of actnorm, reversal of the channels, and a coupling with 32 hidden channels."""
    return chain([actnorm(), reverse(), coupling(lambda channels: noisy_conv_net(channels, (32,), gain))])


def one_level(depth: int, mode: str, coupling: Callable[..., Bijector], gain: float = 0.05) -> Bijector:
    """A squeeze and then `depth` blocks.

    Args:
        depth: number of blocks.
        mode: a key of `MODES`.
        coupling: `additive_coupling` or `affine_coupling`.
        gain: scale of each coupling network's last kernel.
    """

    def compose(layers, save_memory=True, **anchors):
        return memory_saving(layers, **anchors) if save_memory else chain(layers)

    return compose([squeeze(), repeat(block(coupling, gain), depth)], **MODES[mode])


def mnist(depth: int, mode: str) -> Bijector:
    """The `mnist` preset with `depth / 2` blocks on each of its two levels."""
    return preset("mnist", blocks=(depth // 2, depth // 2), **MODES[mode]).bijector


def gradient_step(bijector: Bijector) -> Callable:
    """`(params, x) -> (loss, gradients)` for the mean of `-log N(z; 0, I) - logdet` up to a constant."""

    def loss(params, x):
        z, logdet = bijector.forward(params, x)
        return 0.5 * jnp.sum(z**2) / x.shape[0] - logdet.mean()

    return jax.value_and_grad(loss)
