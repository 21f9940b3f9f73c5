"""The judge of these experiments: models that stand in for people, and their agreement with people.

The voters are six networks and one classifier of class-conditional densities. All are fitted to digits that were
rotated, shifted and bent, most of them with uneven brightness. The augmentation was chosen by the agreement of single
networks with people on the released examples (see the notes of the result `invariance_tradeoffs/attack`). The agreement
that `calibration` measures on the same examples is therefore somewhat too high. The fraction of voters that must agree
is the 70 % of the paper and was not chosen.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.intriguing_properties import networks
from invjax.attacks import Judge, judge
from invjax.data import Dataset, HumanLabelled, as_float, augment, uneven_ink
from invjax.evaluation import wilson
from invjax.losses import cross_entropy, error_rate
from invjax.models import fit_gaussian_classes, gaussian_class_log_densities, mlp, mnist_cnn
from invjax.types import Images, Key, LogitsFn, Net

AGREEMENT = 0.7
"""Fraction of the voters that must agree, as of the people in the study."""


VOTERS: dict[str, tuple[Callable[[], Net], bool]] = {
    "CNN": (lambda: mnist_cnn(10, (16, 32), 128), True),
    "CNN, even ink": (lambda: mnist_cnn(10, (16, 32), 128), False),
    "small CNN": (lambda: mnist_cnn(10, (8, 16), 64), True),
    "wide CNN": (lambda: mnist_cnn(10, (32, 32), 64), True),
    "broad CNN": (lambda: mnist_cnn(10, (24, 24), 256), True),
    "MLP": (lambda: mlp(10, (400, 400)), True),
}
"""The networks by name, and whether they are trained with uneven brightness; the densities are a seventh voter."""


@dataclasses.dataclass(frozen=True)
class Settings(networks.Settings):
    """Settings of the data and of the training of the voters."""

    train_size: int | None = 15_000
    """Number of training images of the voters; the witness gets the same number after them, the bank the rest."""
    epochs: int = 4
    """Number of passes of each voter over its training images."""
    batch_size: int = 64
    """Number of images in a training step."""
    voters: tuple[str, ...] = tuple(VOTERS)
    """Networks among the voters, by name."""
    components: int = 40
    """Number of principal directions of the density of each class."""
    elastic: float = 1.0
    """Standard deviation of the bending of digits, in pixels."""
    faintest: float = 0.3
    """Smallest factor of the uneven brightness."""
    agreement: float = AGREEMENT
    """Fraction of the voters that must see the same class."""


WITNESS = "witness"
"""A CNN like the first voter, trained on other images and without a vote; it checks the judge."""


def redrawn(config: Settings, key: Key, images: Images, ink: bool) -> Images:
    """Augmented images: rotated, shifted, bent and, if asked, of uneven brightness."""
    move_key, ink_key = jax.random.split(key)
    images = augment(move_key, images, shift=3.0 * images.shape[1] / 28, elastic=config.elastic)
    return uneven_ink(ink_key, images, faintest=config.faintest) if ink else images


def part(data: Dataset, config: Settings, number: int) -> Dataset:
    """The images of the voters (0), of the witness (1), and of the bank (2)."""
    size = config.train_size or len(data.labels) // 4
    if 2 * size >= len(data.labels):
        raise ValueError(
            f"train_size must leave images for the bank: less than half of {len(data.labels)}; got {size}; lower it"
        )
    rows = slice(number * size, None if number == 2 else (number + 1) * size)
    return data._replace(images=data.images[rows], labels=data.labels[rows])


def network_voter(config: Settings, name: str, data: Dataset, seed: int, folder: Path) -> LogitsFn:
    """Train a network on augmented digits, or read it."""
    make, ink = VOTERS["CNN" if name == WITNESS else name]
    net = make()

    def loss_fn(params, key, batch, step):
        logits = net.apply(params, redrawn(config, key, batch[0], ink))
        return cross_entropy(logits, batch[1]).mean(), {"error": error_rate(logits, batch[1])}

    params = networks.train(config, net, seed, data, folder, loss_fn=loss_fn, description=name)
    return jax.jit(partial(net.apply, params))


def density_voter(config: Settings, data: Dataset, seed: int) -> LogitsFn:
    """Densities of the classes: normal distributions, fitted to augmented digits."""
    redraw = jax.jit(partial(redrawn, config, ink=False))
    parts = [slice(i, i + 1000) for i in range(0, len(data.labels), 1000)]
    images = [
        redraw(key, jnp.asarray(as_float(data.images[rows], data.levels)))
        for key, rows in zip(jax.random.split(jax.random.key(seed), len(parts)), parts, strict=True)
    ]
    densities = fit_gaussian_classes(
        np.concatenate(images), data.labels, data.num_classes, components=config.components
    )
    return jax.jit(partial(gaussian_class_log_densities, densities))


def trained(config: Settings, data: Dataset, seed: int, folder: Path) -> tuple[dict[str, LogitsFn], LogitsFn]:
    """All voters by name, and the witness; networks are kept in `folder` and not trained again."""
    networks.check_models(config.voters, VOTERS)
    first = part(data, config, 0)
    voters = {
        name: network_voter(config, name, first, seed + i, folder / name.replace(", ", "-").replace(" ", "-"))
        for i, name in enumerate(config.voters)
    }
    voters["densities"] = density_voter(config, first, seed)
    witness = network_voter(config, WITNESS, part(data, config, 1), seed + len(VOTERS), folder / WITNESS)
    return voters, witness


def decided(config: Settings, voters: Mapping[str, LogitsFn]) -> Judge:
    """The judge of these voters."""
    return jax.jit(judge(list(voters.values()), agreement=config.agreement))


def calibration(ask: Judge, human: Mapping[str, HumanLabelled]) -> dict[str, dict[str, Any]]:
    """The judge compared with people, by set: fractions with their 95 % intervals, `(fraction, low, high)`.

    `agrees`: it sees what people see, of all images; `silent`: it says nothing; `agrees where changed`: of those in
    which people see another class; `changed`: it sees another class than the original's, of all, whose published value
    is that of people; `right where it says changed`: people see the same class as it, of those.
    """

    def share(hits, among):
        count, total = int((hits & among).sum()), int(among.sum())
        return (count / total, *wilson(count, total)) if total else None

    found = {}
    for name, of_set in human.items():
        seen = np.asarray(ask(jnp.asarray(of_set.images)))
        every, says_changed = np.ones(len(seen), bool), (seen >= 0) & (seen != of_set.labels)
        agrees = seen == of_set.human
        found[name] = {
            "agrees": share(agrees, every),
            "silent": share(seen < 0, every),
            "agrees where changed": share(agrees, of_set.changed),
            "changed": share(says_changed, every),
            "right where it says changed": share(agrees, says_changed),
            "people": float(of_set.changed.mean()),
        }
    return found
