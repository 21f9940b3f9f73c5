"""P1 figures 1 and 5, and the MNIST table: exact logit metamers, and class information left in the nuisance.

For cross-entropy (CE) and independence cross-entropy (iCE) and for each seed, the experiment trains a fully invertible
RevNet. It makes images with the logits of one image and the nuisance of another, measures how exact they are, and
trains fresh classifiers on the nuisance.
"""

import dataclasses
from itertools import product
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
from invjax.data import as_float
from invjax.evaluation import over_batches
from invjax.losses import bits_per_dim, dequantize
from invjax.models import mlp, mnist_cnn

HEADS = {"linear": mlp(10, ()), "MLP": mlp(10, (512, 512)), "conv": mnist_cnn(10, (8, 16), 128)}
"""The fresh classifiers of the nuisance."""
KEPT = 10  # number of metamers that are kept for the figure


@dataclasses.dataclass(frozen=True)
class Config(classifiers.Settings):
    ice: common.Flat[classifiers.Ice] = classifiers.ICE  # Independence cross-entropy.
    head_epochs: int = 2  # Number of passes over the training set for each fresh classifier of the nuisance.
    pairs: int = 256  # Number of metamers whose exactness is measured (64 of them also in float64).
    columns: int = common.for_figures(8)  # Number of metamers in the figure, at most 10.


PRESETS = {
    "smoke": Config(
        common.Data("digits", train_size=256), (1, 1), common.Train(1, 64, 4e-3),
        ice=classifiers.Ice(critic_hidden=(32,)), head_epochs=1, pairs=16, columns=4, seeds=(0,),
    ),
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


def trial(config: Config, data, *, loss, seed, folder):
    (train, test), model, key = data, config.model, classifiers.keys_for(loss, seed)[2]
    params = classifiers.train(config, loss, train, seed=seed, folder=folder)

    @jax.jit
    def bits(images):
        x = dequantize(key, as_float(images, test.levels), test.levels)
        return bits_per_dim(*model.encode(params, x), test.levels)

    codes = [classifiers.codes_of(config, params, split) for split in data]
    numbers: dict[str, Any] = {
        "test_error": reading(np.asarray(codes[1].logits), test.labels).error,
        "bits_per_dim": float(over_batches(bits, [test.images], mesh=config.mesh).mean()),
    }
    nuisance = [(np.asarray(code.nuisance), split.labels) for code, split in zip(codes, data, strict=True)]
    # the conv head reads the nuisance as an image: the image with this nuisance and logits of zero
    pictures = [(classifiers.nuisance_pictures(config, params, values), labels) for values, labels in nuisance]
    for head, net in HEADS.items():
        options: Any = {"epochs": config.head_epochs, "mesh": config.mesh, "description": f"fresh {head} head"}
        numbers[head] = fresh_head(key, net, *(pictures if head == "conv" else nuisance), **options)["test"]._asdict()
    first, second = (common.images_of(test, ids) for ids in classifiers.pair_up(test.labels, config.pairs))
    numbers["float32"], arrays = exactness(model, params, first, second)
    with jax.enable_x64(True):
        numbers["float64"], _ = exactness(model, params, first[:64], second[:64])
    return numbers, arrays


def table(config: Config, results):
    goal = {key: errors["test"] for key, errors in MNIST_ERRORS.items() if config.data.dataset == "mnist"}
    setup = f"{config.train.epochs} epochs, no padding to 32x32, DCT readout"
    fresh = f"a fresh head, {config.head_epochs} epochs; the training of the published one is not given"
    for at in results.each("loss"):
        name = f"{at.loss}: test error of the logits"
        yield common.percent(name, at["test_error"], setup, published=goal.get((at.loss, "logits")))
        for head in HEADS:
            name, known = f"{at.loss}: test error of a fresh {head} head on the nuisance", goal.get((at.loss, head))
            yield common.percent(name, at[head, "error"], fresh if head == "MLP" else "", published=known)
        name = f"{at.loss}: information about the class left in the nuisance, the best head's bound"
        yield common.row(name, np.max([at[head, "information"] for head in HEADS], axis=0), "nats of 2.303")
    yield common.row("iCE: test bits per dimension", results.select(loss="iCE")["bits_per_dim"], "bits")
    measures = {"logit_error": "max logit error of the metamers", "round_trip": "max round-trip error"}
    for at, precision, (key, what) in product(results.each("loss"), ("float32", "float64"), measures.items()):
        yield common.row(f"{at.loss}: {what}, {precision}", at[precision, key], "", "published as exact")


def draw(config: Config, results):
    charts, panels, dataset = {}, {}, config.data.dataset
    stars: dict[str, dict] = {}
    for at in results.each("loss"):
        title = f"{dataset}, trained with {at.loss}: the logits of row 1, everything else from row 3"
        charts[f"metamers-{at.loss.lower()}"] = figures.metamer_grid(**at.arrays(config.columns), title=title)
        errors = {"logits": at["test_error"], **{head: at[head, "error"] for head in HEADS}}
        panels[at.loss] = {reader: {"": 100 * seen} for reader, seen in errors.items()}
        known = {reader: {"": errors["test"]} for (loss, reader), errors in MNIST_ERRORS.items() if loss == at.loss}
        stars |= {at.loss: known} if dataset == "mnist" else {}
    title = f"{dataset}: how well the logits, and fresh classifiers of the nuisance, tell the class"
    chart = figures.bar_panels(panels, "test error, % (chance: 90 %)", title, published=stars)
    return {**charts, "nuisance-readings": chart}


EXPERIMENT = common.experiment(__name__, "16 minutes on 2 CPU cores", loss=classifiers.LOSSES)
