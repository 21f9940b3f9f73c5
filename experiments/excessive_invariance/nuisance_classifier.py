"""P1, the MNIST table: errors of logits and of fresh nuisance classifiers, and how to take the class out.

One coupling layer makes a convolutional network invertible (`models.coupled_classifier`), and CE trains it. Then
`models.gaussianize` maps the nuisance of each decision to the standard normal and does not change the logits. Fresh
heads read the nuisance before and after this map, from images with dequantisation noise. Their training set has several
draws of the noise.
"""

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.excessive_invariance import classifiers
from experiments.excessive_invariance.published import MNIST_ERRORS
from invjax import figures
from invjax.analysis import reading, train_head
from invjax.attacks import metamers
from invjax.data import Dataset
from invjax.evaluation import over_batches
from invjax.losses import bits_per_dim, dequantize
from invjax.models import InvertibleClassifier, coupled_classifier, gaussianize, mlp, mnist_cnn
from invjax.training import data_mesh
from invjax.types import Key, LossFn, Params

NAMES = {"CE": "CE", "iCE": "iCE in closed form"}


@dataclasses.dataclass(frozen=True)
class Config:
    data: common.Flat[common.Data] = common.Data()  # The images.
    channels: tuple[int, ...] = (16, 32)  # Channels of the convolutions of the network.
    dense: int = 128  # Width of the hidden dense layer of the convolutional network.
    train: common.Train = common.Train(epochs=8, batch_size=128, learning_rate=2e-3)  # Training of the network.
    shift: int = 2  # Random shifts of the training images, in pixels, at most.
    rounds: int = 3  # Rounds of whitening and marginals in `gaussianize`.
    draws: int = 1  # Draws of dequantisation noise in the training set of a head.
    head_epochs: int = 6  # Number of passes over the training images for each head, for any number of draws.
    ensemble: int = 0  # Number of MLPs in an ensemble whose mean log-probabilities are measured, too; 0 for none.
    columns: int = 8  # Number of metamers in the figure.
    seeds: tuple[int, ...] = common.axis((0, 1, 2))  # Random seeds; each seed trains one network.


PRESETS = {
    "smoke": Config(
        common.Data("digits"), channels=(8,), dense=16, train=common.Train(2, 64, 2e-3), shift=0, rounds=1,
        head_epochs=1, columns=4, seeds=(0,),
    ),
    "paper": Config(channels=(32, 64), dense=1024, train=common.Train(30, 128, 2e-3), draws=10, head_epochs=30,
                    ensemble=5),
}  # fmt: skip


@cache
def model_for(config: Config, shape: tuple[int, int, int]) -> InvertibleClassifier:
    """The convolutional network behind one coupling layer."""
    return coupled_classifier(lambda outputs: mnist_cnn(outputs, config.channels, config.dense), shape, 10)


@cache  # one object for all seeds, whose training step is compiled once
def loss_of(config: Config, model: InvertibleClassifier, levels: int) -> LossFn:
    """Cross-entropy alone, on shifted images with dequantisation noise."""

    def prepare(key, x):
        move_key, noise_key = jax.random.split(key)
        return dequantize(noise_key, common.shifted(move_key, x, config.shift), levels)

    return common.on_bytes(common.plain_loss(model.apply, prepare=prepare), levels)


def trained(config: Config, data: Dataset, seed: int, folder: Path) -> tuple[InvertibleClassifier, Params]:
    model, (init_key, key) = model_for(config, data.images.shape[1:]), common.split_key(seed)
    start = jax.jit(model.init)(init_key, jnp.asarray(common.images_of(data, 8)))
    loss_fn = loss_of(config, model, data.levels)
    return model, common.train(start, loss_fn, data[:2], config.train, key=key, seed=seed, folder=folder)


def readers(config: Config) -> list[str]:
    """The rows of the table: the heads, and the ensemble in place of its other members."""
    return ["linear", "MLP", "conv", *([f"ensemble of {config.ensemble} MLPs"] if config.ensemble else [])]


def pairs(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first image of each class in turn, and for each an image of the class four further on."""
    of_class = [np.flatnonzero(labels == c) for c in range(10)]
    first = [of_class[i % 10][i // 10] for i in range(count)]
    return np.array(first), np.array([of_class[(i + 4) % 10][1 + i // 10] for i in range(count)])


def trial(config: Config, data, *, loss, seed, folder, shared):
    (train, test), mesh, key = data, data_mesh(), jax.random.key(seed)
    model, params = trained(config, train, seed, shared / f"network-seed{seed}")
    if loss == "iCE":
        noisy = classifiers.noisy(train, 100)
        model, params = gaussianize(key, model, params, noisy, rounds=config.rounds, mesh=mesh)
    encode = partial(jax.jit(model.encode), params)
    draws = [classifiers.noisy(train, 200 + draw) for draw in range(config.draws)]
    codes, _ = over_batches(encode, [np.concatenate(draws)], mesh=mesh)
    test_codes, logdets = over_batches(encode, [classifiers.noisy(test, 300)], mesh=mesh)
    labels = [np.tile(train.labels, config.draws), test.labels]
    numbers = read_all(config, key, [codes, test_codes], labels, model.shape)
    numbers["bits_per_dim"] = float(np.median(bits_per_dim(test_codes, logdets, test.levels)))
    first, second = (common.images_of(test, ids) for ids in pairs(test.labels, config.columns))
    made = metamers(model, params, first, second)
    logits, again = model.apply(params, first), model.apply(params, made)
    numbers["logit_error"] = float(jnp.abs(logits - again).max())
    arrays = {"logits_from": first, "nuisance_from": second, "metamers": made, "logits": logits}
    return numbers, {
        name: np.asarray(value, np.float32) for name, value in (arrays | {"metamer_logits": again}).items()
    }


def read_all(
    config: Config, key: Key, codes: list[Any], labels: list[np.ndarray], shape: tuple[int, ...]
) -> dict[str, Any]:
    """Error and information of the logits, of each head and of the ensemble, on the training and on the test set."""

    def read(logits):
        splits = zip(("train", "test"), logits, labels, strict=True)
        return {split: reading(np.asarray(values), known)._asdict() for split, values, known in splits}

    conv, mesh = mnist_cnn(10, config.channels, config.dense), data_mesh()
    more = {f"MLP {i}": mlp(10, (512, 512)) for i in range(2, config.ensemble + 1)}
    heads = {"linear": mlp(10, ()), "MLP": mlp(10, (512, 512)), "conv": conv, **more}
    found, members = {"logits": read([code.logits for code in codes])}, []
    for number, (name, net) in enumerate(heads.items()):
        features = [np.asarray(code.nuisance) for code in codes]
        if name == "conv":  # it reads the nuisance at the positions of its pixels, with zeros in place of the logits
            features = [np.pad(values, ((0, 0), (10, 0))).reshape(-1, *shape) for values in features]
        head_key, examples = jax.random.fold_in(key, number), (features[0], labels[0])
        epochs, about = max(1, config.head_epochs // config.draws), f"fresh {name} head"
        head = jax.jit(train_head(head_key, net, examples, epochs=epochs, mesh=mesh, description=about))
        logits = [over_batches(head, [values], mesh=mesh) for values in features]
        found[name] = read(logits)
        members += [[jax.nn.log_softmax(values) for values in logits]] if name.startswith("MLP") else []
    if config.ensemble:
        found[readers(config)[-1]] = read([np.mean(of, axis=0) for of in zip(*members, strict=True)])
    return found


def table(config: Config, results):
    setups = {
        ("CE", "logits"): f"a convolutional network behind one coupling, {config.train.epochs} epochs",
        ("iCE", "logits"): "the same network: Gaussianising does not touch the logits",
        ("iCE", "MLP"): "independence in closed form after the training, not by an adversary in it",
    }
    published: dict = MNIST_ERRORS if config.data.dataset == "mnist" else {}
    for at in results.each("loss"):
        name = NAMES[at.loss]
        for reader in ("logits", *readers(config)):
            what = "the logits" if reader == "logits" else f"a fresh {reader} head on the nuisance"
            goals, setup = published.get((at.loss, reader), {}), setups.get((at.loss, reader), "")
            for split in ("train", "test"):
                row, values = f"{name}: {split} error of {what}", at[reader, split, "error"]
                yield common.percent(row, values, setup, published=goals.get(split))
        best = np.max([at[reader, "test", "information"] for reader in readers(config)], axis=0)
        what = "information about the class in the nuisance, the best head's bound"
        yield common.row(f"{name}: {what}", best, "nats of 2.303")
        yield common.row(f"{name}: median test bits per dimension", at["bits_per_dim"], "bits")
        yield common.row(f"{name}: max logit error of {config.columns} metamers, float32", at["logit_error"])


def draw(config: Config, results):
    dataset, charts, errors = config.data.dataset, {}, {}
    published: dict[str, dict] = {name: {} for name in NAMES.values()}
    for at in results.each("loss"):
        title = f"{dataset}, {NAMES[at.loss]}: the logits of row 1, everything else from row 3"
        charts[f"metamers-{at.loss.lower()}"] = figures.metamer_grid(**at.arrays(), title=title)
        errors[NAMES[at.loss]] = {
            reader.removeprefix("ensemble of "): {"": 100 * at[reader, "test", "error"]}
            for reader in ("logits", *readers(config))
        }
    for (loss, reader), of in MNIST_ERRORS.items():
        published[NAMES[loss]][reader] = {"": of["test"]}
    title = f"{dataset}: errors of the logits, and of fresh classifiers of the nuisance"
    chart = partial(figures.bar_panels, errors, "test error, %", title, (90.0, "chance"))
    charts["nuisance-readings"] = chart(published) if dataset == "mnist" else chart()
    return charts


EXPERIMENT = common.experiment(__name__, "20 minutes on 2 CPU cores", loss=NAMES)
