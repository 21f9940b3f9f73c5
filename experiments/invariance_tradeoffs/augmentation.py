"""Rotations and shifts in the adversary: their cost in robustness and their gain in agreement. Figures 7 and 8.

    python -m experiments.invariance_tradeoffs.augmentation [smoke|default|paper]

At several radii, networks are trained against linf-PGD alone, and against linf-PGD through the worst of a few rotations
and shifts. The experiment measures their accuracy under both adversaries at the radius of training. It also measures
how often they agree with people on images whose class an linf attack changed.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.invariance_tradeoffs import robust_networks
from invjax import figures

ARMS = {"linf": "linf", "moves": "linf, rotation, shift"}
"""The adversaries: the arm, and its name in the table."""

SETS = ("manual linf 0.4", "linf 0.4")


@dataclasses.dataclass(frozen=True)
class Config(robust_networks.Settings):
    """Settings of the two adversaries."""

    radii: tuple[float, ...] = common.axis((0.0, 0.1, 0.2, 0.3))
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
    "smoke": Config(**robust_networks.SMOKE, radii=(0.0, 0.3), train_tries=2, tries=2, images=32, attack_steps=2),
    "default": Config(),
    "paper": Config(
        **robust_networks.PAPER, radii=(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4), train_tries=10, tries=100,
        images=10_000, attack_steps=100,
    ),
}  # fmt: skip


def trials(config: Config) -> list[dict[str, Any]]:
    """Each radius with each adversary; fewer than two radii raise an error."""
    if len(config.radii) < 2:
        raise ValueError(f"radii must be two or more, the smallest first, to compare its ends; got {config.radii}")
    return common.grid(eps=config.radii, arm=ARMS, seed=config.seeds)


def trial(
    config: Config, data: robust_networks.Datasets, *, eps: float, arm: str, seed: int, folder: Path
) -> dict[str, Any]:  # fmt: skip
    """Train one network, and measure its agreement with people and its accuracy under both adversaries."""
    train, test, human = data
    moves = arm == "moves"
    attack = robust_networks.adversary("linf", config.train_steps, config.train_tries if moves else 0)
    params = robust_networks.train(
        config, config.cnn, attack if eps or moves else None, eps, train, seed=seed, folder=folder
    )
    apply_fn, shown = robust_networks.network(config.cnn).apply, common.first(test, config.images)
    adversaries = {
        "linf": robust_networks.adversary("linf", config.attack_steps),
        "moves": robust_networks.adversary("linf", config.attack_steps, config.tries),
    }
    robust = {
        name: robust_networks.withstands(apply_fn, params, adversary, eps, shown, seed)
        for name, adversary in adversaries.items()
    }
    return robust_networks.seen(apply_fn, params, test, human) | {"robust": robust}


def table(config: Config, results: common.Results) -> Iterator[common.Row]:
    """Both figures as a table; the paper gives no numbers."""
    for of_arm in results.each("arm"):
        smallest, *_, largest = of_arm.each("eps")
        ends = zip(smallest["robust", of_arm.arm], largest["robust", of_arm.arm], strict=True)
        what = f"accuracy under that adversary falls from eps {smallest.eps:g} to {largest.eps:g} by"
        falls = [100 * (before - after) for before, after in ends]
        yield common.row(f"trained on {ARMS[of_arm.arm]}: {what}", None, falls, "points", "published as a curve")
    for at in results.each("eps", "arm"):
        who = f"trained on {ARMS[at.arm]}, eps {at.eps:g}"
        yield common.percent(f"{who}: clean accuracy", None, at["clean"])
        for arm, adversary in ARMS.items():
            yield common.percent(f"{who}: accuracy under {adversary}", None, at["robust", arm])
        yield from robust_networks.agreement_rows(who, at)


def failed(radii: list[common.Results], values: Any) -> tuple[np.ndarray, np.ndarray]:
    """The radius and the value of each network whose clean accuracy is below 50 %; `values [E, seeds]`."""
    low = np.array([at["clean"] for at in radii]) < 0.5
    return np.array([at.eps for at in radii])[low.nonzero()[0]], np.asarray(values)[low]


def draw(config: Config, results: common.Results) -> dict[str, Any]:
    """Figures 7 and 8, with marks for trainings that failed."""
    eps = np.array(results.values("eps"))
    lines = {f"trained on {name}": list(results.select(arm=arm).each("eps")) for arm, name in ARMS.items()}
    accuracy: dict[str, Any] = {}
    agreement: dict[str, Any] = {}
    dots: dict[str, Any] = {}
    crosses: dict[str, Any] = {}
    for arm, adversary in ARMS.items():
        robust = {line: np.array([at["robust", arm] for at in radii]) for line, radii in lines.items()}
        accuracy[f"under {adversary}"] = {line: values.T for line, values in robust.items()}
        dots[f"under {adversary}"] = {line: failed(lines[line], values) for line, values in robust.items()}
    for name in SETS:
        counts = {line: [at["agrees", name] for at in radii] for line, radii in lines.items()}
        fractions = {line: np.array([[a / total for a, total in n] for n in of]) for line, of in counts.items()}
        panel = f"eps of the training, linf\n{robust_networks.IMAGES[name]}"
        agreement[panel] = eps, {line: np.array([*map(robust_networks.interval, of)]) for line, of in counts.items()}
        crosses[panel] = {line: failed(lines[line], values) for line, values in fractions.items()}
    note = "\n({}: networks with a clean accuracy below 50 %)" if min(results["clean"]) < 0.5 else ""
    under_attack = figures.curves(
        eps, accuracy, "eps of the training and of the attack, linf", "accuracy",
        f"Accuracy under attack at the radius of the training, mean and range{note.format('dots')}", dots,
    )  # fmt: skip
    title = f"Agreement with people, mean and 95 % interval{note.format('crosses')}"
    with_people = figures.interval_curves(agreement, "agrees with people", title, crosses)
    return {"accuracy": under_attack, "agreement": with_people}


EXPERIMENT = common.Experiment(
    "invariance_tradeoffs/augmentation",
    "P4 figures 7 and 8: rotation and shift in the adversary, robust accuracy and agreement with people", PRESETS,
    times={"smoke": "a minute", "default": "20 minutes of CPU time", "paper": "an accelerator, not run"},
    trials=trials, trial=trial, table=table, figures=draw, data=robust_networks.datasets,
)  # fmt: skip


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)
