"""Data sets of relabelled adversarial examples, and networks trained on them; shared by several experiments."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.features_not_bugs import networks
from invjax import features
from invjax.attacks import l2, pgd
from invjax.training import data_mesh
from invjax.types import Params

KINDS = ("D_rand", "D_det")


@dataclasses.dataclass(frozen=True)
class Settings(networks.Settings):
    """Settings of the targeted attack that makes the data, and of the training on the data."""

    eps: float = 1.25
    """Radius in l2 of the targeted attack that makes the data."""
    attack_steps: int = 20
    """Number of steps of the targeted attack, which starts from the image."""
    step_size: float | None = None
    """Length of a step of the targeted attack in l2; None is 2.5 eps / steps."""
    exclude_true: bool = False
    """Draw the targets of D_rand from the other classes only; in the paper one in ten is the label itself."""
    rates: tuple[float, float] | None = None
    """Learning rates on D_rand and on D_det; None uses the learning rate of all networks."""
    moved: tuple[bool, bool] = (False, False)
    """Whether to shift and reflect images in training on D_rand and on D_det."""


SMALL: dict[str, Any] = networks.SMALL | {"epochs": 10, "eps": 2.0, "attack_steps": 10}
"""Settings of small networks. They learn little from small changes, so the radius is larger than in the paper."""

PLANTED: dict[str, Any] = {"planted": 1.0, "network": "MLP", "hidden": (256, 256)}
"""Settings of MNIST with a planted non-robust feature."""

PAPER: dict[str, Any] = networks.PAPER | {"eps": 0.5, "attack_steps": 100, "step_size": 0.1}
"""Settings of the paper on CIFAR-10."""


def check(config: Settings) -> None:
    """Check that the radius is positive.

    Raises:
        ValueError: the radius is not positive.
    """
    if not config.eps > 0:
        raise ValueError(f"eps must be positive; got eps={config.eps}")


def about(config: Settings) -> str:
    """How the data were made, for the last column of a table."""
    targets = ", D_rand without the true class" if config.exclude_true else ""
    return f"{networks.about(config)}, eps {config.eps:g}, {config.attack_steps} steps{targets}; last iterates"


def construct(
    config: Settings,
    kind: str,
    source: str,
    params: Params,
    data: networks.Data,
    seed: int,
    path: Path,
    name: str | None = None,
) -> features.Constructed:
    """Make D_rand or D_det, or read it from `path`.

    Args:
        config: settings of the attack.
        kind: "D_rand" or "D_det".
        source: name of the model, such as "standard".
        params: parameters of the model.
        data: the original images and labels.
        seed: random seed of the targets and of the attack.
        path: file of the data set.
        name: name of the network of the model; by default the configured one.
    """
    images, labels = data
    target_key, key = jax.random.split(jax.random.key(seed))
    if kind == "D_rand":
        targets = features.random_targets(target_key, labels, num_classes=10, exclude_true=config.exclude_true)
    else:
        targets = features.next_targets(labels, num_classes=10)
    return features.relabelled_dataset(
        key,
        pgd(l2(), steps=config.attack_steps, random_start=False, targeted=True),
        networks.network(config, name).apply,
        params,
        images,
        np.asarray(targets),
        eps=config.eps,
        step_size=config.step_size,
        metadata={"data": config.dataset, "source": source, "network": name or config.network, "targets": kind},
        path=path,
        mesh=data_mesh(),
        description=f"{kind} of the {source} model, seed {seed}",
    )


def learn(
    config: Settings, kind: str, made: features.Constructed, seed: int, folder: Path, *, name: str | None = None
) -> Params:
    """Train a network on a relabelled data set."""
    i = KINDS.index(kind)
    return networks.train(
        config,
        seed + 1000,
        (made.images, made.labels),
        folder,
        name=name,
        learning_rate=None if config.rates is None else config.rates[i],
        augment=config.moved[i],
        description=f"{name or config.network} on {kind}, seed {seed}",
    )
