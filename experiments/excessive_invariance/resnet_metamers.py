"""Metamers of a network that is not invertible, compared with exact ones: figures 5 and 9 of the paper.

    python -m experiments.excessive_invariance.resnet_metamers [smoke|default|paper] [--dataset digits|mnist|cifar10]

A ResNet and a fully invertible RevNet are trained with cross-entropy. The inverse of the RevNet gives exact metamers.
Metamers of the ResNet need a search. It starts from the image whose content they keep and moves towards the logits of
another image, with values in [0, 1]. The same search on the RevNet shows which errors are due to the search.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.excessive_invariance import classifiers
from experiments.excessive_invariance.metamers import pair_up
from invjax import figures
from invjax.analysis import reading
from invjax.attacks import feature_adversary, metamers
from invjax.data import Dataset, as_float
from invjax.evaluation import over_batches
from invjax.models import resnet
from invjax.types import Net, Params

NETS = ("fi-RevNet", "ResNet")
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    """Settings of the search for metamers."""

    channels: tuple[int, ...] = (16, 32, 64)
    """Channels of the stages of the ResNet; each stage has one block."""
    resnet_epochs: int = 2
    """Number of passes of the ResNet over the training set."""
    resnet_learning_rate: float = 3e-3
    """Learning rate of Adam for the ResNet, with the same warm-up and decay."""
    pairs: int = 128
    """Number of metamers that are measured."""
    eps: float = 8.0
    """Radius of the search in l2; two MNIST digits are about 10 apart."""
    steps: int = 400
    """Number of gradient steps of the search."""
    tolerance: float = 0.05
    """Largest difference of a logit for an image to count as a metamer."""
    columns: int = 8
    """Number of metamers in figure 5, and in a row of figure 9."""


PRESETS = {
    "smoke": Config(
        "digits",
        train_size=256,
        blocks=(1, 1),
        epochs=4,
        batch_size=64,
        channels=(8,),
        resnet_epochs=4,
        pairs=16,
        eps=4.0,
        steps=40,
        columns=4,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(epochs=50, blocks=(16, 16), channels=(64, 128, 256, 512), resnet_epochs=20, pairs=1024, steps=1000),
}


def network(config: Config) -> Net:
    """The ResNet of the configured widths."""
    return resnet(10, config.channels, (1,) * len(config.channels))


def searched(config: Config, apply_fn: Any, params: Params, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Images in [0, 1], searched from `second`, whose logits are close to those of `first`."""

    @jax.jit
    def search(first, second):
        logits_fn = partial(apply_fn, params)
        found = feature_adversary(
            logits_fn, second, logits_fn(first), eps=config.eps, steps=config.steps, tolerance=config.tolerance
        )
        return found.x

    return over_batches(search, [first, second], batch_size=BATCH, mesh=classifiers.mesh_for(config))


def residual(apply_fn: Any, params: Params, wanted: np.ndarray, images: np.ndarray, second: np.ndarray) -> dict:
    """The distance of the logits of `images` from those of `wanted`, and of the images from `second`."""
    logits = jax.jit(partial(apply_fn, params))
    target, start, found = (np.asarray(logits(x)) for x in (wanted, second, images))
    return {
        "error": np.abs(found - target).max(1).tolist(),
        "before": np.abs(start - target).max(1).tolist(),
        "distance": np.sqrt(((images - second) ** 2).sum((1, 2, 3))).tolist(),
    }


def one_seed(config: Config, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple[dict, dict]:
    """Train both networks, and make and measure the metamers of the same pairs for both."""
    train, test = data
    mesh, levels = classifiers.mesh_for(config), train.levels
    model, net = classifiers.model_for(config, save_memory=False), network(config)
    params = {
        "fi-RevNet": classifiers.train(config, "CE", seed, train, folder / "fi-revnet"),
        "ResNet": classifiers.train_network(
            config,
            net,
            "ResNet",
            seed,
            train,
            folder / "resnet",
            epochs=config.resnet_epochs,
            learning_rate=config.resnet_learning_rate,
        ),
    }
    apply: dict[str, Any] = {"fi-RevNet": model.apply, "ResNet": net.apply}
    first, second = (
        np.asarray(as_float(test.images[ids], levels))
        for ids in pair_up(test.labels, min(config.pairs, len(test.labels)))
    )
    exact = np.asarray(jax.jit(partial(metamers, model))(params["fi-RevNet"], first, second))
    made = {
        "fi-RevNet, inverse": exact,
        "fi-RevNet, inverse, clipped to [0, 1]": exact.clip(0, 1),
        "fi-RevNet, search": searched(config, model.apply, params["fi-RevNet"], first, second),
        "ResNet, search": searched(config, net.apply, params["ResNet"], first, second),
    }
    numbers: dict[str, Any] = {"made": {}, "test_error": {}}
    for name in NETS:
        logits = jax.jit(lambda x, name=name: apply[name](params[name], as_float(x, levels)))
        numbers["test_error"][name] = reading(over_batches(logits, [test.images], mesh=mesh), test.labels).error
    arrays = {"first": first, "second": second}
    for way, images in made.items():
        name = way.partition(",")[0]
        numbers["made"][way] = residual(apply[name], params[name], first, images, second)
    for name, way in (("fi-RevNet", "fi-RevNet, inverse"), ("ResNet", "ResNet, search")):
        logits = jax.jit(partial(apply[name], params[name]))
        arrays |= {
            f"{name} metamers": made[way],
            f"{name} logits": np.asarray(logits(first)),
            f"{name} metamer logits": np.asarray(logits(made[way])),
        }
    return numbers, arrays


def draw(config: Config, arrays: dict[str, np.ndarray], folder: Path) -> None:
    """Figure 5 for both networks, and figure 9: the next metamers, without a selection."""
    n = config.columns
    for name, way in (("fi-RevNet", "exact, by the inverse"), ("ResNet", "approximate, by search")):
        grid = figures.metamer_grid(
            arrays["first"][:n],
            arrays[f"{name} metamers"][:n],
            arrays["second"][:n],
            arrays[f"{name} logits"][:n],
            arrays[f"{name} metamer logits"][:n],
            title=f"{config.dataset}, {name}: the logits of row 1, {way}; everything else from row 3",
        )
        figures.save(grid, folder / f"metamers-{name.lower()}.png")
        images = arrays[f"{name} metamers"][n:] if len(arrays["first"]) > 2 * n else arrays[f"{name} metamers"]
        lines = min(8, len(images) // n)
        rows = {f"{1 + i * n}–{(i + 1) * n}": images[i * n : (i + 1) * n] for i in range(lines)}
        batch = figures.image_grid(rows, f"{config.dataset}, {name}: a batch of metamers, none left out")
        figures.save(batch, folder / f"batch-{name.lower()}.png")


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train all networks, draw the figures, and return the table."""
    data = classifiers.datasets(config)
    numbers = []
    for seed in config.seeds:
        place = folder / f"seed{seed}"
        values, arrays = common.stage(place, partial(one_seed, config, seed, data, place))
        numbers.append(values)
        if seed == config.seeds[0]:
            draw(config, arrays, folder / "figures")
    return rows(config, numbers)


def rows(config: Config, numbers: list[dict]) -> list[common.Row]:
    """The table: remaining logit errors of each way to make a metamer."""
    of = f"{config.pairs} pairs of test images of different classes"
    search = f"published without number; {config.steps} steps in l2, eps {config.eps:g}, values in [0, 1]"
    table = []
    for way in numbers[0]["made"]:
        seen = [n["made"][way] for n in numbers]
        differs = search if "search" in way else f"published as exact; {of}"
        if "clipped" in way:
            differs = "clipping gives up exactness"
        for name, reduce in (("median", np.median), ("largest", np.max)):
            values = [float(reduce(one["error"])) for one in seen]
            table.append(common.row(f"{way}: logit error of a metamer, {name}", None, values, "", differs))
        shares = [100 * float(np.mean(np.array(one["error"]) <= config.tolerance)) for one in seen]
        table.append(common.row(f"{way}: metamers with all logits within {config.tolerance:g}", None, shares, "%"))
        distances = [float(np.mean(one["distance"])) for one in seen]
        table.append(common.row(f"{way}: l2 distance from the nuisance source, mean", None, distances, ""))
    for name, way in zip(NETS, ("fi-RevNet, search", "ResNet, search"), strict=True):
        apart = [float(np.median(n["made"][way]["before"])) for n in numbers]
        table.append(common.row(f"{name}: logit difference of the two images, median", None, apart, "", of))
        errors = [100 * n["test_error"][name] for n in numbers]
        table.append(common.row(f"{name}: test error", None, errors, "%"))
    return table


EXPERIMENT = common.Experiment(
    name="excessive_invariance/resnet_metamers",
    item="P1 figures 5 and 9: logit metamers of a ResNet, approximate, beside exact ones of an invertible net",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "14 minutes on 2 CPU cores",
        "paper": "an accelerator, not run yet",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)
