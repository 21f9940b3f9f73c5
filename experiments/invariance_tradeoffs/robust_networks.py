"""The networks of these experiments, their standard or adversarial training, and their agreement with people.

Adversarial training follows the paper: the attack maximises the margin loss, and the radius of the first epoch is a
third.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from experiments import common
from invjax.attacks import Attack, pgd, transformed
from invjax.data import Dataset, HumanLabelled, human_labelled
from invjax.evaluation import Options, agreement, correct, wilson
from invjax.losses import margin
from invjax.training import adversarial_loss, data_mesh
from invjax.types import ApplyFn, LossFn, Net, Params

Datasets = tuple[Dataset, Dataset, dict[str, HumanLabelled]]
"""The training set, the test set, and the invariance examples that people labelled."""

Counts = Sequence[Sequence[int]]
"""Of each training, the number of images on which the network agrees with people, and the number of images."""


@dataclasses.dataclass(frozen=True)
class Data(common.Data):
    """Settings of the images."""

    dataset: Literal["mnist"] = "mnist"  # Data set of the images; only MNIST has examples that people labelled.
    train_size: int | None = 12_000  # Number of training images, the first ones; None uses all.


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the data and of the training, shared by the experiments of this paper."""

    data: common.Flat[Data] = Data()  # The images.
    cnn: Literal["small CNN", "CNN"] = "small CNN"
    """Convolutional network: that of Madry et al. 2018, as in the paper, or one with half its channels."""
    train: common.Train = common.Train(epochs=3, batch_size=64, learning_rate=2e-3)  # Training of the networks.
    train_steps: int = 4  # Number of steps of the attack in adversarial training.
    seeds: tuple[int, ...] = common.axis((0, 1, 2))  # Random seeds; each seed trains one copy of every network.


SMOKE: dict[str, Any] = {
    "data": Data(train_size=256, test_size=128), "train": common.Train(1, 64, 2e-3), "train_steps": 1, "seeds": (0,)
}  # fmt: skip
PAPER: dict[str, Any] = {
    "cnn": "CNN", "data": Data(train_size=None), "train": common.Train(10, 100, 1e-3), "train_steps": 40
}  # fmt: skip


def datasets(config: Settings) -> Datasets:
    """The data of all trials; without the human labels an error is raised at once."""
    human = human_labelled(config.data.data_dir)
    return (*config.data.load(), human)


IMAGES = {
    "l0": "images of the l0 attack", "linf 0.3": "images of the linf attack, 0.3",
    "linf 0.4": "images of the linf attack, 0.4", "manual linf 0.4": "images made by hand, linf 0.4",
}  # fmt: skip
"""The sets of human-labelled images in words, for figures."""

NETWORKS: dict[str, dict[str, Any]] = {
    "small CNN": {"name": "CNN", "channels": (16, 32), "dense": 128},
    "CNN": {"name": "CNN", "channels": (32, 64), "dense": 1024},
    "ResNet-8": {"name": "ResNet", "stages": (8, 16, 32)},
    "ResNet-18": {"name": "ResNet", "stages": (64, 128, 256, 512), "blocks": 2},
}
"""The networks, by name."""


def network(name: str) -> Net:
    return common.network(**NETWORKS[name])


@cache
def adversary(norm: str, steps: int, tries: int = 0) -> Attack:
    """PGD on the margin; with `tries`, through the worst of so many rotations and shifts."""
    attack = pgd(common.threat(norm), steps=steps, loss=margin)
    return transformed(attack, tries=tries) if tries else attack


@cache
def loss_of(name: str, attack: Attack | None, per_epoch: int, prepare: Callable | None) -> LossFn:
    """The loss of adversarial training, or without an attack of standard training on images that `prepare` changes.

    The radius comes with the batch, so that one compiled step serves all radii. A batch has images, labels, and for
    each image the radius of the first epoch, which has `per_epoch` steps, and that of the later ones; all images have
    the same ones.
    """
    apply_fn = network(name).apply
    if attack is None:
        return common.plain_loss(apply_fn, prepare=prepare)

    def loss_fn(params, key, batch, step):
        radius = jnp.where(step < per_epoch, *batch[2][0])
        return adversarial_loss(apply_fn, attack, eps=lambda step: radius)(params, key, batch[:2], step)

    return loss_fn


def train(
    config: Settings, name: str, attack: Attack | None, eps: float, data: Dataset, *,
    seed: int, folder: Path, prepare: Callable | None = None,
) -> Params:  # fmt: skip
    """Train the network of this name, or continue its training; the first epoch uses a third of the radius `eps`."""
    loss_fn = loss_of(name, attack, config.train.steps_per_epoch(len(data.labels)), prepare)
    radii = np.broadcast_to(np.array([eps / 3, eps], np.float32), (len(data.labels), 2))
    return common.trained(network(name), loss_fn, data, config.train, seed=seed, folder=folder, extra=[radii])


def seen(apply_fn: ApplyFn, params: Params, test: Dataset, human: dict[str, HumanLabelled]) -> dict[str, Any]:
    """Clean accuracy, and for each set on how many changed images a model agrees with people, of how many."""
    options = Options(mesh=data_mesh())
    found = agreement(apply_fn, params, human, options=options)
    right = correct(apply_fn, params, *common.arrays_of(test), options.batch_size, options.mesh)  # of the same shape
    agrees = {name: [int(of_set.with_humans.sum()), of_set.with_humans.size] for name, of_set in found.items()}
    return {"clean": float(right.mean()), "agrees": agrees}


def interval(counts: Counts) -> tuple[float, float, float]:
    """Agreement of several trainings on one set, and its Wilson interval: `(fraction, low, high)`.

    The trainings see the same images, so the interval is that of one training with their mean.
    """
    mean, total = float(np.mean([agrees for agrees, _ in counts])), int(counts[0][1])
    return (mean / total, *wilson(mean, total))


def apart(higher: Counts, lower: Counts) -> str:
    """Whether one agreement lies above another by more than their intervals."""
    (_, *first), (_, *second) = interval(higher), interval(lower)
    above = "above" if first[0] > second[1] else "not above"
    return f"95 % interval {_ends(first)} is {above} {_ends(second)} ({higher[0][1]} images)"


def _ends(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f}"


def agreement_row(who: str, name: str, counts: Counts, differs: str = "", published: float | None = None) -> common.Row:
    """The row of an agreement on the set `name`, with its interval."""
    about = f"95 % interval {_ends(interval(counts)[1:])}, {counts[0][1]} images"
    differs = f"{about}; {differs}" if differs else about
    percentages = [100 * agrees / total for agrees, total in counts]
    return common.row(f"{who}: agrees with people, {name}", percentages, "%", differs, published=published)


def agreement_rows(who: str, at: common.Results) -> Iterator[common.Row]:
    for name in at["agrees"][0]:
        yield agreement_row(who, name, at["agrees", name])
