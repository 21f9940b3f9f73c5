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
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.invariance_tradeoffs.pretrained import convolved
from invjax import fast_convs
from invjax.data import Dataset, as_float, batches
from invjax.training import TrainStep, certified_loss, data_mesh, fit, init_state, make_train_step
from invjax.types import Key, Net, Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the data and of the training."""

    dataset: Literal["mnist"] = "mnist"
    """Data set of the images; only MNIST has examples that people labelled."""
    data_dir: str | None = None
    """Folder of the data and human labels; default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    network: Literal["tiny CNN", "CNN", "large CNN"] = "CNN"
    """Architecture of the network."""
    train_size: int | None = None
    """Number of training images; None uses all."""
    epochs: int = 14
    """Number of passes over the training set."""
    natural_epochs: float = 0.5
    """Number of first epochs with radius 0, in which the learning rate rises."""
    ramp_epochs: float = 4
    """Number of epochs after that in which the radius grows; then the learning rate falls along a cosine."""
    batch_size: int = 96
    """Number of images in a training step."""
    learning_rate: float = 1e-3
    """Largest learning rate of Adam."""
    train_eps: float = 0.42
    """Final radius in linf, slightly larger than the radius to certify."""
    natural: float = 0.0
    """Final weight of the natural loss (kappa); it falls from 1 while the radius grows."""
    crown: float = 0.0
    """Initial weight of CROWN-IBP in the bounds (beta); it falls to 0 while the radius grows. 0 is IBP."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; each seed trains one network."""


class Layers(NamedTuple):
    """An architecture: convolutions `(side of the kernel, channels, stride)`, then dense layers; ReLU between.

    Attributes:
        convolutions: the convolutions, as above.
        dense: widths of the hidden dense layers.
        rounding: whether pixels are rounded first.
    """

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
    params = {
        "layers": [
            {
                "kernel": (2 * jnp.pi) ** 0.5 / np.prod(shape[:-1]) * jax.random.normal(one, shape, x.dtype),
                "bias": jnp.zeros(shape[-1], x.dtype),
            }
            for one, shape in zip(keys, shapes, strict=True)
        ]
    }
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
        if any(size % stride for size in x.shape[1:3]):
            raise ValueError(
                f"a convolution of stride {stride} needs image sides divisible by {stride}; got {x.shape[1:3]}; "
                "crop or pad the images"
            )
        padding = (side - stride + 1) // 2
        x = jax.nn.relu(convolved(x, layer["kernel"], layer["bias"], stride=stride, padding=padding))
    x = x.reshape(len(x), -1)
    *hidden, last = params["layers"][split:]
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"][None])
    return x @ last["kernel"] + last["bias"][None]


@functools.cache
def network(name: str) -> Net:
    """The network with this name; one object, so that all seeds share its compiled functions."""
    layers = ARCHITECTURES[name]
    return Net(functools.partial(init, layers), fast_convs(functools.partial(apply, layers)))


class Schedules(NamedTuple):
    """The schedules of training: `step -> number`.

    Attributes:
        eps: the radius.
        natural: the weight of the natural loss.
        crown: the weight of CROWN-IBP; the number 0 without it.
        learning_rate: the learning rate of the optimiser.
    """

    eps: optax.Schedule
    natural: optax.Schedule
    crown: optax.Schedule | float
    learning_rate: optax.Schedule


def schedules(config: Settings, per_epoch: int) -> Schedules:
    """Natural training first, then the growing radius, then a falling learning rate.

    Raises:
        ValueError: a negative number of epochs, or more epochs of the first two kinds than epochs in all.
    """
    for name in ("natural_epochs", "ramp_epochs"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must not be negative; got {name}={getattr(config, name)}")
    first, growing = (round(epochs * per_epoch) for epochs in (config.natural_epochs, config.ramp_epochs))
    last = config.epochs * per_epoch - first - growing
    if last < 0:
        raise ValueError(
            f"natural_epochs={config.natural_epochs} and ramp_epochs={config.ramp_epochs} must not be more than "
            f"epochs={config.epochs} together; lower them"
        )

    def ramp(start, end):
        return optax.linear_schedule(start, end, max(growing, 1), first)

    rate = config.learning_rate
    learning_rate = optax.join_schedules(
        [
            optax.linear_schedule(rate / 10, rate, max(first, 1)),
            optax.constant_schedule(rate),
            optax.cosine_decay_schedule(rate, max(last, 1)),
        ],
        [first, first + growing],
    )
    crown = ramp(config.crown, 0.0) if config.crown else 0.0
    return Schedules(ramp(0.0, config.train_eps), ramp(1.0, config.natural), crown, learning_rate)


@functools.cache  # one object, so that all seeds share its compiled functions
def _train_step(config: Settings, per_epoch: int) -> tuple[TrainStep, Any]:
    eps, natural, crown, learning_rate = schedules(config, per_epoch)
    certified = certified_loss(network(config.network).apply, eps=eps, natural_weight=natural, crown_weight=crown)

    def loss_fn(params, key, batch, step):
        images, labels = batch
        return certified(params, key, (jnp.asarray(as_float(images)), labels), step)

    optimizer = optax.adam(learning_rate)
    return make_train_step(loss_fn, optimizer), optimizer


def train(config: Settings, seed: int, data: Dataset, folder: Path) -> Params:
    """Train a network, or continue its training."""
    per_epoch = len(data.labels) // config.batch_size
    step_fn, optimizer = _train_step(dataclasses.replace(config, seeds=(), data_dir=None), per_epoch)
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = network(config.network).init(init_key, jnp.asarray(as_float(data.images[:1])))
    state, _ = fit(
        init_state(run_key, params, optimizer),
        step_fn,
        batches([data.images, data.labels], config.batch_size, seed),
        config.epochs * per_epoch,
        mesh=data_mesh(),
        directory=folder,
        description=folder.name,
    )
    return state.params
