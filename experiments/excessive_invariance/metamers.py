"""Exact logit metamers, and what the nuisance still says about the class: figures 1, 5 and the MNIST table of the
paper.

    python -m experiments.excessive_invariance.metamers [smoke|default|paper] [--dataset digits|mnist|cifar10]

For cross-entropy (CE) and for independence cross-entropy (iCE), and for each seed: train a fully invertible RevNet,
draw images with the logits of one image and the nuisance of another, measure how exact they are, and train fresh
classifiers on the nuisance.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from invjax import figures
from invjax.analysis import fresh_head, reading
from invjax.attacks import metamers
from invjax.data import Dataset, as_float, batches, load
from invjax.losses import (
    ADVERSARIES,
    bits_per_dim,
    cross_entropy,
    dequantize,
    error_rate,
    gradient_reversal_ice,
    independence_cross_entropy,
)
from invjax.models import Code, InvertibleClassifier, mlp, mnist_cnn, preset
from invjax.streaming import over_batches
from invjax.training import (
    Game,
    TrainState,
    TrainStep,
    data_mesh,
    fit,
    init_game,
    init_state,
    make_game_step,
    make_train_step,
)

LOSSES = ("CE", "iCE")
HEADS = ("linear", "MLP", "conv")
PUBLISHED = {"CE logits": 0.39, "iCE logits": 0.38, "CE nuisance": 0.34, "iCE nuisance": 27.70}
"""Test errors in % on MNIST: Jacobsen et al. 2019, the MNIST table."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the metamer experiment."""

    dataset: Literal["digits", "mnist", "cifar10"] = "mnist"
    """Which images."""
    data_dir: str | None = None
    """Where they are; by default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    train_size: int | None = None
    """Use this many training images; None: all."""
    blocks: tuple[int, ...] | None = None
    """Blocks of each level; None: the preset of the data set."""
    epochs: int = 3
    """Passes over the training set."""
    batch_size: int = 128
    """Images in a step."""
    learning_rate: float = 4e-3
    """Adam's, after a warm-up over a tenth of the steps; it then decays to zero along a cosine."""
    form: Literal["gradient-reversal", "alternating"] = "gradient-reversal"
    """How iCE is trained: both players in one backward pass, or in turns."""
    adversary: Literal["reversal", "uniform", "permuted-2019", "negated-permuted-2020"] = "reversal"
    """What the model minimises about its nuisance, in the alternating form."""
    critic_steps: int = 5
    """Steps of the nuisance classifier for one of the model, in the alternating form."""
    critic_hidden: tuple[int, ...] = (512, 512)
    """Hidden layers of the nuisance classifier."""
    nuisance_weight: float = 0.3
    """Weight of the nuisance term of iCE."""
    likelihood_weight: float = 1.0
    """Weight of bits per dimension in iCE."""
    head_epochs: int = 2
    """Passes over the training set for each fresh classifier of the nuisance."""
    pairs: int = 256
    """Metamers whose exactness is measured (64 of them in float64 as well)."""
    columns: int = 8
    """Metamers in the figure."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training a seed and a loss."""


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


def model_for(config: Config, save_memory: bool = True) -> InvertibleClassifier:
    """The preset of the data set, with the configured number of blocks."""
    changes = {} if config.blocks is None else {"blocks": config.blocks}
    return preset(config.dataset, save_memory=save_memory, **changes)


def optimizer_for(config: Config, num_steps: int) -> optax.GradientTransformation:
    """Adam with a warm-up and a cosine decay."""
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, max(num_steps // 10, 1), max(num_steps, 2))
    return optax.adam(rate)


Training = tuple[TrainStep, Callable[[jax.Array, Any], TrainState]]


def training_for(config: Config, loss: str, model: InvertibleClassifier, levels: int, num_steps: int) -> Training:
    """The training step of a loss, and `(key, model parameters) -> initial state`; a batch is (bytes, labels)."""
    optimizer = optimizer_for(config, num_steps)
    critic_optimizer = optimizer_for(config, num_steps * config.critic_steps)  # it counts its own steps
    critic = mlp(model.num_classes, config.critic_hidden)
    weights = {
        "nuisance_weight": config.nuisance_weight,
        "likelihood_weight": config.likelihood_weight,
        "levels": levels,
    }

    def encode(params, key, batch):
        return model.encode(params, dequantize(key, as_float(batch[0], levels), levels))

    def critic_params(key):
        return critic.init(key, jnp.zeros((1, int(np.prod(model.shape)) - model.num_classes)))

    def ce_loss(params, key, batch):
        code, _ = encode(params, key, batch)
        return cross_entropy(code.logits, batch[1]).mean(), {"error": error_rate(code.logits, batch[1])}

    def summary(parts, code, batch):
        return {
            "error": error_rate(code.logits, batch[1]),
            "cross_entropy": parts.cross_entropy.mean(),
            "bits_per_dim": parts.bits_per_dim.mean(),
        }

    def joint_loss(params, key, batch):
        code, logdet = encode(params["model"], key, batch)
        parts = gradient_reversal_ice(code, logdet, partial(critic.apply, params["critic"]), batch[1], **weights)
        return parts.total.mean(), summary(parts, code, batch) | {"nuisance_cross_entropy": parts.nuisance.mean()}

    def model_loss(encoded, critic_params, key, batch):
        code, logdet = encoded
        logits = critic.apply(critic_params, code.nuisance)
        adversary = ADVERSARIES[config.adversary]
        parts = independence_cross_entropy(key, code, logdet, logits, batch[1], adversary=adversary, **weights)
        return parts.total.mean(), summary(parts, code, batch)

    def critic_loss(params, encoded, batch):
        return cross_entropy(critic.apply(params, encoded[0].nuisance), batch[1]).mean()

    if loss == "CE":
        return make_train_step(ce_loss, optimizer), lambda key, params: init_state(key, params, optimizer)
    if config.form == "gradient-reversal":

        def start_joint(key, params):
            return init_state(key, {"model": params, "critic": critic_params(key)}, optimizer)

        return make_train_step(joint_loss, optimizer), start_joint

    def start_game(key, params):
        return init_game(key, params, critic_params(key), optimizer, critic_optimizer)

    game = Game(encode, model_loss, critic_loss)
    return make_game_step(game, optimizer, critic_optimizer, config.critic_steps), start_game


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
    """Indices of `count` pairs of images of different classes; the first of each pair goes through the classes."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    by_class = {c: list(order[labels[order] == c]) for c in np.unique(labels)}
    classes = sorted(by_class)
    members = [by_class[classes[i % len(classes)]] for i in range(count)]
    first = [ids[i // len(classes) % len(ids)] for i, ids in enumerate(members)]  # fmt: skip
    second = [rng.choice(np.flatnonzero(labels != labels[i])) for i in first]
    return np.array(first), np.array(second)


def one_model(
    config: Config, loss: str, seed: int, data: tuple[Dataset, Dataset], trained: Training, folder: Path
) -> tuple:
    """Train with one loss and one seed, then measure everything about the model."""
    train, test = data
    mesh = data_mesh(jax.devices()[: math.gcd(config.batch_size, jax.device_count())])
    levels = train.levels
    model, plain = model_for(config), model_for(config, save_memory=False)
    init_key, run_key, head_key = jax.random.split(
        jax.random.fold_in(jax.random.key(seed), zlib.crc32(loss.encode())), 3
    )
    step, start = trained
    first_images = dequantize(init_key, jnp.asarray(as_float(train.images[:512], levels)), levels)
    num_steps = config.epochs * (len(train.labels) // config.batch_size)
    draw = batches([train.images, train.labels], config.batch_size, seed)
    state, _ = fit(
        start(run_key, model.init(init_key, first_images)),
        step,
        draw,
        num_steps,
        mesh=mesh,
        directory=folder,
        description=f"{loss}, seed {seed}",
    )
    params = state.params["model"] if loss == "iCE" else state.params

    encode = jax.jit(lambda images: plain.encode(params, as_float(images, levels))[0])
    codes = {
        name: over_batches(encode, [split.images], mesh=mesh) for name, split in (("train", train), ("test", test))
    }
    erased = jax.jit(
        lambda nuisance: plain.decode(params, Code(jnp.zeros((len(nuisance), model.num_classes)), nuisance))
    )
    pictures = {name: over_batches(erased, [code.nuisance], mesh=mesh) for name, code in codes.items()}

    @jax.jit
    def bits(images):
        return bits_per_dim(*plain.encode(params, dequantize(head_key, as_float(images, levels), levels)), levels)

    numbers: dict[str, Any] = {
        "train_error": reading(codes["train"].logits, train.labels).error,
        "test_error": reading(codes["test"].logits, test.labels).error,
        "bits_per_dim": float(over_batches(bits, [test.images], mesh=mesh).mean()),
    }
    nets = {
        "linear": (mlp(model.num_classes, ()), {name: code.nuisance for name, code in codes.items()}),
        "MLP": (mlp(model.num_classes, (512, 512)), {name: code.nuisance for name, code in codes.items()}),
        # the conv head looks at the nuisance as a picture: the image with these z_n and logits of zero
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
    numbers["float32"], arrays = exactness(plain, params, images[first], images[second])
    with jax.enable_x64(True):
        numbers["float64"], _ = exactness(plain, params, images[first[:64]], images[second[:64]])
    return numbers, {name: value[: config.columns] for name, value in arrays.items()}


def run(config: Config, folder: Path) -> list[common.Row]:
    """Train all models, draw the figures, and return the table."""
    train, test = (load(config.dataset, split, config.data_dir) for split in ("train", "test"))
    if config.train_size is not None:
        train = train._replace(images=train.images[: config.train_size], labels=train.labels[: config.train_size])
    num_steps = config.epochs * (len(train.labels) // config.batch_size)
    numbers: dict[str, list[dict]] = {loss: [] for loss in LOSSES}
    for loss in LOSSES:
        trained = training_for(config, loss, model_for(config), train.levels, num_steps)  # compiled once for all seeds
        for seed in config.seeds:
            place = folder / f"{loss.lower()}-seed{seed}"
            compute = partial(one_model, config, loss, seed, (train, test), trained, place)
            values, arrays = common.stage(place, compute)
            numbers[loss].append(values)
            if seed == config.seeds[0]:
                title = f"{config.dataset}, trained with {loss}: the logits of row 1, everything else from row 3"
                figures.save(
                    figures.metamer_grid(**arrays, title=title), folder / "figures" / f"metamers-{loss.lower()}.png"
                )
    errors = {loss: {head: [n[head]["test"]["error"] for n in numbers[loss]] for head in HEADS} for loss in LOSSES}
    chart = figures.readings(
        errors, chance=0.9, title=f"{config.dataset}: what fresh classifiers read from the nuisance"
    )
    figures.save(chart, folder / "figures" / "nuisance-readings.png")
    return rows(config, numbers)


def rows(config: Config, numbers: dict[str, list[dict]]) -> list[common.Row]:
    """The table: errors beside the published ones, information, and exactness."""
    published = PUBLISHED if config.dataset == "mnist" else {}
    setup = f"{config.epochs} epochs, no padding to 32x32, DCT readout"
    table = []
    for loss in LOSSES:
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
    for loss in LOSSES:
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
