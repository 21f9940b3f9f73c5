"""Decision regions of the logits, and of a classifier of the nuisance, on planes: figure 4 of the paper.

    python -m experiments.excessive_invariance.decision_boundaries [smoke|default|paper] [--dataset digits|mnist]

For each seed, the experiment trains a fully invertible RevNet with cross-entropy and a fresh classifier on its
nuisance. It draws the decisions of both on planes through the black image 0 and two other images: an image x and an
image y of another class, or x and its metamer x*, which has the logits of x and the nuisance of y.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.excessive_invariance import classifiers
from experiments.excessive_invariance.metamers import pair_up
from invjax import figures
from invjax.analysis import decision_segment, decision_slice, train_head
from invjax.attacks import metamers
from invjax.data import Dataset, as_float
from invjax.evaluation import over_batches
from invjax.models import mlp
from invjax.types import LogitsFn

CLASSIFIERS = ("logits", "nuisance")
PLANES = ("images", "metamers")
"""The planes through x and y, and through x and its metamer."""


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    """Settings of the decision boundaries."""

    head_epochs: int = 2
    """Number of passes over the training set for the fresh classifier of the nuisance."""
    head_hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers of the fresh classifier of the nuisance."""
    pairs: int = 256
    """Number of pairs of images of different classes, for the fractions of metamers and of lines."""
    discs: int = 64
    """Number of metamers around which decisions are measured; those of the first pairs are used."""
    columns: int = 4
    """Number of planes in a figure."""
    resolution: int = 101
    """Number of points along each side of a plane."""


PRESETS = {
    "smoke": Config(
        "digits",
        train_size=256,
        epochs=1,
        batch_size=64,
        head_epochs=1,
        head_hidden=(32,),
        pairs=8,
        discs=2,
        columns=2,
        resolution=9,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(epochs=50, head_epochs=20, blocks=(16, 16), pairs=1000, discs=1000, resolution=201),
}


def one_model(config: Config, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple[dict, dict]:
    """Train a model and a classifier of its nuisance, then measure both on lines and planes."""
    train, test = data
    mesh = classifiers.mesh_for(config)
    model = classifiers.model_for(config, save_memory=False)
    params = classifiers.train(config, "CE", seed, train, folder)
    head = train_head(
        classifiers.keys_for("CE", seed)[2],
        mlp(model.num_classes, config.head_hidden),
        (np.asarray(classifiers.codes_of(model, params, train, mesh).nuisance), train.labels),
        epochs=config.head_epochs,
        mesh=mesh,
        description=f"seed {seed}, classifier of the nuisance",
    )
    fns: dict[str, LogitsFn] = {
        "logits": jax.jit(partial(model.apply, params)),
        "nuisance": jax.jit(lambda x: head(jnp.asarray(model.encode(params, x)[0].nuisance))),
    }
    images = np.asarray(as_float(test.images[:], train.levels))
    first, second = pair_up(test.labels, min(config.pairs, len(test.labels)))
    x, y = images[first], images[second]
    ends = {"images": y, "metamers": over_batches(jax.jit(partial(metamers, model, params)), [x, y], mesh=mesh)}
    numbers, arrays = {}, {"x": x[: config.columns]} | {plane: end[: config.columns] for plane, end in ends.items()}
    for name, logits_fn in fns.items():
        numbers[name], pictures = measure(config, logits_fn, x, ends)
        wrong = over_batches(logits_fn, [images], mesh=mesh).argmax(-1) != test.labels
        numbers[name]["error"] = float(wrong.mean())
        arrays |= {f"{name}_{key}": value for key, value in pictures.items()}
    return numbers, arrays


def measure(
    config: Config, logits_fn: LogitsFn, x: np.ndarray, ends: dict[str, np.ndarray]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The decisions of one classifier on the lines from each x to its `ends`, and on the planes through them and 0."""
    mesh = classifiers.mesh_for(config)
    lines = {plane: decision_segment(logits_fn, x, end, mesh=mesh).argmax(-1) for plane, end in ends.items()}
    on_x, on_y, on_metamer = lines["images"][:, 0], lines["images"][:, -1], lines["metamers"][:, -1]
    numbers = {
        "metamers": float((on_metamer == on_x).mean()),
        "sources": float((on_metamer == on_y).mean()),
        "lines": float((lines["metamers"] == on_x[:, None]).mean()),
        "plain lines": float((lines["images"] == on_x[:, None]).mean()),
    }
    discs = []
    for image, met, label in zip(x[: config.discs], ends["metamers"], on_x, strict=False):
        radius = float(np.linalg.norm(image - met)) / 4
        found = decision_slice(
            logits_fn, met, image, np.zeros_like(met), extent=[(-radius, radius)] * 2, resolution=21, mesh=mesh
        )
        discs.append((found.labels() == label)[found.disc((0, 0), radius)].mean())
    numbers["discs"] = float(np.mean(discs))
    arrays = {}
    for plane, end in ends.items():
        for i in range(min(config.columns, len(x))):
            found = decision_slice(
                logits_fn, np.zeros_like(x[i]), x[i], end[i], resolution=config.resolution, mesh=mesh
            )
            arrays[f"{plane}_{i}"] = found.labels().astype(np.uint8)
            arrays[f"{plane}_{i}_axes"] = np.stack([found.first_axis, found.second_axis])
            arrays[f"{plane}_{i}_anchors"] = found.anchors
    return numbers, arrays


def picture(config: Config, plane: str, arrays: dict[str, np.ndarray]) -> Any:
    """The figure of one kind of plane."""
    columns = range(len(arrays["x"]))
    names, title, shown = {
        "images": (("0", "x", "y"), "an image x and another, y", ("x", "y")),
        "metamers": (
            ("0", "x", "x*"),
            "an image x and its metamer x*, with the logits of x and the nuisance of y",
            ("x", "x*", "y"),
        ),
    }[plane]
    images = {"x": arrays["x"], "x*": arrays["metamers"], "y": arrays["images"]}
    return figures.decision_slices(
        [tuple(arrays[f"logits_{plane}_{i}_axes"]) for i in columns],
        {f"classifier of the {name}": [arrays[f"{name}_{plane}_{i}"] for i in columns] for name in CLASSIFIERS},
        [dict(zip(names, arrays[f"logits_{plane}_{i}_anchors"], strict=True)) for i in columns],
        [{name: images[name][i] for name in shown} for i in columns],
        f"{config.dataset}, decisions on the planes through the black image 0, {title}",
    )


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train all models, draw the figures, and return the table."""
    data = classifiers.datasets(config)
    numbers = []
    for seed in config.seeds:
        place = folder / f"ce-seed{seed}"
        values, arrays = common.stage(place, partial(one_model, config, seed, data, place))
        numbers.append(values)
        if seed == config.seeds[0]:
            for plane in PLANES:
                figures.save(picture(config, plane, arrays), folder / "figures" / f"slices-{plane}.png")
    return rows(config, numbers)


MEASURES = {
    "metamers": "metamers x* decided as x is",
    "sources": "metamers x* decided as y is, the source of their nuisance",
    "lines": "share of the line from x to x* decided as x is",
    "plain lines": "share of the line from x to y decided as x is",
    "discs": "share of the disc round x* in its plane, a quarter as far as x, decided as x is",
    "error": "test error",
}


def rows(config: Config, numbers: list[dict]) -> list[common.Row]:
    """The table: the fractions that the figure shows."""
    setup = f"{config.epochs} epochs; the figure is published without numbers"
    return [
        common.row(f"classifier of the {name}: {what}", None, [100 * n[name][measure] for n in numbers], "%", setup)
        for measure, what in MEASURES.items()
        for name in CLASSIFIERS
    ]


EXPERIMENT = common.Experiment(
    name="excessive_invariance/decision_boundaries",
    item="P1 figure 4: decision regions of logits and nuisance on planes through images and metamers",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "8 minutes on 2 CPU cores",
        "paper": "an accelerator, not run yet",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)
