"""Robust accuracy against eps under five attacks, on a plain and an adversarially trained network.

    python -m experiments.sensitivity.curves [smoke|default|paper] [--dataset digits|mnist]

Each curve needs one compilation. Each radius attacks only the images that are still correct.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments import common
from experiments.sensitivity import networks
from invjax import figures
from invjax.attacks import Attack, Threat, apgd, fgsm, l2, linf, pgd, square, step_ll
from invjax.data import Dataset, as_float
from invjax.evaluation import Options, robustness_curve
from invjax.losses import dlr
from invjax.training import data_mesh


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    """Settings of the robustness curves."""

    images: int = 256
    """Number of test images; the first ones are used."""
    attack_steps: int = 20
    """Number of steps of PGD and Auto-PGD."""
    queries: int = 300
    """Number of queries of the random search."""
    points: int = 11
    """Number of radii on each curve, from 0."""
    largest: tuple[float, float] = (0.4, 4.0)
    """Largest radii of the curves in linf and in l2."""


PRESETS = {
    "smoke": Config(
        "digits",
        channels=(8,),
        dense=16,
        epochs=1,
        batch_size=64,
        train_eps=0.1,
        train_steps=2,
        images=16,
        attack_steps=3,
        queries=10,
        points=3,
        largest=(0.2, 1.0),
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(channels=(32, 64), dense=1024, epochs=30, train_steps=40, images=10_000, points=41, queries=5000),
}


def attacks_for(config: Config) -> dict[str, Callable[[Threat], Attack]]:
    """The attacks, by name."""
    return {
        "step l.l.": step_ll,
        "FGSM": fgsm,
        "Square": partial(square, queries=config.queries),
        "PGD": partial(pgd, steps=config.attack_steps),
        "Auto-PGD (DLR)": partial(apgd, steps=config.attack_steps, loss=dlr),
    }


def one_network(config: Config, kind: str, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple:
    """Train one network and measure its curves."""
    train, test = data
    params = networks.train(config, train, kind, seed, folder)
    apply_fn = networks.network(config).apply
    images = np.asarray(as_float(test.images[: config.images], test.levels))
    labels = np.asarray(test.labels[: config.images])
    numbers: dict[str, dict[str, list[float]]] = {}
    arrays = {}
    for threat, largest in zip((linf(), l2()), config.largest, strict=True):
        numbers[threat.name] = {}
        for name, attack_for in attacks_for(config).items():
            place = folder / "curves" / f"{threat.name}-{name.replace(' ', '-')}"
            curve = robustness_curve(
                jax.random.key(seed),
                attack_for(threat),
                apply_fn,
                params,
                images,
                labels,
                epsilons=np.linspace(0, largest, config.points).tolist(),
                options=Options(mesh=data_mesh(), directory=place),
            )
            numbers[threat.name][name] = curve.accuracy().tolist()
            arrays[f"{threat.name}_radii"] = curve.epsilons
    return numbers, arrays


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train and measure all networks, draw the figures, and return the table."""
    data = networks.datasets(config)
    numbers: dict[str, list[dict]] = {kind: [] for kind in networks.TRAININGS}
    for kind in networks.TRAININGS:
        for seed in config.seeds:
            place = folder / f"{kind}-seed{seed}"
            values, arrays = common.stage(place, partial(one_network, config, kind, seed, data, place))
            numbers[kind].append(values)
        for norm in ("linf", "l2"):
            radii = arrays[f"{norm}_radii"]
            of_seeds = {name: np.array([n[norm][name] for n in numbers[kind]]) for name in attacks_for(config)}
            chart = figures.robustness_curves(
                {name: (radii, values.mean(0)) for name, values in of_seeds.items()},
                f"{config.dataset}, {kind} training: mean and range of {len(config.seeds)} seed(s)",
                f"radius eps, {norm}",
                {name: (values.min(0), values.max(0)) for name, values in of_seeds.items()},
            )
            figures.save(chart, folder / "figures" / f"{kind}-{norm}.png")
    return rows(config, numbers)


def rows(config: Config, numbers: dict[str, list[dict]]) -> list[common.Row]:
    """The table: the mean robust accuracy over the radii, which is the area under a curve."""
    return [
        common.row(
            f"{kind}: mean robust accuracy over {norm} radii up to {largest:g}, {name}",
            None,
            [100 * np.mean(n[norm][name]) for n in runs],
            "%",
        )
        for kind, runs in numbers.items()
        for norm, largest in zip(("linf", "l2"), config.largest, strict=True)
        for name in attacks_for(config)
    ]


EXPERIMENT = common.Experiment(
    name="sensitivity/curves",
    item="robust accuracy against eps under five attacks, linf and l2",
    presets=PRESETS,
    times={
        "smoke": "85 seconds on 2 busy CPU cores",
        "default": "not run to its end yet",
        "paper": "an accelerator, not run",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)
