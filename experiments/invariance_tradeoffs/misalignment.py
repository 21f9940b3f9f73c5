"""lp distances do not agree with classes: definition 3, lemma 4 and figure 3.

    python -m experiments.invariance_tradeoffs.misalignment [smoke|default] [--dataset digits|mnist|cifar10]

The experiment measures how often an image of another class is at least as near as one of the same class. It also
measures the accuracy of the classifier of lemma 4, which would be exact for an aligned distance. The figure compares
the change to the nearest image of another class with a random change of the same norm.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import common
from invjax import figures
from invjax.analysis import NORMS, beyond_nearest_other, distances, one_point_accuracy, order_violations
from invjax.data import as_float, load


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison of distances and classes."""

    dataset: Literal["digits", "mnist", "cifar10"] = "mnist"
    """Data set of the images."""
    also: tuple[str, ...] = ("cifar10",)
    """Further data sets in the same table."""
    data_dir: str | None = None
    """Folder of the data; by default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    images: int = 500
    """Number of test images; the first ones are used."""
    references: int = 10_000
    """Number of training images; the first ones are used."""
    draws: int = 100
    """Number of random choices of one labelled point for each class."""
    shown: int = 8
    """Number of images in figure 3."""
    seed: int = 0
    """Random seeds of the choices and of the random changes."""


PRESETS = {
    "smoke": Config("digits", also=(), images=40, references=300, draws=20),
    "default": Config(),
}


def random_change(key: jax.Array, x: np.ndarray, length: float) -> np.ndarray:
    """x in [0, 1], moved by l2 `length` along Gaussian noise and still in [0, 1].

    Pixels are clipped to the range, so the noise is scaled up until the clipped change has this length.
    """
    noise = np.asarray(jax.random.normal(key, x.shape))
    low, high = 0.0, 1.0
    moved = lambda scale: np.clip(x + scale * noise, 0, 1)  # noqa: E731
    while np.linalg.norm(moved(high) - x) < length and high < 1e6:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(moved(middle) - x) < length else (low, middle)
    return moved(high)


def one_dataset(config: Config, name: str) -> tuple[dict, dict]:
    """All numbers of one data set, and its images."""
    train, test = (load(name, split, config.data_dir) for split in ("train", "test"))
    x, references = (as_float(d.images[:n], d.levels) for d, n in ((test, config.images), (train, config.references)))
    labels, of_references = test.labels[: config.images], train.labels[: config.references]
    key = jax.random.key(config.seed)
    numbers: dict = {}
    for norm in NORMS:
        found = distances(x, references, norm=norm)
        beyond = beyond_nearest_other(found, labels, of_references)
        numbers[norm] = {
            "violations": float(order_violations(found, labels, of_references).mean()),
            "random": float(beyond.mean()),
            "median": float((beyond > 0.5).mean()),
            "one point": one_point_accuracy(key, found, labels, of_references, draws=config.draws).tolist(),
            "nearest": float((of_references[found.argmin(1)] == labels).mean()),
        }
        if norm == "l2":
            in_l2 = found
    other = np.where(of_references[None] == labels[:, None], np.inf, in_l2).argmin(1)
    lengths = in_l2[np.arange(len(x)), other]
    keys = jax.random.split(jax.random.fold_in(key, 1), len(x))
    noisy = np.stack(
        [random_change(k, image, float(length)) for k, image, length in zip(keys, x, lengths, strict=True)]
    )
    after = of_references[distances(noisy, references, norm="l2").argmin(1)]
    numbers["length"] = float(np.median(lengths))
    numbers["random changes"] = float((after == of_references[in_l2.argmin(1)]).mean())
    s = slice(config.shown)
    return numbers, {"image": x[s], "semantic": references[other[s]], "random": noisy[s], "length": lengths[s]}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Measure, draw the figures, and return the table."""
    names = tuple(dict.fromkeys((config.dataset, *config.also)))
    results = {}
    for name in names:
        numbers, arrays = common.stage(folder / name, partial(one_dataset, config, name))
        results[name] = numbers
        pictures = {
            "image": arrays["image"],
            "nearest of\nanother class": arrays["semantic"],
            "random change,\nsame l2 norm": arrays["random"],
        }
        title = f"{name}: both changes have one l2 norm, {np.median(arrays['length']):.2f} in the median"
        figures.save(figures.image_grid(pictures, title, side=1.0), folder / "figures" / f"perturbations-{name}.png")
    panels = {
        name: {
            norm: {
                "wrong order": [100 * numbers[norm]["violations"]],
                "another class first": [100 * numbers[norm]["random"]],
                "error of lemma 4": [100 - 100 * float(np.mean(numbers[norm]["one point"]))],
            }
            for norm in NORMS
        }
        for name, numbers in results.items()
    }
    chart = figures.bar_panels(panels, "share, %", "an aligned distance has zeros only")
    figures.save(chart, folder / "figures" / "misalignment.png")
    return rows(config, results)


def rows(config: Config, results: dict[str, dict]) -> list[common.Row]:
    """The table; the paper states the misalignment without numbers."""
    table = []
    for name, numbers in results.items():
        for norm in NORMS:
            n, who = numbers[norm], f"{name}, {norm}"
            table += [
                common.row(f"{who}: pairs (same class, other class) in the wrong order", None, [100 * n["violations"]],
                           "%", "0 if aligned"),
                common.row(f"{who}: the nearest of another class is not farther than a random one of its own", None,
                           [100 * n["random"]], "%", "0 if aligned"),
                common.row(f"{who}: images for which it is not farther than the median one of its own", None,
                           [100 * n["median"]], "%", "0 if aligned"),
                common.row(f"{who}: lemma 4, accuracy from one labelled point a class", None,
                           [100 * float(np.mean(n["one point"]))], "%",
                           f"100 if aligned; {100 * min(n['one point']):.0f} to {100 * max(n['one point']):.0f} "
                           f"in {config.draws} choices of the points"),
                common.row(f"{who}: accuracy from all {config.references:,} points", None, [100 * n["nearest"]], "%",
                           "1-NN"),
            ]  # fmt: skip
        table += [
            common.row(f"{name}: l2 distance of the nearest image of another class, median", None,
                       [numbers["length"]], ""),
            common.row(f"{name}: 1-NN decides as before after a random change of that norm", None,
                       [100 * numbers["random changes"]], "%", "figure 3; after the other change it is another class"),
        ]  # fmt: skip
    return table


EXPERIMENT = common.Experiment(
    name="invariance_tradeoffs/misalignment",
    item="P4 definition 3, lemma 4 and figure 3: how far lp distances are from what people see",
    presets=PRESETS,
    times={"smoke": "under a minute", "default": "2 minutes"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)
