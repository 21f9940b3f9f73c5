"""Data sets of relabelled adversarial examples, and networks trained on them; shared by several experiments."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.common import Arrays
from experiments.features_not_bugs import networks
from invjax import features, figures
from invjax.attacks import l2, pgd
from invjax.training import data_mesh
from invjax.types import Params

KINDS = ("D_rand", "D_det")


@dataclasses.dataclass(frozen=True)
class Settings(networks.Settings):
    """Settings of the targeted attack that makes the data, and of the training on the data."""

    eps: float = 1.25  # Radius in l2 of the targeted attack that makes the data.
    attack_steps: int = 20  # Number of steps of the targeted attack, which starts from the image.
    step_size: float | None = None  # Length of a step of the targeted attack in l2; None is 2.5 eps / steps.
    exclude_true: bool = False
    """Draw the targets of D_rand from the other classes only; in the paper one in ten is the label itself."""
    rates: tuple[float, float] | None = None
    """Learning rates on D_rand and on D_det; None uses the learning rate of all networks."""
    moved: tuple[bool, bool] = (False, False)  # Whether to shift and reflect images in training on D_rand and on D_det.


SMALL = networks.SMALL | {"train": networks.Train(10, 128, 2e-3), "eps": 2.0, "attack_steps": 10}
"""Settings of small networks. They learn little from small changes, so the radius is larger than in the paper."""

PLANTED: dict[str, Any] = {
    "data": networks.Data("mnist", train_size=20_000, planted=1.0), "network": "MLP", "hidden": (256, 256)
}  # fmt: skip
"""Settings of MNIST with a planted non-robust feature."""

SMOKE: dict[str, Any] = dict(
    data=networks.Data("digits", train_size=1024, planted=0.5), network="MLP", hidden=(64, 64),
    train=networks.Train(20, 64, 2e-3), robust_epochs=20, train_eps=0.8, eps=0.8, attack_steps=10, images=64,
    eval_steps=5, ensemble_images=0, seeds=(0,),
)  # fmt: skip
"""Settings of quick runs."""

PAPER = networks.PAPER | {
    "eps": 0.5, "attack_steps": 100, "step_size": 0.1, "rates": (0.01, 0.1), "moved": (True, False)
}  # fmt: skip
"""Settings of the paper on CIFAR-10."""


def check(config: Settings) -> None:
    if not config.eps > 0:
        raise ValueError(f"eps must be positive; got eps={config.eps}")


def about(config: Settings) -> str:
    """How the data were made, for the last column of a table."""
    targets = ", D_rand without the true class" if config.exclude_true else ""
    return f"{networks.about(config)}, eps {config.eps:g}, {config.attack_steps} steps{targets}; last iterates"


def construct(
    config: Settings, kind: str, params: Params, data: Arrays, *, seed: int, folder: Path, source: str = "standard"
) -> features.Constructed:
    """Make D_rand or D_det of `data` with the configured network, or read it; `source` names the model."""
    target_key, key = common.split_key(seed)
    if kind == "D_rand":
        targets = features.random_targets(target_key, data[1], num_classes=10, exclude_true=config.exclude_true)
    else:
        targets = features.next_targets(data[1], num_classes=10)
    attack = pgd(l2(), steps=config.attack_steps, random_start=False, targeted=True)
    return features.relabelled_dataset(
        key, attack, config.net().apply, params, data[0], np.asarray(targets), eps=config.eps,
        step_size=config.step_size, path=folder / "data.npz", mesh=data_mesh(),
        metadata={"data": config.data.dataset, "source": source, "network": config.network, "targets": kind},
        description=f"{kind} of the {source} model, seed {seed}",
    )  # fmt: skip


def learn(
    config: Settings, kind: str, made: features.Constructed, name: str | None = None, *, seed: int, folder: Path
) -> Params:
    """Train a network on a relabelled data set; `name` is another network than the configured one."""
    i, data = KINDS.index(kind), (made.images, made.labels)
    rate = config.train.learning_rate if config.rates is None else config.rates[i]
    options: Any = {"augment": config.moved[i], "learning_rate": rate}
    return networks.train(config, data, name, seed=seed + 1000, folder=folder, **options)


def measure(config: Settings, kind: str, made: features.Constructed, test: Arrays, *, seed: int, folder: Path) -> dict:
    """Train a network on a relabelled data set, and test it on original images.

    Returns:
        Fractions: "reached", the images whose target the model of the data set sees; "accuracy" on the test set; and
        "next", the test images whose prediction is the class after their own.
    """
    params, (images, labels) = learn(config, kind, made, seed=seed, folder=folder), test
    accuracy = partial(common.accuracy, config.net().apply, params)
    return {
        "reached": float(made.details["success"].mean()),
        "accuracy": accuracy(test),
        "next": accuracy((images, (labels + 1) % 10)),
    }


def pictures(rows: Mapping[str, Mapping[str, np.ndarray]], title: str, count: int = 8) -> Any:
    """A figure of the first "images" of each named row, with their "labels"."""
    images = {name: arrays["images"][:count] for name, arrays in rows.items()}
    captions = {name: [f"label {k}" for k in arrays["labels"][:count]] for name, arrays in rows.items()}
    return figures.image_grid(images, title, captions=captions)
