"""Networks that are trained to be certified, on MNIST: their architectures, and the schedules of their training.

IBP gives loose bounds if a layer mixes many uncertain values. The networks for a CPU therefore first round gray pixels
to black or white. Networks whose first layers see one pixel learn the same at radius 0.4 (two of two trainings did).
The threshold and the slope of the rounding are parameters. After it black and white pixels are certain, and only gray
pixels are not. The network of the authors of CROWN-IBP, for accelerators, has no such layer.
"""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from experiments.invariance_tradeoffs.pretrained import convolved
from invjax import fast_convs
from invjax.data import Dataset
from invjax.training import certified_loss
from invjax.types import Key, LossFn, Net, Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of certified training."""

    network: Literal["tiny CNN", "CNN", "large CNN"] = "CNN"  # Architecture of the network.
    natural_epochs: float = 0.5  # Number of first epochs with radius 0, in which the learning rate rises.
    ramp_epochs: float = 4  # Number of epochs after that in which the radius grows; then the rate falls along a cosine.
    train_eps: float = 0.42  # Final radius in linf, slightly larger than the radius to certify.
    natural: float = 0.0  # Final weight of the natural loss (kappa); it falls from 1 while the radius grows.
    crown: float = 0.0  # Initial weight of CROWN-IBP in the bounds (beta); it falls to 0 as the radius grows. 0 is IBP.


class Layers(NamedTuple):
    """Convolutions `(side, channels, stride)`, widths of hidden dense layers, and whether pixels are rounded first."""

    convolutions: tuple[tuple[int, int, int], ...]
    dense: tuple[int, ...]
    rounding: bool = True


ARCHITECTURES = {
    "tiny CNN": Layers(((4, 4, 2), (4, 8, 2)), (16,)),
    "CNN": Layers(((4, 32, 2), (4, 64, 2)), (256,)),
    "large CNN": Layers(((3, 64, 1), (3, 64, 1), (3, 128, 2), (3, 128, 1), (3, 128, 1)), (512,), rounding=False),
}
"""The architectures, by name."""


def init(layers: Layers, key: Key, x: jax.Array) -> Params:
    """Kernels whose bounds neither grow nor vanish from layer to layer, and biases of 0.

    A radius grows by the sum of the absolute weights, so the standard deviation is `sqrt(2 pi) / fan_in`, with which
    half of that sum is 1. Source: Shi et al. 2021, *Fast Certified Robust Training with Short Warmup*.
    """
    height, width, channels = x.shape[1:]
    shapes: list[tuple[int, ...]] = []
    for side, wanted, stride in layers.convolutions:
        shapes.append((side, side, channels, wanted))
        height, width, channels = -(-height // stride), -(-width // stride), wanted
    shapes += itertools.pairwise((height * width * channels, *layers.dense, 10))
    keys = jax.random.split(key, len(shapes))
    std = [(2 * jnp.pi) ** 0.5 / np.prod(shape[:-1]) for shape in shapes]
    kernels = [s * jax.random.normal(one, shape, x.dtype) for s, one, shape in zip(std, keys, shapes, strict=True)]
    params = {"layers": [{"kernel": kernel, "bias": jnp.zeros(kernel.shape[-1], x.dtype)} for kernel in kernels]}
    # 0 up to 0.4, 1 from 0.6, and linear between them
    rounding = {"scale": jnp.array([-5.0, -1.0], x.dtype), "shift": jnp.array([3.0, 1.0], x.dtype)}
    return {"rounding": rounding, **params} if layers.rounding else params


def rounded(rounding: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Round each pixel by two ReLUs. The function is monotone, so its interval bounds are exact."""
    for i in range(2):
        x = jax.nn.relu(rounding["scale"][i] * x + rounding["shift"][i])
    return x


def apply(layers: Layers, params: Params, x: jax.Array) -> jax.Array:
    """Logits. Zeros are padded so that a stride of s leaves a side of `n / s`."""
    x = rounded(params["rounding"], x) if layers.rounding else x
    split = len(layers.convolutions)
    for (side, _, stride), layer in zip(layers.convolutions, params["layers"], strict=False):
        padding = (side - stride + 1) // 2
        x = jax.nn.relu(convolved(x, layer["kernel"], layer["bias"], stride=stride, padding=padding))
    x = x.reshape(len(x), -1)
    *hidden, last = params["layers"][split:]
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"][None])
    return x @ last["kernel"] + last["bias"][None]


@functools.cache
def network(name: str) -> Net:
    layers = ARCHITECTURES[name]
    return Net(functools.partial(init, layers), fast_convs(functools.partial(apply, layers)))


def phases(settings: Settings, epochs: int, num_steps: int) -> tuple[int, int, int]:
    """The numbers of steps with radius 0, with a growing radius, and with the final one."""
    first, growing = (round(part * (num_steps // epochs)) for part in (settings.natural_epochs, settings.ramp_epochs))
    if min(first, growing) < 0 or first + growing > num_steps:
        raise ValueError(
            "natural_epochs and ramp_epochs must not be negative, and together not more than "
            f"epochs={epochs}; got {settings.natural_epochs} and {settings.ramp_epochs}"
        )
    return first, growing, num_steps - first - growing


class Schedules(NamedTuple):
    """The radius, and the weights of the natural loss and of CROWN-IBP, at each step."""

    eps: optax.Schedule
    natural: optax.Schedule
    crown: optax.Schedule | float


def schedules(settings: Settings, epochs: int, num_steps: int) -> Schedules:
    """Schedules of the loss that change while the radius grows; CROWN-IBP with weight 0 is not computed at all."""
    first, growing, _ = phases(settings, epochs, num_steps)
    ramp = functools.partial(optax.linear_schedule, transition_steps=max(growing, 1), transition_begin=first)
    crown = ramp(settings.crown, 0.0) if settings.crown else 0.0
    return Schedules(ramp(0.0, settings.train_eps), ramp(1.0, settings.natural), crown)


@functools.cache  # one object, so that all seeds share its compiled step
def loss_of(settings: Settings, epochs: int, num_steps: int) -> LossFn:
    """The certified loss of batches (images in [0, 1], labels)."""
    eps, natural, crown = schedules(settings, epochs, num_steps)
    return certified_loss(network(settings.network).apply, eps=eps, natural_weight=natural, crown_weight=crown)


def learning_rate(settings: Settings, train: common.Train, num_steps: int) -> optax.Schedule:
    """A rate that rises at radius 0, stays while the radius grows, and then falls along a cosine."""
    first, growing, last = phases(settings, train.epochs, num_steps)
    rate = train.learning_rate
    parts = [
        optax.linear_schedule(rate / 10, rate, max(first, 1)),
        optax.constant_schedule(rate),
        optax.cosine_decay_schedule(rate, max(last, 1)),
    ]
    return optax.join_schedules(parts, [first, first + growing])


@functools.cache  # one object, so that all seeds share its compiled step
def optimizer_of(settings: Settings) -> common.OptimizerFn:
    return lambda train, num_steps: optax.adam(learning_rate(settings, train, num_steps))


def trained(settings: Settings, train: common.Train, data: Dataset, *, seed: int, folder: Path) -> Params:
    net, loss_fn = network(settings.network), loss_of(settings, train.epochs, train.num_steps(len(data.labels)))
    optimizer = optimizer_of(settings)
    return common.trained(net, loss_fn, data, train, seed=seed, folder=folder, optimizer=optimizer)
