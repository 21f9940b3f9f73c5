"""The networks of these experiments by name, their settings, and their training."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from invjax.attacks import Loss
from invjax.data import Dataset, as_float
from invjax.evaluation import over_batches
from invjax.losses import cross_entropy, error_rate
from invjax.models import mlp, mnist_cnn, resnet
from invjax.training import data_mesh
from invjax.types import LossFn, Net, Params

Name = Literal["linear", "MLP", "CNN", "ResNet"]
"""The name of a network."""


@dataclasses.dataclass(frozen=True)
class Widths:
    """Widths of the networks."""

    hidden: tuple[int, ...] = (200, 200)
    """Widths of the hidden layers of the MLP."""
    channels: tuple[int, ...] = (16, 32)
    """Channels of the convolutions of the CNN."""
    dense: int = 128
    """Width of the hidden dense layer of the CNN."""
    stages: tuple[int, ...] = (16, 32, 64)
    """Channels of the stages of the ResNet; each stage has one block."""


PAPER = Widths((1000, 1000), (32, 64), 1024, (64, 128, 256, 512))
"""The widths in the preset "paper"."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the images, the trainings and the networks, shared by the experiments of this paper."""

    data: common.Flat[common.Data] = common.Data()
    """The images."""
    train: common.Train = common.Train(epochs=5)
    """Training of each network, by Adam with a cosine decay."""
    widths: common.Flat[Widths] = Widths()
    """Widths of the networks."""
    seeds: tuple[int, ...] = common.axis((0, 1, 2))
    """Random seeds; each seed trains one copy of every network."""


NETWORKS: dict[str, Callable[[Widths], Net]] = {
    "linear": lambda widths: mlp(10, ()),
    "MLP": lambda widths: mlp(10, widths.hidden),
    "CNN": lambda widths: mnist_cnn(10, widths.channels, widths.dense),
    "ResNet": lambda widths: resnet(10, widths.stages, (1,) * len(widths.stages)),
}


@cache  # one object for each network, so that all seeds share its compiled functions
def network(widths: Widths, name: str) -> Net:
    """The network with this name."""
    return NETWORKS[name](widths)


@cache  # one loss for all seeds, so that its training step is compiled once
def plain_loss(net: Net, loss: Loss = cross_entropy) -> LossFn:
    """The mean loss of batches (images in [0, 1], labels) without an attack."""

    def loss_fn(params, key, batch, step):
        logits = net.apply(params, batch[0])
        return loss(logits, batch[1]).mean(), {"error": error_rate(logits, batch[1])}

    return loss_fn


@cache
def on_bytes(loss_fn: LossFn, levels: int) -> LossFn:
    """The loss of batches whose images are integers with so many levels."""
    return lambda params, key, batch, step: loss_fn(params, key, (as_float(batch[0], levels), batch[1]), step)


def trained(
    net: Net, loss_fn: LossFn, data: Dataset, settings: common.Train, seed: int, folder: Path, epochs: int | None = None
) -> Params:
    """The parameters of a network after its training, or after its first `epochs` passes; 0 is the start.

    `loss_fn` takes batches (images in [0, 1], labels) and should be one object for all seeds. The training continues
    from the checkpoints in `folder`.
    """
    init_key, key = common.split_key(seed)
    start = net.init(init_key, jnp.asarray(images_of(common.first(data, 1))))
    return common.train(start, on_bytes(loss_fn, data.levels), data[:2], settings, key=key, seed=seed, folder=folder,
                        epochs=epochs, description=folder.name)  # fmt: skip


def images_of(data: Dataset) -> np.ndarray:
    """All images, in [0, 1]."""
    return np.asarray(as_float(data.images[:], data.levels))


def logits_of(net: Net, params: Params, images: np.ndarray) -> np.ndarray:
    """Logits of a whole data set, `[N, K]`."""
    return over_batches(partial(jax.jit(net.apply), params), [images], mesh=data_mesh())
