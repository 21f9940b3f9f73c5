"""P2: search for robust architectures; clean accuracy, size and FGSM accuracy of all children.

A random search comes first, then regularised evolution (Real et al. 2018: see `cells`). The reward is the accuracy
under FGSM on images that are held out of the training set. Children are masked networks of one padded shape. So a
generation trains as one population, with half of each batch attacked by step l.l., and the search compiles once. A run
that is killed loses its current generation only. At the end the best cell by reward and the best by clean accuracy are
enlarged and trained longer.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from experiments import common
from experiments.intriguing_properties import populations
from experiments.intriguing_properties.cells import ARMS, POOLED, Child, Search, search, stacked
from invjax import figures
from invjax.attacks import fgsm, linf, pgd
from invjax.data import Dataset
from invjax.models import MaskedNet, masked_cnn

NAMES = {"reward": "FGSM accuracy", "clean": "clean accuracy", "parameters": "number of parameters"}


@dataclasses.dataclass(frozen=True)
class Config:
    data: common.Flat[common.Data] = common.Data()  # The images.
    search: common.Flat[Search] = dataclasses.field(default_factory=Search)  # The search.
    train_images: int = 5000  # Number of images on which children are trained; the first ones of the training set.
    held_out: int = 2000  # Number of images that give the reward; the last ones of the training set.
    train: common.Train = common.Train(epochs=3, batch_size=100, learning_rate=5e-3)
    """Training of the children (paper: 10 epochs); half of each batch is attacked."""
    eps: float = 0.1  # Radius of every attack in linf.
    enlarge: int = 2  # Factor by which the channels of the best cells are enlarged at the end.
    final_images: int = 10_000  # Number of training images of the enlarged cells; the first ones that are not held out.
    final_epochs: int = 3  # Number of passes of the enlarged cells over their images (paper: 100).
    final_learning_rates: tuple[float, ...] = (2e-3, 6e-3)
    """Learning rates of the enlarged cells; the best under FGSM on held-out images is tested (paper: 12 settings)."""
    test_images: int = 2000  # Number of test images; the first ones are used.
    attack_steps: int = 20  # Number of steps of PGD.
    seeds: tuple[int, ...] = common.axis((0,))  # Random seeds of cells, weights and batches; each seed is one search.


PRESETS = {
    "smoke": Config(
        common.Data("digits"), Search(2, (2, 4), random=8, evolved=4, generation=4, alive=6, tournament=3),
        train_images=400, held_out=200, train=common.Train(2, 20, 2e-2), final_images=1000, final_epochs=2,
        final_learning_rates=(2e-2,), test_images=200, attack_steps=5,
    ),
    "paper": Config(
        search=Search(3, (8, 16, 32, 64), (3, 5), 4800, 4800, generation=48, alive=240, tournament=24),
        train_images=50_000, held_out=10_000, train=common.Train(10, 100, 5e-3), enlarge=4, final_images=50_000,
        final_epochs=100, final_learning_rates=(3e-4, 1e-3, 2e-3, 4e-3), test_images=10_000, attack_steps=40,
    ),
}  # fmt: skip


def trials(config: Config):
    config.search.check()
    return common.grid(seed=config.seeds)


def datasets(config: Config):
    """The training and the test set, where the images of the children and the held-out ones must not overlap."""
    train, test = config.data.load()
    if config.train_images + config.held_out > len(train.labels):
        raise ValueError(
            f"train_images and held_out must be at most the {len(train.labels)} training images together; got "
            f"{config.train_images} and {config.held_out}; lower one of them"
        )
    return train, test


def network(settings: Search, times: int = 1) -> MaskedNet:
    """The padded network that contains every cell with `times` as many channels."""
    return masked_cnn(10, times * max(settings.channels), settings.layers, max(settings.kernels), POOLED)


def evaluator(config: Config, data: Dataset, seed: int) -> Callable[..., list[Child]]:
    """Make the function that trains and judges a generation for `search`; all generations are compiled once."""
    net = network(config.search)
    train = populations.cell_trainer(net, common.first(data, config.train_images), config.eps, config.train)
    judged, held_out = (
        populations.judge(net, {"FGSM": fgsm(linf())}, config.eps),
        populations.in_batches(data, slice(-config.held_out, None)),
    )

    def evaluate(cells, arm, number):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), ARMS.index(arm)), number)
        train_key, judge_key = jax.random.split(key)
        architectures, rates = stacked(cells), [config.train.learning_rate] * len(cells)
        found = judged(train(architectures, rates, train_key, seed, f"{arm} {number}"), *held_out, judge_key)
        children = zip(
            cells, populations.sizes_of(net, architectures, data), found["clean"], found["FGSM"], strict=True
        )
        return [
            {"arm": arm, "cell": cell, "parameters": size, "clean": float(clean), "reward": float(reward)}
            for cell, size, clean, reward in children
        ]

    return evaluate


def enlarged(config: Config, data: tuple[Dataset, Dataset], seed: int, children: list[Child], folder: Path) -> dict:
    """Enlarge the best cells by reward and by clean accuracy, train them longer, and test them."""
    train, test = data
    net, count = network(config.search, config.enlarge), min(config.final_images, len(train.labels) - config.held_out)
    best = {by: max(children, key=lambda child: child[by])["cell"] for by in ("reward", "clean")}
    settings = [(by, rate) for by in best for rate in config.final_learning_rates]
    architectures, rates = stacked([best[by] for by, _ in settings], config.enlarge), [rate for _, rate in settings]
    train_key, held_key, test_key = jax.random.split(jax.random.key(seed), 3)
    longer = dataclasses.replace(config.train, epochs=config.final_epochs)
    train_all = populations.cell_trainer(net, common.first(train, count), config.eps, longer)
    trained = train_all(architectures, rates, train_key, seed, "the best, enlarged", folder)
    judged = populations.judge(net, {"FGSM": fgsm(linf()), "PGD": pgd(linf(), steps=config.attack_steps)}, config.eps)
    held = judged(trained, *populations.in_batches(train, slice(-config.held_out, None)), held_key)
    tested = judged(trained, *populations.in_batches(test, slice(config.test_images)), test_key)
    sizes, numbers = populations.sizes_of(net, architectures, train), {}
    for by, cell in best.items():
        i = max((i for i in range(len(rates)) if settings[i][0] == by), key=lambda i: held["FGSM"][i])
        accuracies = {name: float(values[i]) for name, values in tested.items()}
        numbers[by] = {"cell": cell, "learning_rate": rates[i], "parameters": sizes[i], "test": accuracies}
    return numbers


def trial(config: Config, data, *, seed, folder):
    children = search(config.search, seed, folder, evaluator(config, data[0], seed))
    return {"children": children, "enlarged": enlarged(config, data, seed, children, folder / "enlarged")}


def columns(children: list[Child]) -> dict[str, dict[str, np.ndarray]]:
    """The numbers of all children and of those of each arm; accuracies in percent."""
    factors = {"clean": 100, "reward": 100, "parameters": 1}
    groups = {"all": children} | {arm: [child for child in children if child["arm"] == arm] for arm in ARMS}
    return {
        group: {name: factor * np.array([child[name] for child in chosen]) for name, factor in factors.items()}
        for group, chosen in groups.items()
    }


def draw(config: Config, results):
    """Of the first seed: accuracy under FGSM against clean accuracy and size."""
    groups, panels = columns(results["children"][0]), {}
    for name, unit in (("clean", ", %"), ("parameters", "")):
        found = populations.rank_correlation(groups["all"][name], groups["all"]["reward"])
        correlation = "" if found is None else f"\nrank correlation {found:.2f}"
        panels[NAMES[name] + unit + correlation] = {arm: (groups[arm][name], groups[arm]["reward"]) for arm in ARMS}
    title = f"FGSM accuracy, clean accuracy and size of {len(groups['all']['reward'])} cells, {config.data.dataset}"
    return {"cells": figures.scatter_panels(panels, f"FGSM accuracy, eps = {config.eps:g}, %", title)}


def rows_of(config: Config, children: list[Child], finals: dict) -> Iterator[common.Row]:
    groups = columns(children)
    for group, label in (("all", "all children"), ("random", "random search only")):
        reward = groups[group]["reward"]
        for name, finding in (("clean", "strong"), ("parameters", "almost none")):
            found = populations.rank_correlation(groups[group][name], reward)
            if found is not None:
                row = f"rank correlation of FGSM accuracy and {NAMES[name]}, {label}"
                yield common.row(row, [found], "", f"published: {finding}; {len(reward)} cells")
    clean, reward = groups["all"]["clean"], groups["all"]["reward"]
    upper, top = clean >= np.median(clean), np.argsort(reward, stable=True)[-max(len(children) // 10, 1) :]
    row = "best tenth by FGSM accuracy: of above-median clean accuracy"
    yield common.percent(row, [upper[top].mean()], "published: high clean accuracy necessary")
    row = "cells of above-median clean accuracy: lowest FGSM accuracy"
    yield common.row(row, [reward[upper].min()], "%", "published: not sufficient")
    yield common.row("the same: highest FGSM accuracy", [reward[upper].max()], "%")
    for arm in ARMS:
        reward = groups[arm]["reward"]
        differs = f"{len(reward)} cells of {config.train.epochs} epochs, held-out images"
        differs += f"; bred from {config.search.alive} random ones" if arm == "evolved" else ""
        yield common.row(f"{arm}: best FGSM accuracy", [reward.max()], "%", differs)
        yield common.row(f"{arm}: median FGSM accuracy", [np.median(reward)], "%")
    differs = f"channels x {config.enlarge}, {config.final_epochs} epochs, {config.test_images} test images"
    for by in ("reward", "clean"):
        for name, value in finals[by]["test"].items():
            attacked = "clean accuracy" if name == "clean" else f"accuracy under {name}, eps = {config.eps:g}"
            yield common.percent(f"best cell by {NAMES[by]}, enlarged: {attacked}", [value], differs)
        yield common.row(f"best cell by {NAMES[by]}, enlarged: parameters", [finals[by]["parameters"]])


def table(config: Config, results):
    searches = zip(results["children"], results["enlarged"], strict=True)
    return populations.over_seeds(rows_of(config, children, finals) for children, finals in searches)


EXPERIMENT = common.experiment(__name__, "18 minutes beside other work")
