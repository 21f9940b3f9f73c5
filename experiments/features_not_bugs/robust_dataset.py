"""Robustness from the data alone: figure 2 and tables 7 and 8 of the paper.

    python -m experiments.features_not_bugs.robust_dataset [smoke|default|planted|paper] [--dataset ...]

Training images are rebuilt from the representation of a robust model (D_R) and of a standard model (D_NR). The
inversion starts from other images or from noise. Networks with standard training on these images are attacked, and so
are the two models.

The default preset uses a part of CIFAR-10 and a small network. MNIST has few useful features that are not robust, and
without a planted feature small networks are no more robust after training on D_R than on D. The preset `planted`
therefore adds one: a faint pattern of the class.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.features_not_bugs import networks
from invjax import features, figures
from invjax.models import penultimate
from invjax.training import data_mesh


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    """Settings of the robust data set."""

    steps: int = 100
    """Number of steps of the inversion from images."""
    step_size: float = 0.2
    """Length of a step of the inversion in l2."""
    starts: tuple[str, ...] = ("images",)
    """Starting points of the inversion: images, noise, or both."""
    noise_steps: int = 100
    """Number of steps of the inversion from noise."""
    epsilons: tuple[float, ...] = (0.5, 1.0)
    """Ascending radii in l2 at which accuracy is measured."""
    shown: int = 8
    """Number of images in the figure."""


PRESETS = {
    "smoke": Config(
        "digits",
        train_size=1024,
        network="MLP",
        hidden=(64, 64),
        epochs=20,
        robust_epochs=20,
        batch_size=64,
        train_eps=0.6,
        steps=30,
        starts=("images", "noise"),
        noise_steps=30,
        epsilons=(0.6,),
        images=64,
        eval_steps=5,
        ensemble_images=0,
        seeds=(0,),
    ),
    "default": Config(
        **networks.SMALL,
        train_size=6000,
        robust_epochs=8,
        train_eps=0.75,
        steps=80,
        step_size=0.25,
        epsilons=(0.25, 0.5),
        ensemble_images=50,
    ),
    "planted": Config(
        planted=0.5,
        train_size=6000,
        network="MLP",
        hidden=(256, 256),
        steps=400,
        starts=("images", "noise"),
        noise_steps=400,
        epsilons=(0.5, 0.75),
    ),
    "paper": Config(
        **networks.PAPER,
        **networks.ROBUST_PAPER,
        steps=1000,
        step_size=0.1,
        starts=("images", "noise"),
        noise_steps=10_000,
        epsilons=(0.25, 0.5),
        images=10_000,
        ensemble_images=1000,
        ensemble_steps=100,
        queries=5000,
    ),
}

PUBLISHED: dict[str, dict[float, float]] = {
    "standard": {0: 95.25, 0.25: 4.49, 0.5: 0.0},
    "robust": {0: 90.83, 0.25: 82.48, 0.5: 70.90},
    "D_R": {0: 85.40, 0.25: 48.20, 0.5: 21.85},
    "D_NR": {0: 87.68, 0.25: 0.82, 0.5: 0.0},
    "D_R from noise": {0: 84.10, 0.25: 48.27, 0.5: 29.40},
    "D_NR from noise": {0: 45.60, 0.25: 1.50, 0.5: 0.0},
}
"""Table 7, ResNet-50 on CIFAR-10: accuracy in percent by eps, under PGD."""

PUBLISHED_SPLITS = {0.25: {"D_R, training images": 77.33, "D_R, test images": 62.49, "original test images": 48.27}}
"""Table 8, the same model, by eps."""

SHORT = {"robust": "D_R", "standard": "D_NR"}
"""The names of the data sets, by the model that made them."""


def arm_of(source: str, start: str) -> str:
    """The name of a constructed data set."""
    return SHORT[source] + (" from noise" if start == "noise" else "")


def construct(
    config: Config, source: str, start: str, params: Any, data: networks.Data, seed: int, path: Path
) -> features.Constructed:
    """Make one data set, or read it from `path`."""
    return features.robust_dataset(
        jax.random.key(seed),
        penultimate(networks.network(config)),
        params,
        *data,
        steps=config.steps if start == "images" else config.noise_steps,
        step_size=config.step_size,
        start=start,
        metadata={"data": config.dataset, "source": source, "network": config.network},
        path=path,
        mesh=data_mesh(),
        description=f"{arm_of(source, start)}, seed {seed}",
    )


def one_seed(config: Config, seed: int, data: tuple[networks.Data, networks.Data], folder: Path) -> tuple:
    """Train the sources, make the data sets, train on them, and attack all networks."""
    train, test = data
    net = networks.network(config)
    models = networks.sources(config, seed, train, folder)
    arrays, distances, splits = {"D": train[0][: config.shown]}, {}, {}
    for source in networks.SOURCES:
        for start in config.starts:
            arm = arm_of(source, start)
            place = folder / arm.replace(" ", "-")
            made = construct(config, source, start, models[source], train, seed, place / "data.npz")
            arrays[arm] = made.images[: config.shown]
            if start == "images":
                arrays["started from"] = train[0][made.details["start"][: config.shown]]
            distances[arm] = float(np.median(made.details["distance"]))
            pair = made.images, made.labels
            models[arm] = networks.train(config, seed + 1000, pair, place, description=f"{arm}, seed {seed}")
            if arm == "D_R":
                few = test[0][: config.images], test[1][: config.images]
                held = construct(config, source, start, models[source], few, seed, place / "test.npz")
                for name, which in (
                    ("D_R, training images", pair),
                    ("D_R, test images", (held.images, held.labels)),
                    ("original test images", test),
                ):
                    cheap = dataclasses.replace(config, ensemble_images=0)
                    attacked = networks.robust_accuracy(cheap, models[arm], which, config.epsilons[:1], seed=seed)
                    splits[name] = attacked["PGD"][0]
    numbers = {
        "clean": {arm: networks.accuracy(net, params, test) for arm, params in models.items()},
        "attacked": {
            arm: networks.robust_accuracy(config, params, test, config.epsilons, seed=seed)
            for arm, params in models.items()
        },
        "distance": distances,
        "splits": splits,
    }
    return numbers, arrays


def run(config: Config, folder: Path) -> list[common.Row]:
    """Run all seeds, draw the figures, and return the table."""
    if not config.starts or not set(config.starts) <= {"images", "noise"}:
        raise ValueError(f"starts must be some of images, noise; got {', '.join(config.starts) or 'none'}")
    if not config.epsilons or list(config.epsilons) != sorted(config.epsilons):
        raise ValueError(f"epsilons must ascend, at least one; got {config.epsilons}")
    data = networks.datasets(config)
    runs = []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        numbers, arrays = common.stage(place, partial(one_seed, config, seed, data, place))
        runs.append((numbers, arrays))
    draw(config, runs, folder / "figures")
    return rows(config, [numbers for numbers, _ in runs])


def draw(config: Config, runs: list[tuple[dict, dict]], folder: Path) -> None:
    """Draw figure 2: the images, and the accuracies."""
    arrays = runs[0][1]
    order = ["D", "D_R", "D_NR", "started from", "D_R from noise", "D_NR from noise"]
    pictures = {name: arrays[name] for name in order if name in arrays}
    figures.save(
        figures.image_grid(
            {name.replace(" from ", "\nfrom "): images for name, images in pictures.items()},
            f"{networks.title(config)}: the images, rebuilt from representations",
        ),
        folder / "images.png",
    )
    measures = {"clean": [n["clean"] for n, _ in runs]}
    for i, eps in enumerate(config.epsilons):
        measures[f"PGD, eps {eps:g}"] = [
            {arm: found["PGD"][i] for arm, found in n["attacked"].items()} for n, _ in runs
        ]
    arms = {"original images": {"D": "standard", "D, robust\ntraining": "robust"}}
    for start in config.starts:
        arms[f"rebuilt from {start}"] = {name: arm_of(source, start) for source, name in SHORT.items()}
    panels = {
        panel: {
            name: {what: [by_arm[arm] for by_arm in values] for what, values in measures.items()}
            for name, arm in groups.items()
        }
        for panel, groups in arms.items()
    }
    title = f"{networks.title(config)}: test accuracy by training set; mean of {len(config.seeds)} seed(s)"
    figures.save(figures.bar_panels(panels, "accuracy, %", title), folder / "accuracy.png")


def rows(config: Config, runs: list[dict]) -> list[common.Row]:
    """The table: the claim of the paper first, then tables 7 and 8."""
    published, splits = PUBLISHED, PUBLISHED_SPLITS.get(config.epsilons[0], {})
    if not networks.comparable(config):
        published, splits = {arm: {} for arm in PUBLISHED}, {}
    last = len(config.epsilons) - 1
    table = []

    def gain(i):
        return [n["attacked"]["D_R"]["PGD"][i] - n["attacked"]["standard"]["PGD"][i] for n in runs]

    differs = f"{networks.about(config)}, {config.steps} steps of {config.step_size:g}"
    if "images" in config.starts:
        for i, eps in enumerate(config.epsilons):
            number = published["D_R"][eps] - published["standard"][eps] if eps in published["D_R"] else None
            name = f"robust accuracy gained by training on D_R instead of D, PGD, eps {eps:g}"
            table.append(common.row(name, number, gain(i), "%", differs if not i else ""))
    for arm in runs[0]["clean"]:
        what = f"model {arm}" if arm in networks.SOURCES else f"trained on {arm}"
        table.append(common.row(f"{what}: accuracy", published[arm].get(0), [n["clean"][arm] for n in runs], "%"))
        for attack in runs[0]["attacked"][arm]:
            for i, eps in enumerate(config.epsilons):
                number = published[arm].get(eps) if attack == "PGD" else None
                few = config.ensemble_images if attack == "ensemble" else config.images
                note = f"{few} images" if i == last else ""
                values = [n["attacked"][arm][attack][i] for n in runs]
                table.append(common.row(f"{what}: accuracy under {attack}, eps {eps:g}", number, values, "%", note))
        if arm in runs[0]["distance"]:
            values = [n["distance"][arm] for n in runs]
            table.append(common.row(f"{arm}: distance of the representations, median", None, values, "relative"))
    for name in runs[0]["splits"]:
        values = [n["splits"][name] for n in runs]
        what = f"trained on D_R: accuracy under PGD, eps {config.epsilons[0]:g}, {name}"
        table.append(common.row(what, splits.get(name), values, "%"))
    return table


EXPERIMENT = common.Experiment(
    name="features_not_bugs/robust_dataset",
    item="P3 figure 2, tables 7 and 8: robust accuracy from a robust data set",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "20 minutes on 2 CPU cores",
        "planted": "4 minutes",
        "paper": "an accelerator, not run",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)
