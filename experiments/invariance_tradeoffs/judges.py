"""The judge of these experiments: models that stand in for people, and their agreement with people.

The voters are six networks and one classifier of class-conditional densities. All are fitted to digits that were
rotated, shifted and bent, most of them with uneven brightness. The augmentation was chosen by the agreement of single
networks with people on the released examples (see the notes of the result `invariance_tradeoffs/attack`). The agreement
that `calibration` measures on the same examples is therefore somewhat too high. The fraction of voters that must agree
is the 70 % of the paper and was not chosen.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from invjax.attacks import Judge
from invjax.data import Dataset, HumanLabelled, as_float, augment, uneven_ink
from invjax.evaluation import wilson
from invjax.models import GaussianClasses, fit_gaussian_classes, gaussian_class_log_densities
from invjax.types import Images, Key, LogitsFn, LossFn, Net

Voter = Literal["CNN", "CNN, even ink", "small CNN", "wide CNN", "broad CNN", "MLP"]
VOTERS: tuple[Voter, ...] = get_args(Voter)  # the networks among the voters; the densities are a seventh voter

WITNESS = "witness"  # a CNN like the first voter, trained on other images and without a vote; it checks the judge


@dataclasses.dataclass(frozen=True)
class Data(common.Data):
    """The images of the voters, of the witness and of the bank, which share none, and the test images."""

    dataset: Literal["digits", "mnist"] = "mnist"  # Data set of the images.
    train_size: int | None = 15_000
    """Number of training images of the voters; the witness gets the same number after them, the bank the rest."""

    def load(self) -> tuple[Dataset, Dataset]:
        """All training images, because the rest is the bank, and the test set."""
        return common.Data(self.dataset, self.data_dir, None, self.test_size).load()


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the voters."""

    voters: tuple[Voter, ...] = VOTERS  # Networks among the voters, by name.
    components: int = 40  # Number of principal directions of the density of each class.
    elastic: float = 1.0  # Standard deviation of the bending of digits, in pixels.
    faintest: float = 0.3  # Smallest factor of the uneven brightness.
    agreement: float = 0.7  # Fraction of the voters that must see the same class, as of the people in the study.


def part(data: Dataset, train_size: int | None, number: int) -> Dataset:
    """The images of the voters (0), of the witness (1), and of the bank (2)."""
    size = train_size or len(data.labels) // 4
    if 2 * size >= len(data.labels):
        raise ValueError(
            f"train_size must leave images for the bank: less than half of {len(data.labels)}; got {size}; lower it"
        )
    rows = slice(number * size, None if number == 2 else (number + 1) * size)
    return data._replace(images=data.images[rows], labels=data.labels[rows])


def network(name: str) -> Net:
    cnns = {"small CNN": ((8, 16), 64), "wide CNN": ((32, 32), 64), "broad CNN": ((24, 24), 256)}
    channels, dense = cnns.get(name, ((16, 32), 128))
    return common.network("MLP" if name == "MLP" else "CNN", hidden=(400, 400), channels=channels, dense=dense)


def redrawn(settings: Settings, key: Key, images: Images, ink: bool) -> Images:
    """Augmented images: rotated, shifted, bent and, if asked, of uneven brightness."""
    move_key, ink_key = jax.random.split(key)
    images = augment(move_key, images, shift=3.0 * images.shape[1] / 28, elastic=settings.elastic)
    return uneven_ink(ink_key, images, faintest=settings.faintest) if ink else images


@cache  # one object for all seeds, whose step is compiled once
def loss_of(settings: Settings, name: str) -> LossFn:
    return common.plain_loss(network(name).apply, prepare=partial(redrawn, settings, ink=name != "CNN, even ink"))


def network_voter(settings: Settings, train: common.Train, name: str, data: Dataset, seed: int, folder: Path) -> Any:
    params = common.trained(network(name), loss_of(settings, name), data, train, seed=seed, folder=folder)
    return jax.jit(partial(network(name).apply, params))


def density_voter(settings: Settings, data: Dataset, seed: int, folder: Path) -> LogitsFn:
    """Densities of the classes: normal distributions, fitted to augmented digits, or read."""

    def fit() -> tuple[dict, dict]:
        redraw = jax.jit(partial(redrawn, settings, ink=False))
        parts = [slice(i, i + 1000) for i in range(0, len(data.labels), 1000)]
        images = [
            redraw(key, jnp.asarray(as_float(data.images[rows], data.levels)))
            for key, rows in zip(jax.random.split(jax.random.key(seed), len(parts)), parts, strict=True)
        ]
        found = fit_gaussian_classes(
            np.concatenate(images), data.labels, data.num_classes, components=settings.components
        )
        return {}, {name: np.asarray(value) for name, value in found._asdict().items()}

    return jax.jit(partial(gaussian_class_log_densities, GaussianClasses(**common.stage(folder, fit)[1])))


def trained(
    settings: Settings, train: common.Train, parts: tuple[Dataset, Dataset], seed: int, folder: Path
) -> tuple[dict[str, LogitsFn], LogitsFn]:
    """All voters by name, and the witness, on their parts of the images; they are kept in `folder`."""

    def place(name: str) -> Path:
        return folder / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}"

    voters: dict[str, LogitsFn] = {
        name: network_voter(settings, train, name, parts[0], seed + i, place(name))
        for i, name in enumerate(settings.voters)
    }
    voters["densities"] = density_voter(settings, parts[0], seed, place("densities"))
    return voters, network_voter(settings, train, WITNESS, parts[1], seed + len(VOTERS), place(WITNESS))


def votes_for(voters: Mapping[str, LogitsFn], images: Images, labels: np.ndarray) -> np.ndarray:
    """The number of voters that see these classes."""
    return np.sum([np.asarray(voter(jnp.asarray(images))).argmax(1) == labels for voter in voters.values()], 0)


def calibration(ask: Judge, of_set: HumanLabelled) -> dict[str, Any]:
    """The judge on a set that people labelled: fractions with their 95 % intervals, or None of no image."""
    seen = np.asarray(ask(jnp.asarray(of_set.images)))
    every, changed = np.ones(len(seen), bool), (seen >= 0) & (seen != of_set.labels)
    agrees = seen == of_set.human
    questions = {
        "sees another class": (changed, every),
        "sees what people see": (agrees, every),
        "sees what people see, where that is another class": (agrees, of_set.changed),
        "is right where it sees another class": (agrees, changed),
        "says nothing": (seen < 0, every),
    }
    counts = {name: (int((hits & among).sum()), int(among.sum())) for name, (hits, among) in questions.items()}
    return {name: (hits / of, *wilson(hits, of)) if of else None for name, (hits, of) in counts.items()}
