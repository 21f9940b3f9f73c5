"""The settings that the experiments of this paper share, and their networks."""

import dataclasses
from typing import Literal

from experiments import common
from invjax.types import Net

Name = Literal["linear", "MLP", "CNN", "ResNet"]  # the name of a network


@dataclasses.dataclass(frozen=True)
class Widths:
    """Widths of the networks."""

    hidden: tuple[int, ...] = (200, 200)  # Widths of the hidden layers of the MLP.
    channels: tuple[int, ...] = (16, 32)  # Channels of the convolutions of the CNN.
    dense: int = 128  # Width of the hidden dense layer of the CNN.
    stages: tuple[int, ...] = (16, 32, 64)  # Channels of the stages of the ResNet; each stage has one block.

    def network(self, name: str) -> Net:
        """The network with this name."""
        return common.network(name, **vars(self))


PAPER = Widths((1000, 1000), (32, 64), 1024, (64, 128, 256, 512))  # the widths in the preset "paper"


@dataclasses.dataclass(frozen=True)
class Config:
    data: common.Flat[common.Data] = common.Data()  # The images.
    train: common.Train = common.Train(epochs=5)  # Training of each network, by Adam with a cosine decay.
    widths: common.Flat[Widths] = Widths()  # Widths of the networks.
    seeds: tuple[int, ...] = common.axis((0, 1, 2))  # Random seeds; each seed trains one copy of every network.
