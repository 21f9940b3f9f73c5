"""The two networks of these experiments: one with standard and one with adversarial training."""

import dataclasses
from functools import cache

from experiments import common
from invjax.attacks import linf, pgd
from invjax.types import LossFn, Net, Params

TRAININGS = ("plain", "adversarial")


@dataclasses.dataclass(frozen=True)
class Network:
    """Settings of the network and of its training."""

    channels: tuple[int, ...] = (16, 32)  # Channels of the convolutions of the network.
    dense: int = 128  # Width of the hidden dense layer of the network.
    train: common.Train = common.Train(epochs=2)  # Training of the network.
    train_eps: float = 0.3  # Radius of the linf attack in adversarial training.
    train_steps: int = 7  # Number of steps of the attack in adversarial training.

    @property
    def net(self) -> Net:
        """The convolutional network of Madry et al. 2018 with these widths."""
        return common.network("CNN", channels=self.channels, dense=self.dense)


@cache
def loss_of(config: Network, training: str, images: int) -> LossFn:
    """The loss of a training on a number of images; the radius of the attack grows over the first third of it."""
    if training == "plain":
        return common.plain_loss(config.net.apply)
    growing = max(config.train.num_steps(images) // 3, 1)
    return common.growing_loss(config.net.apply, pgd(linf(), steps=config.train_steps), config.train_eps, growing)


def trained(config: Network, data, training, seed, folder) -> Params:
    loss_fn = loss_of(config, training, len(data.labels))
    return common.trained(config.net, loss_fn, data, config.train, seed=seed, folder=folder)
