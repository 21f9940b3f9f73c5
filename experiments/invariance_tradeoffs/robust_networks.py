"""The networks of these experiments, their standard or adversarial training, and their agreement with people.

Adversarial training follows the paper: the attack maximises the margin loss, and the radius of the first epoch is a
third.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from invjax.attacks import Attack, l1, l2, linf, over, pgd, transformed
from invjax.data import Dataset, HumanLabelled, as_float, human_labelled
from invjax.evaluation import Options, agreement, correct, wilson
from invjax.losses import cross_entropy, error_rate, margin
from invjax.models import mnist_cnn, resnet
from invjax.training import adversarial_loss, data_mesh
from invjax.types import ApplyFn, LossFn, Params

Datasets = tuple[Dataset, Dataset, dict[str, HumanLabelled]]
"""The training set, the test set, and the invariance examples that people labelled."""

Counts = Sequence[Sequence[int]]
"""Of each training, the number of images on which the network agrees with people, and the number of images."""


@dataclasses.dataclass(frozen=True)
class Data(common.Data):
    """Settings of the images."""

    dataset: Literal["mnist"] = "mnist"
    """Data set of the images; only MNIST has examples that people labelled."""
    train_size: int | None = 12_000
    """Number of training images, the first ones; None uses all."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the data and of the training, shared by the experiments of this paper."""

    data: common.Flat[Data] = Data()
    """The images."""
    cnn: Literal["small CNN", "CNN"] = "small CNN"
    """Convolutional network: that of Madry et al. 2018, as in the paper, or one with half its channels."""
    train: common.Train = common.Train(epochs=3, batch_size=64, learning_rate=2e-3)
    """Training of the networks."""
    train_steps: int = 4
    """Number of steps of the attack in adversarial training."""
    seeds: tuple[int, ...] = common.axis((0, 1, 2))
    """Random seeds; each seed trains one copy of every network."""


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

NETWORKS = {
    "small CNN": lambda: mnist_cnn(10, (16, 32), 128),
    "CNN": lambda: mnist_cnn(10, (32, 64), 1024),
    "ResNet-8": lambda: resnet(10, (8, 16, 32), (1, 1, 1)),
    "ResNet-18": resnet,
}
"""The networks, by name."""

# one object for equal arguments, so that all seeds share its compiled functions
network = functools.cache(lambda name: NETWORKS[name]())


@functools.cache
def adversary(norm: str, steps: int, tries: int = 0) -> Attack:
    """PGD on the margin in 'linf', 'l2' or 'l1'; with `tries`, through the worst of so many rotations and shifts."""
    attack = pgd({"linf": linf, "l2": l2, "l1": l1}[norm](), steps=steps, loss=margin)
    return transformed(attack, tries=tries) if tries else attack


@functools.cache
def loss_of(name: str, attack: Attack | None, per_epoch: int, prepare: Callable | None) -> LossFn:
    """The loss of adversarial training, or without an attack of standard training.

    The radius comes with the batch, so that one compiled step serves all radii. A batch has images, labels, and for
    each image the radius of the first epoch and that of the later ones; all images have the same ones.

    Args:
        name: name of the network.
        attack: the attack on each batch.
        per_epoch: number of steps of an epoch.
        prepare: function that changes the images before they are used.
    """
    apply_fn = network(name).apply

    def loss_fn(params, key, batch, step):
        x, labels = jnp.asarray(as_float(batch[0])), batch[1]
        x = prepare(x) if prepare else x
        if attack is not None:
            radius = jnp.where(step < per_epoch, *batch[2][0])
            return adversarial_loss(apply_fn, attack, eps=lambda step: radius)(params, key, (x, labels), step)
        logits = apply_fn(params, x)
        return cross_entropy(logits, labels).mean(), {"error": error_rate(logits, labels)}

    return loss_fn


def train(
    config: Settings, name: str, attack: Attack | None, eps: float, data: Dataset, *,
    seed: int, folder: Path, prepare: Callable | None = None,
) -> Params:  # fmt: skip
    """Train the network of this name, or continue its training; the first epoch uses a third of the radius `eps`."""
    init_key, key = common.split_key(seed)
    params = network(name).init(init_key, jnp.asarray(as_float(data.images[:1])))
    loss_fn = loss_of(name, attack, config.train.steps_per_epoch(len(data.labels)), prepare)
    arrays = [*data[:2], np.broadcast_to(np.array([eps / 3, eps], np.float32), (len(data.labels), 2))]
    return common.train(params, loss_fn, arrays, config.train, key=key, seed=seed, folder=folder)


def seen(apply_fn: ApplyFn, params: Params, test: Dataset, human: dict[str, HumanLabelled]) -> dict[str, Any]:
    """Clean accuracy, and for each set on how many changed images a model agrees with people, of how many."""
    options = Options(mesh=data_mesh())
    found = agreement(apply_fn, params, human, options=options)
    images, labels = as_float(test.images[:]), np.asarray(test.labels)
    right = correct(apply_fn, params, images, labels, options.batch_size, options.mesh)  # of one shape with the others
    agrees = {name: [int(of_set.with_humans.sum()), of_set.with_humans.size] for name, of_set in found.items()}
    return {"clean": float(right.mean()), "agrees": agrees}


def withstands(apply_fn: ApplyFn, params: Params, attack: Attack, eps: float, test: Dataset, seed: int) -> float:
    """Accuracy under an attack on these images."""
    run = over(attack, apply_fn, batch_size=min(500, len(test.labels)), mesh=data_mesh())
    found = run(jax.random.key(seed), params, as_float(test.images[:]), np.asarray(test.labels), eps=eps)
    return 1 - float(found.success.mean())


def interval(counts: Counts) -> tuple[float, float, float]:
    """Agreement of several trainings on one set, and its Wilson interval: `(fraction, low, high)`.

    The trainings see the same images, so the interval is that of one training with their mean.
    """
    mean, total = float(np.mean([agrees for agrees, _ in counts])), counts[0][1]
    return (mean / total, *wilson(mean, total))


def apart(higher: Counts, lower: Counts) -> str:
    """Whether one agreement lies above another by more than their intervals."""
    (_, *first), (_, *second) = interval(higher), interval(lower)
    above = "above" if first[0] > second[1] else "not above"
    return f"95 % interval {_ends(first)} is {above} {_ends(second)} ({higher[0][1]} images)"


def _ends(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f}"


def agreement_row(
    who: str, name: str, counts: Counts, published: float | None = None, differs: str = ""
) -> common.Row:  # fmt: skip
    """The row of an agreement on the set `name`, with its interval."""
    about = f"95 % interval {_ends(interval(counts)[1:])}, {counts[0][1]} images"
    differs = f"{about}; {differs}" if differs else about
    percentages = [100 * agrees / total for agrees, total in counts]
    return common.row(f"{who}: agrees with people, {name}", published, percentages, "%", differs)


def agreement_rows(who: str, at: common.Results) -> Iterator[common.Row]:
    """The rows of the agreement on all sets, without published numbers."""
    for name in at["agrees"][0]:
        yield agreement_row(who, name, at["agrees", name])
