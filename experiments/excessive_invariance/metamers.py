"""Exact logit metamers, and the information about the class in the nuisance: figures 1 and 5 and the MNIST table.

    python -m experiments.excessive_invariance.metamers [smoke|default|paper] [--dataset digits|mnist|cifar10]

For cross-entropy (CE) and independence cross-entropy (iCE) and for each seed, the experiment trains a fully invertible
RevNet. It makes images with the logits of one image and the nuisance of another, measures how exact they are, and
trains fresh classifiers on the nuisance.
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
from invjax import figures
from invjax.analysis import fresh_head, reading
from invjax.attacks import metamers
from invjax.data import Dataset, as_float
from invjax.evaluation import over_batches
from invjax.losses import bits_per_dim, dequantize
from invjax.models import InvertibleClassifier, mlp, mnist_cnn
from invjax.types import Net

SPLITS = ("train", "test")
HEADS = ("linear", "MLP", "conv")
PUBLISHED = {"CE logits": 0.39, "iCE logits": 0.38, "CE nuisance": 0.34, "iCE nuisance": 27.70}
"""Test errors in % on MNIST: Jacobsen et al. 2019, the MNIST table."""


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    """Settings of the metamer experiment."""

    head_epochs: int = 2
    """Number of passes over the training set for each fresh classifier of the nuisance."""
    pairs: int = 256
    """Number of metamers whose exactness is measured (64 of them also in float64)."""
    columns: int = 8
    """Number of metamers in the figure."""


PRESETS = {
    "smoke": Config(
        "digits",
        train_size=256,
        epochs=1,
        batch_size=64,
        critic_hidden=(32,),
        head_epochs=1,
        pairs=16,
        columns=4,
        seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(epochs=50, head_epochs=20, blocks=(16, 16)),
}


def exactness(model: InvertibleClassifier, params: Any, first: np.ndarray, second: np.ndarray) -> tuple[dict, dict]:
    """Metamers with the logits of `first` and the nuisance of `second`, and their errors in the current precision."""

    @jax.jit
    def measure(params, first, second):
        made = metamers(model, params, first, second)
        logits, again = model.apply(params, first), model.apply(params, made)
        rebuilt = model.decode(params, model.encode(params, first)[0])
        return made, logits, again, jnp.abs(logits - again).max(), jnp.abs(rebuilt - first).max()

    dtype = jnp.result_type(float)
    params, first, second = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), (params, first, second))
    made, logits, again, logit_error, round_trip = measure(params, first, second)
    numbers = {"logit_error": float(logit_error), "round_trip": float(round_trip)}
    arrays = {
        "logits_from": first,
        "nuisance_from": second,
        "metamers": made,
        "logits": logits,
        "metamer_logits": again,
    }
    return numbers, {name: np.asarray(value, np.float32) for name, value in arrays.items()}


def pair_up(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `count` pairs of images of different classes; the first image cycles through the classes."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    by_class = {c: list(order[labels[order] == c]) for c in np.unique(labels)}
    classes = sorted(by_class)
    members = [by_class[classes[i % len(classes)]] for i in range(count)]
    first = [ids[i // len(classes) % len(ids)] for i, ids in enumerate(members)]  # fmt: skip
    second = [rng.choice(np.flatnonzero(labels != labels[i])) for i in first]
    return np.array(first), np.array(second)


def one_model(config: Config, loss: str, seed: int, data: tuple[Dataset, Dataset], folder: Path) -> tuple:
    """Train with one loss and one seed, then measure the model."""
    train, test = data
    mesh, levels = classifiers.mesh_for(config), train.levels
    model = classifiers.model_for(config, save_memory=False)
    head_key = classifiers.keys_for(loss, seed)[2]
    params = classifiers.train(config, loss, seed, train, folder)
    codes = {name: classifiers.codes_of(model, params, split, mesh) for name, split in zip(SPLITS, data, strict=True)}
    pictures = {
        name: classifiers.nuisance_pictures(model, params, np.asarray(code.nuisance), mesh)
        for name, code in codes.items()
    }

    @jax.jit
    def bits(images):
        return bits_per_dim(*model.encode(params, dequantize(head_key, as_float(images, levels), levels)), levels)

    numbers: dict[str, Any] = {
        "train_error": reading(np.asarray(codes["train"].logits), train.labels).error,
        "test_error": reading(np.asarray(codes["test"].logits), test.labels).error,
        "bits_per_dim": float(over_batches(bits, [test.images], mesh=mesh).mean()),
    }
    nets: dict[str, tuple[Net, dict[str, Any]]] = {
        "linear": (mlp(model.num_classes, ()), {name: code.nuisance for name, code in codes.items()}),
        "MLP": (mlp(model.num_classes, (512, 512)), {name: code.nuisance for name, code in codes.items()}),
        # the conv head reads the nuisance as an image: the image with this nuisance and logits of zero
        "conv": (mnist_cnn(model.num_classes, (8, 16), 128), pictures),
    }
    for name in HEADS:
        net, features = nets[name]
        read = fresh_head(
            head_key,
            net,
            (features["train"], train.labels),
            (features["test"], test.labels),
            epochs=config.head_epochs,
            mesh=mesh,
            description=f"{loss}, seed {seed}, fresh {name} head",
        )
        numbers[name] = {split: value._asdict() for split, value in read.items()}

    first, second = pair_up(test.labels, min(config.pairs, len(test.labels)))
    images = np.asarray(as_float(test.images[:], levels))
    numbers["float32"], arrays = exactness(model, params, images[first], images[second])
    with jax.enable_x64(True):
        numbers["float64"], _ = exactness(model, params, images[first[:64]], images[second[:64]])
    return numbers, {name: value[: config.columns] for name, value in arrays.items()}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train all models, draw the figures, and return the table."""
    data = classifiers.datasets(config)
    numbers: dict[str, list[dict]] = {loss: [] for loss in classifiers.LOSSES}
    for loss in classifiers.LOSSES:
        for seed in config.seeds:
            place = folder / f"{loss.lower()}-seed{seed}"
            compute = partial(one_model, config, loss, seed, data, place)
            values, arrays = common.stage(place, compute)
            numbers[loss].append(values)
            if seed == config.seeds[0]:
                title = f"{config.dataset}, trained with {loss}: the logits of row 1, everything else from row 3"
                figures.save(
                    figures.metamer_grid(**arrays, title=title), folder / "figures" / f"metamers-{loss.lower()}.png"
                )
    errors = {
        loss: {head: [n[head]["test"]["error"] for n in numbers[loss]] for head in HEADS} for loss in classifiers.LOSSES
    }
    chart = figures.readings(
        errors, chance=0.9, title=f"{config.dataset}: what fresh classifiers read from the nuisance"
    )
    figures.save(chart, folder / "figures" / "nuisance-readings.png")
    return rows(config, numbers)


def rows(config: Config, numbers: dict[str, list[dict]]) -> list[common.Row]:
    """The table: errors with the published ones, information, and exactness."""
    published = PUBLISHED if config.dataset == "mnist" else {}
    setup = f"{config.epochs} epochs, no padding to 32x32, DCT readout"
    table = []
    for loss in classifiers.LOSSES:
        runs = numbers[loss]
        table.append(
            common.row(
                f"{loss}: test error of the logits",
                published.get(f"{loss} logits"),
                [100 * n["test_error"] for n in runs],
                "%",
                setup,
            )
        )
        for head in HEADS:
            table.append(
                common.row(
                    f"{loss}: test error of a fresh {head} head on the nuisance",
                    published.get(f"{loss} nuisance") if head == "MLP" else None,
                    [100 * n[head]["test"]["error"] for n in runs],
                    "%",
                    f"a fresh head, {config.head_epochs} epochs; the training of the published one is not given"
                    if head == "MLP"
                    else "",
                )
            )
        table.append(
            common.row(
                f"{loss}: information about the class left in the nuisance, the best head's bound",
                None,
                [max(n[head]["test"]["information"] for head in HEADS) for n in runs],
                "nats of 2.303",
            )
        )
    table.append(common.row("iCE: test bits per dimension", None, [n["bits_per_dim"] for n in numbers["iCE"]], "bits"))
    for loss in classifiers.LOSSES:
        for precision in ("float32", "float64"):
            for measure, name in (
                ("logit_error", "max logit error of the metamers"),
                ("round_trip", "max round-trip error"),
            ):
                values = [n[precision][measure] for n in numbers[loss]]
                table.append(common.row(f"{loss}: {name}, {precision}", None, values, "", "published as exact"))
    return table


EXPERIMENT = common.Experiment(
    name="excessive_invariance/metamers",
    item="P1 figures 1 and 5, and the MNIST table: exact logit metamers, and class information left in the nuisance",
    presets=PRESETS,
    times={
        "smoke": "under a minute",
        "default": "16 minutes on 2 CPU cores",
        "paper": "an accelerator, not run yet",
    },
    run=run,
)


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)
