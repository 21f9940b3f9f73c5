"""P4 definition 3, lemma 4 and figure 3: how far lp distances are from what people see.

The experiment measures how often an image of another class is at least as near as one of the same class. It also
measures the accuracy of the classifier of lemma 4, which would be exact for an aligned distance. The figure compares
the change to the nearest image of another class with a random change of the same norm.
"""

import dataclasses
from typing import Any, Literal

import jax
import numpy as np

from experiments import common
from invjax import figures
from invjax.analysis import NORMS, beyond_nearest_other, distances, one_point_accuracy, order_violations

CIFAR10 = ["airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
DRAWN = 16  # number of images that a trial keeps for the figure


@dataclasses.dataclass(frozen=True)
class Config:
    data: common.Flat[common.Data] = common.Data("mnist", train_size=10_000, test_size=500)
    """The images: distances go from each test image to all training images."""
    also: tuple[Literal["digits", "mnist", "cifar10"], ...] = common.axis(("cifar10",))  # Further data sets.
    draws: int = 100  # Number of random choices of one labelled point for each class.
    shown: int = common.for_figures(8)  # Number of images in figure 3, at most 16.
    seeds: tuple[int, ...] = common.axis((0,))  # Random seeds of the choices and of the random changes.


PRESETS = {"smoke": Config(common.Data("digits", train_size=300, test_size=40), also=(), draws=20)}


def trials(config: Config):
    return common.grid(dataset=dict.fromkeys((config.data.dataset, *config.also)), seed=config.seeds)


def datasets(config: Config):
    """The training and the test set of each data set."""
    return {name: dataclasses.replace(config.data, dataset=name).load() for name in (config.data.dataset, *config.also)}


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


def trial(config: Config, data, *, dataset, seed, folder):
    (references, of_references), (x, labels) = map(common.arrays_of, data[dataset])
    key = jax.random.key(seed)
    found = {norm: distances(x, references, norm=norm) for norm in NORMS}
    numbers: dict[str, Any] = {"references": len(references)}
    for norm, of_norm in found.items():
        beyond = beyond_nearest_other(of_norm, labels, of_references)
        order = order_violations(of_norm, labels, of_references)
        one_point = one_point_accuracy(key, of_norm, labels, of_references, draws=config.draws)
        numbers[norm] = {
            "violations": float(order.wrong.mean()),
            "ties": float(order.tied.mean()),
            "random": float(beyond.mean()),
            "median": float((beyond > 0.5).mean()),
            "one point": float(np.mean(one_point)),
            "of choices": [float(one_point.min()), float(one_point.max())],
            "nearest": float((of_references[of_norm.argmin(1)] == labels).mean()),
        }
    other = np.where(of_references[None] == labels[:, None], np.inf, found["l2"]).argmin(1)
    lengths = found["l2"][np.arange(len(x)), other]
    keys = jax.random.split(jax.random.fold_in(key, 1), len(x))
    noisy = np.stack([random_change(*change) for change in zip(keys, x, lengths.tolist(), strict=True)])
    after = of_references[distances(noisy, references, norm="l2").argmin(1)]
    numbers["length"] = float(np.median(lengths))
    numbers["random changes"] = float((after == of_references[found["l2"].argmin(1)]).mean())
    arrays = {"image": x, "semantic": references[other], "random": noisy, "length": lengths,
              "label": labels, "other": of_references[other], "after": after}  # fmt: skip
    return numbers, {name: values[:DRAWN] for name, values in arrays.items()}


ROWS = {
    "violations": ("pairs (same class, other class) in the wrong order", "0 if aligned"),
    "ties": ("pairs (same class, other class) at the same distance", "0 if aligned"),
    "random": ("the nearest of another class is not farther than a random one of its own", "0 if aligned"),
    "median": ("images for which it is not farther than the median one of its own", "0 if aligned"),
    "one point": ("lemma 4, accuracy from one labelled point a class",
                  "100 if aligned; {:.0f} to {:.0f} in {} choices of the points"),
    "nearest": ("accuracy from all {:,} points", "1-NN"),
}  # fmt: skip
"""The rows of each norm: the key, the name, and the note."""


def table(config: Config, results):
    for at in results.each("dataset"):
        for norm in NORMS:
            ends, references = 100 * at[norm, "of choices"], at["references"][0]
            for key, (what, note) in ROWS.items():
                what, note = what.format(references), note.format(ends.min(), ends.max(), config.draws)
                yield common.percent(f"{at.dataset}, {norm}: {what}", at[norm, key], note)
        yield common.row(f"{at.dataset}: l2 distance of the nearest image of another class, median", at["length"])
        what, note = "1-NN decides as before after a random change", "after the other change it is another class"
        yield common.percent(f"{at.dataset}: {what} of that norm", at["random changes"], f"figure 3; {note}")


def draw(config: Config, results):
    bars, charts = {}, {}
    for at in results.each("dataset"):
        bars[at.dataset] = {
            norm: {
                "pairs in the wrong order": 100 * at[norm, "violations"],
                "pairs at the same distance": 100 * at[norm, "ties"],
                "own class not nearer than another": 100 * at[norm, "random"],
                "error of lemma 4": 100 - 100 * at[norm, "one point"],
            }
            for norm in NORMS
        }
        kept = at.arrays(config.shown)
        images, others, noisy = "image", "nearest of\nanother class", "random change,\nsame l2 norm"
        rows = {images: kept["image"], others: kept["semantic"], noisy: kept["random"]}
        classes = CIFAR10 if at.dataset == "cifar10" else [f"class {k}" for k in range(10)]
        captions = {
            images: [classes[k] for k in kept["label"]],
            others: [f"{classes[k]}, l2 {length:.1f}" for k, length in zip(kept["other"], kept["length"], strict=True)],
            noisy: [f"1-NN: {classes[k]}" for k in kept["after"]],
        }
        title = f"{at.dataset}: a change to another class, and noise of the same l2 norm"
        charts[f"perturbations-{at.dataset}"] = figures.image_grid(rows, title, 1.0, captions)
    title = "No lp distance is aligned with the classes\n(all bars of an aligned one would be 0)"
    return charts | {"misalignment": figures.bar_panels(bars, "fraction, %", title)}


EXPERIMENT = common.experiment(__name__, "2 minutes")
