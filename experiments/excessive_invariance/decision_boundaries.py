"""P1 figure 4: decision regions of logits and nuisance on planes through images and metamers.

For each seed, the experiment trains a fully invertible RevNet with cross-entropy and a fresh classifier on its
nuisance. It draws the decisions of both on planes through the black image 0 and two other images: an image x and an
image y of another class, or x and its metamer x*, which has the logits of x and the nuisance of y.
"""

import dataclasses
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import common
from experiments.excessive_invariance import classifiers
from invjax import figures
from invjax.analysis import decision_segment, decision_slice, train_head
from invjax.attacks import metamers
from invjax.evaluation import over_batches
from invjax.models import mlp
from invjax.types import LogitsFn

CLASSIFIERS = ("logits", "nuisance")
PLANES = {
    "images": (("0", "x", "y"), "the black image 0, an image x and an image y of another class"),
    "metamers": (("0", "x", "x*"), "the black image 0, x and its metamer x*: logits of x, nuisance of y"),
}
"""By the end of the lines from x: the names of the three points of a plane, and what they go through."""
KEPT = 4  # number of planes that are kept for the figure


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    head_epochs: int = 2  # Number of passes over the training set for the fresh classifier of the nuisance.
    head_hidden: tuple[int, ...] = (512, 512)  # Widths of the hidden layers of the fresh classifier of the nuisance.
    pairs: int = 256  # Number of pairs of images of different classes, for the fractions of metamers and of lines.
    discs: int = 64  # Number of metamers around which decisions are measured; those of the first pairs are used.
    resolution: int = 101  # Number of points along each side of a plane.
    columns: int = common.for_figures(3)  # Number of planes in a figure, at most 4.


PRESETS = {
    "smoke": Config(
        common.Data("digits", train_size=256), (1, 1), common.Train(1, 64, 4e-3),
        head_epochs=1, head_hidden=(32,), pairs=8, discs=2, resolution=9, columns=2, seeds=(0,),
    ),
    "paper": Config(
        blocks=(16, 16), train=common.Train(50, 128, 4e-3), head_epochs=20, pairs=1000, discs=1000, resolution=201
    ),
}  # fmt: skip


def trial(config: Config, data, *, seed, folder):
    (train, test), mesh, model = data, config.mesh, config.model
    params = classifiers.train(config, "CE", train, seed=seed, folder=folder)
    nuisance = np.asarray(classifiers.codes_of(config, params, train).nuisance)
    head = train_head(
        classifiers.keys_for("CE", seed)[2], mlp(model.num_classes, config.head_hidden), (nuisance, train.labels),
        epochs=config.head_epochs, mesh=mesh, description="classifier of the nuisance",
    )  # fmt: skip
    fns: dict[str, LogitsFn] = {
        "logits": jax.jit(partial(model.apply, params)),
        "nuisance": jax.jit(lambda x: head(jnp.asarray(model.encode(params, x)[0].nuisance))),
    }
    images = common.images_of(test)
    pairs = classifiers.pair_up(test.labels, config.pairs)
    x, y = (images[ids] for ids in pairs)
    ends = {"images": y, "metamers": over_batches(jax.jit(partial(metamers, model, params)), [x, y], mesh=mesh)}
    numbers: dict[str, Any] = {}
    arrays = {"x": x[:KEPT], **{plane: end[:KEPT] for plane, end in ends.items()}}
    arrays |= {f"{name}_label": test.labels[ids[:KEPT]] for name, ids in zip("xy", pairs, strict=True)}
    for name, logits_fn in fns.items():
        wrong = over_batches(logits_fn, [images], mesh=mesh).argmax(-1) != test.labels
        discs = on_discs(logits_fn, x[: config.discs], ends["metamers"], mesh)
        numbers[name] = on_lines(logits_fn, x, ends, mesh) | {"discs": discs, "error": float(wrong.mean())}
        for plane, end in ends.items():
            slices = [
                decision_slice(logits_fn, np.zeros_like(a), a, b, resolution=config.resolution, mesh=mesh)
                for a, b in zip(x[:KEPT], end, strict=False)
            ]
            arrays[f"{plane}_{name}"] = np.stack([s.labels() for s in slices]).astype(np.uint8)
            arrays[f"{plane}_axes"] = np.stack([(s.first_axis, s.second_axis) for s in slices])
            arrays[f"{plane}_points"] = np.stack([s.anchors for s in slices])
    return numbers, arrays


def on_lines(logits_fn: LogitsFn, x: np.ndarray, ends: dict[str, np.ndarray], mesh: Mesh) -> dict[str, float]:
    """The decisions of a classifier on the lines from each x to its `ends`."""
    lines = {plane: decision_segment(logits_fn, x, end, mesh=mesh).argmax(-1) for plane, end in ends.items()}
    on_x, on_y, on_metamer = lines["images"][:, 0], lines["images"][:, -1], lines["metamers"][:, -1]
    return {
        "metamers": float((on_metamer == on_x).mean()),
        "sources": float((on_metamer == on_y).mean()),
        "lines": float((lines["metamers"] == on_x[:, None]).mean()),
        "plain lines": float((lines["images"] == on_x[:, None]).mean()),
    }


def on_discs(logits_fn: LogitsFn, x: np.ndarray, made: np.ndarray, mesh: Mesh) -> float:
    """The fraction of the disc round each metamer, in the plane through 0, x and x*, that is decided as x is."""
    decided = over_batches(logits_fn, [x], mesh=mesh).argmax(-1)
    fractions = []
    for image, metamer, label in zip(x, made, decided, strict=False):
        radius = float(np.linalg.norm(image - metamer)) / 4
        square, black = [(-radius, radius)] * 2, np.zeros_like(metamer)
        found = decision_slice(logits_fn, metamer, image, black, extent=square, resolution=21, mesh=mesh)
        fractions.append((found.labels() == label)[found.disc((0, 0), radius)].mean())
    return float(np.mean(fractions))


MEASURES = {
    "metamers": "metamers x* decided as x is",
    "sources": "metamers x* decided as y is, the source of their nuisance",
    "lines": "share of the line from x to x* decided as x is",
    "plain lines": "share of the line from x to y decided as x is",
    "discs": "share of the disc round x* in its plane, a quarter as far as x, decided as x is",
    "error": "test error",
}


def table(config: Config, results):
    setup = f"{config.train.epochs} epochs; the figure is published without numbers"
    for (key, what), name in product(MEASURES.items(), CLASSIFIERS):
        yield common.percent(f"classifier of the {name}: {what}", results[name, key], setup)


def draw(config: Config, results):
    arrays, charts = results.arrays(config.columns), {}
    for plane, (names, title) in PLANES.items():
        images = [
            {f"x, a {x}": image, **({"x*": end} if plane == "metamers" else {}), f"y, a {y}": other}
            for image, end, other, x, y in zip(
                *(arrays[key] for key in ("x", plane, "images", "x_label", "y_label")), strict=True
            )
        ]
        charts[f"slices-{plane}"] = figures.decision_slices(
            [tuple(axes) for axes in arrays[f"{plane}_axes"]],
            {f"classifier of the {name}": list(arrays[f"{plane}_{name}"]) for name in CLASSIFIERS},
            [dict(zip(names, points, strict=True)) for points in arrays[f"{plane}_points"]],
            images,
            f"{config.data.dataset}: decisions on planes through {title}",
        )
    return charts


EXPERIMENT = common.experiment(__name__, "8 minutes on 2 CPU cores")
