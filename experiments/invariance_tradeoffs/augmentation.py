"""Rotations and shifts in the adversary: their cost in robustness and their gain in agreement. Figures 7 and 8.

    python -m experiments.invariance_tradeoffs.augmentation [smoke|default|paper]

At several radii, networks are trained against linf-PGD alone, and against linf-PGD through the worst of a few rotations
and shifts. The experiment measures their accuracy under both adversaries at the radius of training. It also measures
how often they agree with people on images whose class an linf attack changed.
"""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np

from experiments import common
from experiments.invariance_tradeoffs import robust_networks
from invjax import figures
from invjax.data import Dataset, HumanLabelled

ARMS = {"linf": False, "linf, rotation, shift": True}
"""Whether the adversary moves the image, by name of the training."""

SETS = ("manual linf 0.4", "linf 0.4")


@dataclasses.dataclass(frozen=True)
class Config(robust_networks.Settings):
    """Settings of the two adversaries."""

    radii: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    """Ascending linf radii of training."""
    train_tries: int = 4
    """Number of rotations and shifts from which the adversary chooses in training."""
    tries: int = 10
    """Number of rotations and shifts from which the adversary chooses in the evaluation."""
    images: int = 500
    """Number of test images for the accuracy under attack; the first ones are used."""
    attack_steps: int = 20
    """Number of steps of the attack in the evaluation."""


PRESETS = {
    "smoke": Config(
        train_size=512,
        epochs=1,
        train_steps=1,
        test_size=256,
        radii=(0.0, 0.3),
        train_tries=2,
        tries=2,
        images=32,
        attack_steps=2,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(
        cnn="CNN",
        train_size=None,
        epochs=10,
        batch_size=100,
        learning_rate=1e-3,
        train_steps=40,
        radii=(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4),
        train_tries=10,
        tries=100,
        images=10_000,
        attack_steps=100,
    ),
}


def one_network(
    config: Config, arm: str, eps: float, seed: int, data: tuple[Dataset, Dataset, dict[str, HumanLabelled]],
    folder: Path,
) -> tuple:  # fmt: skip
    """Train one network, and measure its agreement with people and its accuracy under both adversaries."""
    train, test, human = data
    moving = ARMS[arm]
    attack = robust_networks.adversary("linf", config.train_steps, config.train_tries if moving else 0)
    params = robust_networks.train(config, config.cnn, attack if eps or moving else None, eps, seed, train, folder)
    numbers = robust_networks.seen(robust_networks.network(config.cnn).apply, params, test, human)
    shown = robust_networks.first(test, config.images)
    numbers["robust"] = {
        name: robust_networks.withstands(
            config.cnn,
            params,
            robust_networks.adversary("linf", config.attack_steps, config.tries if with_moves else 0),
            eps,
            shown,
            seed,
        )
        for name, with_moves in ARMS.items()
    }
    return numbers, {}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train and measure all networks, draw the figures, and return the table."""
    data = robust_networks.datasets(config)
    results: dict[str, list[list[dict]]] = {}
    for arm, moving in ARMS.items():
        results[arm] = []
        for eps in config.radii:
            runs = []
            for seed in config.seeds:
                place = folder / f"{'moved' if moving else 'linf'}-{eps:g}-seed{seed}"
                runs.append(common.stage(place, partial(one_network, config, arm, eps, seed, data, place))[0])
            results[arm].append(runs)
    draw(config, results, data[2], folder)
    return rows(config, results, data[2])


def draw(config: Config, results: dict, human: dict[str, HumanLabelled], folder: Path) -> None:
    """Figures 7 and 8."""
    radii = np.array(config.radii)
    panels = {
        f"under {adversary}": {
            f"trained on {arm}": np.array([[n["robust"][adversary] for n in runs] for runs in of_arm]).T
            for arm, of_arm in results.items()
        }
        for adversary in ARMS
    }
    title = f"accuracy under attack at the radius of the training; mean and range of {len(config.seeds)} seed(s)"
    chart = figures.curves(radii, panels, "eps of the training and of the attack, linf", "accuracy", title)
    figures.save(chart, folder / "figures" / "accuracy.png")
    agreement = {
        f"eps of the training, linf; on {name}": (
            radii,
            {
                f"trained on {arm}": np.array(
                    [robust_networks.interval(human, name, [n["agrees"][name] for n in runs]) for runs in of_arm]
                )
                for arm, of_arm in results.items()
            },
        )
        for name in SETS
    }
    title = f"agreement with people; mean of {len(config.seeds)} seed(s), 95 % intervals"
    figures.save(figures.interval_curves(agreement, "agrees with people", title), folder / "figures" / "agreement.png")


def rows(config: Config, results: dict, human: dict[str, HumanLabelled]) -> list[common.Row]:
    """Both figures as a table; the paper gives no numbers."""
    table = []
    for arm, of_arm in results.items():
        own = [100 * np.array([n["robust"][arm] for n in runs]) for runs in of_arm]
        what = f"trained on {arm}: accuracy under that adversary falls from eps 0 to {config.radii[-1]:g} by"
        table.append(common.row(what, None, own[0] - own[-1], "points", "published as a curve"))
    for eps, *of_arms in zip(config.radii, *results.values(), strict=True):
        for arm, runs in zip(results, of_arms, strict=True):
            who = f"trained on {arm}, eps {eps:g}"
            table.append(common.row(f"{who}: clean accuracy", None, [100 * n["clean"] for n in runs], "%"))
            for adversary in ARMS:
                values = [100 * n["robust"][adversary] for n in runs]
                table.append(common.row(f"{who}: accuracy under {adversary}", None, values, "%"))
            for name in human:
                agrees = [n["agrees"][name] for n in runs]
                table.append(robust_networks.agreement_row(human, who, name, agrees, None))
    return table


EXPERIMENT = common.Experiment(
    name="invariance_tradeoffs/augmentation",
    item="P4 figures 7 and 8: rotation and shift in the adversary, robust accuracy and agreement with people",
    presets=PRESETS,
    times={"smoke": "a minute", "default": "20 minutes of CPU time", "paper": "an accelerator, not run"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)
