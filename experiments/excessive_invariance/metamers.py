"""Exact logit metamers, and the information about the class in the nuisance: figures 1 and 5 and the MNIST table.

    python -m experiments.excessive_invariance.metamers [smoke|default|paper] [--dataset digits|mnist|cifar10]

For cross-entropy (CE) and independence cross-entropy (iCE) and for each seed, the experiment trains a fully invertible
RevNet. It makes images with the logits of one image and the nuisance of another, measures how exact they are, and
trains fresh classifiers on the nuisance.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.excessive_invariance import classifiers
from experiments.excessive_invariance.published import MNIST_ERRORS
from invjax import figures
from invjax.analysis import fresh_head, reading
from invjax.attacks import metamers
from invjax.data import Dataset, as_float
from invjax.evaluation import over_batches
from invjax.losses import bits_per_dim, dequantize
from invjax.models import mlp, mnist_cnn

HEADS = {"linear": mlp(10, ()), "MLP": mlp(10, (512, 512)), "conv": mnist_cnn(10, (8, 16), 128)}
"""The fresh classifiers of the nuisance."""
KEPT = 10
"""Number of metamers that are kept for the figure."""


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    """Settings of the metamer experiment."""

    ice: common.Flat[classifiers.Ice] = classifiers.ICE
    """Independence cross-entropy."""
    head_epochs: int = 2
    """Number of passes over the training set for each fresh classifier of the nuisance."""
    pairs: int = 256
    """Number of metamers whose exactness is measured (64 of them also in float64)."""
    columns: int = common.for_figures(8)
    """Number of metamers in the figure, at most 10."""


PRESETS = {
    "smoke": Config(
        common.Data("digits", train_size=256), (1, 1), common.Train(1, 64, 4e-3),
        ice=classifiers.Ice(critic_hidden=(32,)), head_epochs=1, pairs=16, columns=4, seeds=(0,),
    ),
    "default": Config(),
    "paper": Config(blocks=(16, 16), train=common.Train(50, 128, 4e-3), head_epochs=20),
}  # fmt: skip


def exactness(model: Any, params: Any, first: np.ndarray, second: np.ndarray) -> tuple[dict, dict]:
    """Metamers with the logits of `first` and the nuisance of `second`, and their errors in the current precision."""

    @jax.jit
    def measure(params, first, second):
        made, rebuilt = metamers(model, params, first, second), model.decode(params, model.encode(params, first)[0])
        return made, rebuilt, model.apply(params, first), model.apply(params, made)

    dtype = jnp.result_type(float)
    params, first, second = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), (params, first, second))
    made, rebuilt, logits, again = measure(params, first, second)
    numbers = {"logit_error": float(abs(logits - again).max()), "round_trip": float(abs(rebuilt - first).max())}
    arrays = {"logits_from": first, "metamers": made, "nuisance_from": second, "logits": logits}
    return numbers, {name: np.asarray(kept[:KEPT]) for name, kept in (arrays | {"metamer_logits": again}).items()}


def trial(config: Config, data: tuple[Dataset, Dataset], *, loss: str, seed: int, folder: Path) -> tuple[dict, dict]:
    """Train with one loss and one seed, then measure the model."""
    (train, test), mesh = data, common.mesh_for(config.train.batch_size)
    model, key = classifiers.model_for(config.data.dataset, config.blocks), classifiers.keys_for(loss, seed)[2]
    ice = config.ice if loss == "iCE" else None
    params = classifiers.train(model, train, config.train, ice, seed=seed, folder=folder)

    @jax.jit
    def bits(images):
        x = dequantize(key, as_float(images, test.levels), test.levels)
        return bits_per_dim(*model.encode(params, x), test.levels)

    codes = [classifiers.codes_of(model, params, split, mesh) for split in data]
    numbers: dict[str, Any] = {
        "test_error": reading(np.asarray(codes[1].logits), test.labels).error,
        "bits_per_dim": float(over_batches(bits, [test.images], mesh=mesh).mean()),
    }
    nuisance = [(np.asarray(code.nuisance), split.labels) for code, split in zip(codes, data, strict=True)]
    # the conv head reads the nuisance as an image: the image with this nuisance and logits of zero
    pictures = [(classifiers.nuisance_pictures(model, params, values, mesh), labels) for values, labels in nuisance]
    for head, net in HEADS.items():
        examples = pictures if head == "conv" else nuisance
        name = f"{loss}, seed {seed}, fresh {head} head"
        read = fresh_head(key, net, *examples, epochs=config.head_epochs, mesh=mesh, description=name)["test"]
        numbers[head] = read._asdict()
    images = np.asarray(as_float(test.images[:], test.levels))
    first, second = (images[ids] for ids in classifiers.pair_up(test.labels, config.pairs))
    numbers["float32"], arrays = exactness(model, params, first, second)
    with jax.enable_x64(True):
        numbers["float64"], _ = exactness(model, params, first[:64], second[:64])
    return numbers, arrays


def table(config: Config, results: common.Results) -> Iterator[common.Row]:
    """Errors with the published ones, information, and exactness."""
    goal = {key: errors["test"] for key, errors in MNIST_ERRORS.items() if config.data.dataset == "mnist"}
    setup = f"{config.train.epochs} epochs, no padding to 32x32, DCT readout"
    fresh = f"a fresh head, {config.head_epochs} epochs; the training of the published one is not given"
    for at in results.each("loss"):
        name = f"{at.loss}: test error of the logits"
        yield common.percent(name, goal.get((at.loss, "logits")), at["test_error"], setup)
        for head in HEADS:
            name, differs = (
                f"{at.loss}: test error of a fresh {head} head on the nuisance",
                fresh if head == "MLP" else "",
            )
            yield common.percent(name, goal.get((at.loss, head)), at[head, "error"], differs)
        name = f"{at.loss}: information about the class left in the nuisance, the best head's bound"
        yield common.row(name, None, np.max([at[head, "information"] for head in HEADS], axis=0), "nats of 2.303")
    yield common.row("iCE: test bits per dimension", None, results.select(loss="iCE")["bits_per_dim"], "bits")
    measures = {"logit_error": "max logit error of the metamers", "round_trip": "max round-trip error"}
    for at in results.each("loss"):
        for precision in ("float32", "float64"):
            for key, what in measures.items():
                yield common.row(f"{at.loss}: {what}, {precision}", None, at[precision, key], "", "published as exact")


def draw(config: Config, results: common.Results) -> dict[str, Any]:
    """Figure 5 for both losses, and the errors of all fresh classifiers."""
    charts, panels, dataset = {}, {}, config.data.dataset
    published = {loss: {reader: {"": errors["test"]} for (of, reader), errors in MNIST_ERRORS.items() if of == loss}
                 for loss in classifiers.LOSSES if dataset == "mnist"}  # fmt: skip
    for at in results.each("loss"):
        title = f"{dataset}, trained with {at.loss}: the logits of row 1, everything else from row 3"
        arrays = {name: values[: config.columns] for name, values in at.arrays().items()}
        charts[f"metamers-{at.loss.lower()}"] = figures.metamer_grid(**arrays, title=title)
        errors = {"logits": at["test_error"], **{head: at[head, "error"] for head in HEADS}}
        panels[at.loss] = {reader: {"": [100 * error for error in seen]} for reader, seen in errors.items()}
    title = f"{dataset}: how well the logits, and fresh classifiers of the nuisance, tell the class"
    chart = figures.bar_panels(panels, "test error, % (chance: 90 %)", title, published=published)
    return {**charts, "nuisance-readings": chart}


EXPERIMENT = common.Experiment(
    "excessive_invariance/metamers",
    "P1 figures 1 and 5, and the MNIST table: exact logit metamers, and class information left in the nuisance",
    PRESETS,
    {"smoke": "half a minute", "default": "16 minutes on 2 CPU cores", "paper": "an accelerator, not run yet"},
    trials=lambda config: common.grid(loss=classifiers.LOSSES, seed=config.seeds),
    trial=trial, table=table, figures=draw,
)  # fmt: skip


if __name__ == "__main__":
    common.use_all_cores()
    common.main(EXPERIMENT)
