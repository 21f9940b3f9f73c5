"""A task learnt from wrong labels alone, without an attack: Wallace's response to the paper.

    python -m experiments.features_not_bugs.learning_from_errors [smoke|default|paper] [--dataset digits|mnist|cifar10]

A network is trained briefly. A second network is trained on the images that the first one misclassifies, with its
predictions as labels, so every label is wrong. Then a well trained network labels images of another data set, for which
no label can be correct, and another network is trained on these. Both are tested on original images. Wrong labels can
teach a task because they contain information about the model that gave them.

Source: Wallace 2019, *Learning from Incorrectly Labeled Data*, in *A Discussion of "Adversarial Examples Are Not Bugs,
They Are Features"*.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments import common
from experiments.features_not_bugs import networks
from invjax import features, figures
from invjax.data import as_float, load
from invjax.training import data_mesh


@dataclasses.dataclass(frozen=True)
class Config(networks.Settings):
    """Settings of learning from errors."""

    first_epochs: float = 1.0
    """Epochs of the network whose errors are used: a whole number or a fraction of one (published: 2 for CIFAR-10)."""
    foreign: Literal["mnist", "cifar10", "noise"] = "cifar10"
    """Data set of the images of another kind; `noise` draws uniform pixels."""
    foreign_size: int = 20_000
    """Number of images of another kind."""


PRESETS = {
    "smoke": Config(
        "digits",
        network="MLP",
        hidden=(64, 64),
        epochs=30,
        batch_size=64,
        first_epochs=2.0,
        foreign="noise",
        foreign_size=1024,
        seeds=(0,),
    ),
    "default": Config(network="CNN", epochs=10, first_epochs=0.1),
    "paper": Config(
        "cifar10",
        network="ResNet",
        epochs=50,
        optimizer="sgd",
        learning_rate=0.1,
        first_epochs=2.0,
        augment=True,
        foreign="mnist",
    ),
}

PUBLISHED: dict[str, dict[str, float]] = {
    "cifar10": {"first": 63.1, "learnt": 49.7, "errors": 18_768},
    "mnist": {"teacher": 99.1, "pupil": 91.04},
}
"""Accuracies in percent, and how many images the first network got wrong. CIFAR-10: ResNet-18, errors; MNIST: a CNN,
answers on images of FashionMNIST."""


def foreign_images(config: Config, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Images of another kind, with the size and the channels of the task."""
    if config.foreign == "noise":
        return np.random.default_rng(seed).random((config.foreign_size, *shape), np.float32)
    data = load(config.foreign, "train", config.data_dir)
    images = np.asarray(as_float(data.images[: config.foreign_size], data.levels))
    if images.shape[-1] != shape[-1]:
        images = images.mean(-1, keepdims=True).repeat(shape[-1], -1)
    return np.asarray(jax.image.resize(images, (len(images), *shape), "linear")).clip(0, 1)


def one_seed(config: Config, seed: int, data: tuple[networks.Data, networks.Data], folder: Path) -> tuple:
    """Train, collect the errors, train on them, and do the same with images of another kind."""
    train, test = data
    net = networks.network(config)
    apply = jax.jit(net.apply)

    def learn(name, pair, offset):
        about = f"{name}, seed {seed}"
        return networks.train(config, seed + offset, pair, folder / name.replace(" ", "-"), description=about)

    first = early(config, seed, train, folder / "first")
    errors = features.errors_of(partial(apply, first), *train, mesh=data_mesh())
    wrong = train[0][errors.ids], errors.labels
    learnt = learn("from errors", wrong, 1000)

    teacher = learn("teacher", train, 2000)
    foreign = foreign_images(config, train[0].shape[1:], seed)
    answers = networks.predictions(net, teacher, foreign).astype(np.int32)
    pupil = learn("from another kind", (foreign, answers), 3000)
    numbers: dict[str, Any] = {
        name: networks.accuracy(net, params, test)
        for name, params in {"first": first, "learnt": learnt, "teacher": teacher, "pupil": pupil}.items()
    }
    numbers["errors"], numbers["foreign"] = len(errors.ids), len(foreign)
    numbers["pupil agrees"] = networks.accuracy(net, pupil, (foreign, answers))
    numbers["commonest"] = 100 * float(np.bincount(answers).max() / len(answers))
    arrays = {"errors": one_a_class(*wrong), "another kind": one_a_class(foreign, answers)}
    return numbers, arrays


def one_a_class(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The first image of each label, `[10, H, W, C]`; black where there is none."""
    found = np.zeros((10, *images.shape[1:]), images.dtype)
    for label, at in zip(*np.unique(labels, return_index=True), strict=True):
        found[label] = images[at]
    return found


def early(config: Config, seed: int, data: networks.Data, folder: Path) -> Any:
    """The briefly trained network: whole epochs, or one epoch over a part of the images."""
    epochs = max(1, int(config.first_epochs))
    part = len(data[1]) if config.first_epochs >= 1 else max(8, int(config.first_epochs * len(data[1])))
    few = data[0][:part], data[1][:part]
    return networks.train(config, seed, few, folder, epochs=epochs, description=f"first, seed {seed}")


def run(config: Config, folder: Path) -> list[common.Row]:
    """Run all seeds, draw the figures, and return the table."""
    if not config.first_epochs > 0 or not config.foreign_size > 0:
        raise ValueError(
            f"first_epochs and foreign_size must be positive; got {config.first_epochs} and {config.foreign_size}"
        )
    if config.first_epochs > 1 and config.first_epochs % 1:
        raise ValueError(f"first_epochs must be whole, or a part of one; got first_epochs={config.first_epochs}")
    if config.foreign == config.dataset:
        raise ValueError(f"foreign must be other images than the dataset; both are {config.dataset}")
    data = networks.datasets(config)
    runs = []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        runs.append(common.stage(place, partial(one_seed, config, seed, data, place)))
    draw(config, runs, folder / "figures")
    return rows(config, [numbers for numbers, _ in runs])


def draw(config: Config, runs: list[tuple[dict, dict]], folder: Path) -> None:
    """Draw an image of each label, and the accuracies."""
    arrays = runs[0][1]
    pictures = {"errors": arrays["errors"], config.foreign: arrays["another kind"]}
    title = f"{networks.title(config)}: images that were labelled 0, 1, 2, ..., 9"
    figures.save(figures.image_grid(pictures, title), folder / "images.png")
    bars = {
        "errors of a brief training": {"first": "first", "learnt\nfrom its errors": "learnt"},
        f"answers on {config.foreign} images": {"teacher": "teacher", "learnt from\nits answers": "pupil"},
    }
    panels = {
        panel: {name: {"test accuracy": [n[what] for n, _ in runs]} for name, what in of.items()}
        for panel, of in bars.items()
    }
    title = f"{networks.title(config)}: what wrong labels teach; {len(runs)} seed(s)"
    figures.save(figures.bar_panels(panels, "test accuracy, %", title, (10.0, "chance")), folder / "accuracy.png")


def rows(config: Config, runs: list[dict]) -> list[common.Row]:
    """The table."""
    published = {} if config.planted else PUBLISHED.get(config.dataset, {})
    foreign = f"{runs[0]['foreign']:,} {config.foreign} images" + (
        " (published: FashionMNIST)" if "pupil" in published else ""
    )
    part = config.first_epochs
    before = f"{part:g} epochs" if part >= 1 else f"one epoch over {100 * part:g} % of the images"
    table = [
        ("learnt", "learnt from errors alone: test accuracy", "%", f"{networks.about(config)}, {config.epochs} epochs"),
        ("first", "the network that made them: test accuracy", "%", before),
        ("errors", "training images that it gets wrong", "images", ""),
        ("pupil", "learnt from answers on images of another kind: test accuracy", "%", foreign),
        ("teacher", "the network that gave them: test accuracy", "%", f"{config.epochs} epochs"),
        ("pupil agrees", "answers known after training", "%", ""),
        ("commonest", "the commonest answer", "%", ""),
    ]
    return [common.row(name, published.get(key), [n[key] for n in runs], unit, note) for key, name, unit, note in table]


EXPERIMENT = common.Experiment(
    name="features_not_bugs/learning_from_errors",
    item="P3, Wallace's response: a task learnt from a model's errors alone",
    presets=PRESETS,
    times={"smoke": "under a minute", "default": "5 minutes on 2 CPU cores", "paper": "an accelerator, not run"},
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)
