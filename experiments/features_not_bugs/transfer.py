"""Do adversarial examples transfer to networks that can learn from them? Figures 3 and 13 of the paper.

    python -m experiments.features_not_bugs.transfer [smoke|default|planted|paper] [--dataset digits|mnist|cifar10]

Networks of several architectures, trained on the same data, classify the adversarial examples of one model. Other
networks of these architectures are trained on the D_det of that model. If adversarial examples are features, an
architecture that learns more from D_det is fooled more often. The rank correlation measures this trend of the figures.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.stats import rankdata

from experiments import common
from experiments.features_not_bugs import networks, relabelling
from invjax import figures
from invjax.attacks import jit_attack, l2, pgd
from invjax.evaluation import over_batches
from invjax.training import data_mesh
from invjax.types import Params

GOALS = {"untargeted": "figure 3", "targeted": "figure 13"}


@dataclasses.dataclass(frozen=True)
class Config(relabelling.Settings):
    """Settings of the transfer experiment; `network` is the network of the source."""

    targets: tuple[str, ...] = ("linear", "MLP", "deep MLP", "CNN", "ResNet")
    """Architectures that classify the adversarial examples and that are trained on D_det."""


PRESETS = {
    "smoke": Config(
        "digits",
        planted=0.5,
        train_size=1024,
        network="MLP",
        targets=("linear", "MLP", "deep MLP"),
        hidden=(64, 64),
        epochs=20,
        batch_size=64,
        eps=0.8,
        attack_steps=10,
        images=128,
        eval_steps=5,
        seeds=(0,),
    ),
    "default": Config(
        **relabelling.SMALL,
        train_size=10_000,
        hidden=(256, 256),
        stages=(8, 16),
        blocks=1,
        images=2000,
    ),
    "planted": Config(
        **relabelling.PLANTED,
        train_size=10_000,
        stages=(8, 16),
        blocks=1,
        epochs=10,
        images=2000,
    ),
    "paper": Config(
        "cifar10",
        network="ResNet",
        hidden=(512, 512),
        channels=(32, 64),
        dense=1024,
        epochs=150,
        optimizer="sgd",
        learning_rate=0.01,
        eps=0.5,
        attack_steps=100,
        step_size=0.1,
        images=10_000,
        eval_steps=100,
    ),
}


def transferred(
    config: Config, goal: str, source: Params, models: dict[str, Params], data: networks.Data, seed: int
) -> dict[str, float]:
    """How often each network follows the source's adversarial examples, in percent.

    Untargeted: of the images that a network classifies correctly, the fraction that it misclassifies after the attack.
    Targeted: of the images that it did not assign to the next class, the fraction that it assigns to it after the
    attack.
    """
    images, labels = (array[: config.images] for array in data)
    targeted = goal == "targeted"
    wanted = ((labels + 1) % 10 if targeted else labels).astype(np.int32)
    attack = pgd(l2(), steps=config.eval_steps, random_start=False, targeted=targeted)
    step = jit_attack(attack, networks.network(config).apply)
    run = partial(step, jax.random.key(seed), source, eps=config.eps)
    changed = over_batches(lambda x, y: run(x, y).x, [images, wanted], mesh=data_mesh())

    def rate(name, params):
        net = networks.network(config, name)
        before, after = (networks.predictions(net, params, x) == wanted for x in (images, changed))
        moved = ~before & after if targeted else before & ~after
        return 100 * float(moved.sum() / max(1, (before != targeted).sum()))

    return {name: rate(name, params) for name, params in models.items()}


def one_seed(config: Config, seed: int, data: tuple[networks.Data, networks.Data], folder: Path) -> tuple:
    """Train on D, attack, make D_det, train on it, and test."""
    train, test = data
    source = networks.train(config, seed, train, folder / "source", description=f"source, seed {seed}")
    made = relabelling.construct(config, "D_det", "standard", source, train, seed, folder / "data.npz")
    models, learnt = {}, {}
    for name in config.targets:
        place = folder / name.replace(" ", "-")
        about = f"{name} on D, seed {seed}"
        models[name] = networks.train(config, seed + 100, train, place / "D", name=name, description=about)
        params = relabelling.learn(config, "D_det", made, seed, place / "D_det", name=name)
        learnt[name] = networks.accuracy(networks.network(config, name), params, test)
    clean = {name: networks.accuracy(networks.network(config, name), params, test) for name, params in models.items()}
    numbers: dict[str, Any] = {"clean": clean, "learnt": learnt}
    for goal in GOALS:
        found = transferred(config, goal, source, models, test, seed)
        numbers[goal] = found | {
            "rank correlation": rank_correlation([found[n] for n in found], [learnt[n] for n in found])
        }
    return numbers, {}


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's rank correlation; 0 if one of the two is constant."""
    ranks = np.array([rankdata(a), rankdata(b)])
    centered = ranks - ranks.mean(1, keepdims=True)
    scale = np.sqrt((centered**2).sum(1).prod())
    return float((centered[0] * centered[1]).sum() / scale) if scale else 0.0


def run(config: Config, folder: Path) -> list[common.Row]:
    """Run all seeds, draw the figure, and return the table."""
    relabelling.check(config)
    known = PRESETS["default"].targets
    if len(config.targets) < 3 or not set(config.targets) <= set(known):
        raise ValueError(f"targets must be at least three of {', '.join(known)}; got {', '.join(config.targets)}")
    data = networks.datasets(config)
    runs = []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        runs.append(common.stage(place, partial(one_seed, config, seed, data, place))[0])
    panels = {
        f"test accuracy after training on D_det, %\n({goal}: {which})": {
            name: (np.array([n["learnt"][name] for n in runs]), np.array([n[goal][name] for n in runs]))
            for name in config.targets
        }
        for goal, which in GOALS.items()
    }
    what = f"adversarial examples of the {config.network}, eps {config.eps:g}; a point is a seed"
    chart = figures.scatter_panels(panels, "transfer, %", f"{networks.title(config)}:\n{what}", size=30.0)
    figures.save(chart, folder / "figures" / "transfer.png")
    return rows(config, runs)


def rows(config: Config, runs: list[dict]) -> list[common.Row]:
    """The table; the correlations come first."""
    table = []
    many = f"{len(config.targets)} architectures, source {config.network}"
    for goal, which in GOALS.items():
        values = [n[goal]["rank correlation"] for n in runs]
        name = f"rank correlation of transfer and accuracy learnt from D_det, {goal} ({which})"
        table.append(common.row(name, None, values, "", f"{relabelling.about(config)}; {many}"))
    shares = {
        "untargeted": f"of the first {config.images} test images, those that it gets right, now wrong",
        "targeted": f"of the first {config.images} test images, those not taken for the next class before, now taken",
    }
    for name in config.targets:
        table.append(common.row(f"{name}: accuracy learnt from D_det", None, [n["learnt"][name] for n in runs], "%"))
        for goal in GOALS:
            values = [n[goal][name] for n in runs]
            table.append(common.row(f"{name}: {goal} transfer", None, values, "%", shares[goal]))
        table.append(common.row(f"{name}: accuracy learnt from D", None, [n["clean"][name] for n in runs], "%"))
    return table


EXPERIMENT = common.Experiment(
    name="features_not_bugs/transfer",
    item="P3 figures 3 and 13: transfer of adversarial examples against what is learnt from them",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "16 minutes on 2 CPU cores",
        "planted": "4 minutes",
        "paper": "an accelerator, not run",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)
