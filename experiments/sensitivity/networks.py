"""The two networks of these experiments: one with standard and one with adversarial training."""

import dataclasses
from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from experiments import common
from invjax.attacks import linf, pgd
from invjax.data import Dataset, as_float
from invjax.losses import cross_entropy, error_rate
from invjax.models import mnist_cnn
from invjax.training import adversarial_loss
from invjax.types import LossFn, Net, Params

TRAININGS = ("plain", "adversarial")


@dataclasses.dataclass(frozen=True)
class Network:
    """Settings of the network and of its training."""

    channels: tuple[int, ...] = (16, 32)
    """Channels of the convolutions of the network."""
    dense: int = 128
    """Width of the hidden dense layer of the network."""
    train: common.Train = common.Train(epochs=2)
    """Training of the network."""
    train_eps: float = 0.3
    """Radius of the linf attack in adversarial training."""
    train_steps: int = 7
    """Number of steps of the attack in adversarial training."""

    def net(self) -> Net:
        """The convolutional network of Madry et al. 2018 with these widths."""
        return mnist_cnn(10, self.channels, self.dense)


@cache
def loss_of(config: Network, training: str, images: int, levels: int) -> LossFn:
    """The loss of a training, one of `TRAININGS`, on a number of images with so many levels of intensity.

    Adversarial training has PGD in the loss. The radius grows from zero over the first third of the steps; otherwise
    training often does not start.
    """
    apply_fn = config.net().apply
    growing = max(config.train.num_steps(images) // 3, 1)
    attack, eps = pgd(linf(), steps=config.train_steps), config.train_eps
    attacked = adversarial_loss(apply_fn, attack, eps=lambda step: eps * jnp.minimum(1, step / growing))

    def plain(params, key, batch, step):
        logits = apply_fn(params, batch[0])
        return cross_entropy(logits, batch[1]).mean(), {"error": error_rate(logits, batch[1])}

    loss = {"plain": plain, "adversarial": attacked}[training]
    return lambda params, key, batch, step: loss(params, key, (as_float(batch[0], levels), batch[1]), step)


def train(config: Network, data: Dataset, training: str, seed: int, folder: Path) -> Params:
    """Train a network, or continue its training."""
    init_key, key = common.split_key(seed)
    params = config.net().init(init_key, jnp.asarray(as_float(data.images[:1], data.levels)))
    loss_fn = loss_of(config, training, len(data.labels), data.levels)
    return common.train(params, loss_fn, [data.images, data.labels], config.train, key=key, seed=seed, folder=folder,
                        description=f"{training}, seed {seed}")  # fmt: skip


def first_images(data: Dataset, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of a data set, in [0, 1], and their labels."""
    return np.asarray(as_float(data.images[:count], data.levels)), np.asarray(data.labels[:count])
