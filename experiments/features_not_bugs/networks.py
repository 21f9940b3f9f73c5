"""The networks of these experiments, their training, the attacks, and the measurement of their accuracy."""

import dataclasses
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from invjax.attacks import Stage, autoattack_stages, l2, pgd
from invjax.data import as_float, batches, load
from invjax.evaluation import Options, benchmark, over_batches, robustness_curve
from invjax.features import digest
from invjax.losses import cross_entropy, error_rate
from invjax.models import mlp, mnist_cnn, resnet
from invjax.training import adversarial_loss, data_mesh, fit, init_state, make_train_step
from invjax.types import Key, Net, Params

Data = tuple[np.ndarray, np.ndarray]
"""Images in [0, 1], `[N, H, W, C]`, and labels `[N]`."""

SOURCES = ("standard", "robust")
"""The models that data sets are made from."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the data, the training and the attacks, shared by the experiments of this paper."""

    dataset: Literal["digits", "mnist", "cifar10"] = "mnist"
    """Data set of the images."""
    data_dir: str | None = None
    """Folder of the data; by default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    train_size: int | None = None
    """Number of training images; None uses all."""
    planted: float = 0.0
    """Length in l2 of a faint pattern of the class on each image, a non-robust feature; 0 plants none."""
    network: Literal["linear", "MLP", "CNN", "ResNet"] = "CNN"
    """Network of the experiment."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the hidden layers of the MLP."""
    channels: tuple[int, ...] = (8, 16)
    """Channels of the convolutions of the CNN."""
    dense: int = 64
    """Width of the hidden dense layer of the convolutional network."""
    stages: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of the stages of the ResNet."""
    blocks: int = 2
    """Number of blocks in each stage of the ResNet."""
    epochs: int = 15
    """Number of passes over a training set."""
    robust_epochs: int = 10
    """Number of passes of adversarial training over the training set."""
    batch_size: int = 128
    """Number of images in a training step."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """adam decays to zero along a cosine; sgd has momentum 0.9, and its rate is divided by 10 after each third."""
    learning_rate: float = 2e-3
    """Initial learning rate."""
    weight_decay: float = 5e-4
    """Weight decay of SGD and of Adam (for Adam decoupled from the gradient)."""
    augment: bool = False
    """Random shifts of up to 4 pixels and reflections in training, unless an experiment says otherwise."""
    train_eps: float = 1.5
    """Radius in l2 of adversarial training."""
    train_steps: int = 5
    """Number of steps of the attack in adversarial training; each has length eps / 5, from the image."""
    images: int = 500
    """Number of test images for robust accuracy; the first ones are used."""
    eval_steps: int = 20
    """Number of steps of PGD in the evaluation."""
    ensemble_images: int = 200
    """Number of test images for AutoAttack; 0 does not run it."""
    ensemble_steps: int = 20
    """Number of steps of the gradient attacks in AutoAttack (published: 100)."""
    queries: int = 200
    """Number of queries of Square in AutoAttack (published: 5000)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; each seed repeats the whole experiment."""


SMALL: dict[str, Any] = {"dataset": "cifar10", "channels": (16, 32), "dense": 128}
"""Settings that a CPU can train on a part of CIFAR-10."""

PAPER: dict[str, Any] = {
    "dataset": "cifar10",
    "network": "ResNet",
    "epochs": 150,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "augment": True,
    "eval_steps": 100,
}
"""Settings that all networks of the paper on CIFAR-10 share, except for their size."""

ROBUST_PAPER: dict[str, Any] = {"robust_epochs": 150, "train_eps": 0.5, "train_steps": 7}
"""Settings of adversarial training in the paper."""


def comparable(config: Settings) -> bool:
    """Whether the numbers of the paper are for the same images."""
    return config.dataset == "cifar10" and not config.planted


def title(config: Settings) -> str:
    """A name of the images, for figures."""
    return config.dataset + (f" with a planted pattern of {config.planted:g} in l2" if config.planted else "")


def about(config: Settings) -> str:
    """The data and the network, for the last column of a table."""
    return f"{title(config)}, {config.train_size or 'all'} training images, {config.network}"


def plant(images: np.ndarray, labels: np.ndarray, norm: float) -> np.ndarray:
    """Images of lower contrast with the pattern of their class: fixed random signs of length `norm` in l2.

    A classifier that reads the pattern makes no errors, and a change of about `norm / sqrt(2)` changes its prediction.

    Raises:
        ValueError: the length of the pattern is negative, or so large that the image would vanish.
    """
    limit = 0.5 * np.sqrt(images[0].size)
    if not 0 <= norm < limit:
        raise ValueError(f"planted must be in [0, {limit:g}); got planted={norm}")
    if not norm:
        return images
    height = norm / np.sqrt(images[0].size)
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (10, *images.shape[1:]))
    return (height + (1 - 2 * height) * images + height * signs[labels]).clip(0, 1).astype(np.float32)


def datasets(config: Settings) -> tuple[Data, Data]:
    """The training and the test set."""

    def one(split: str, size: int | None) -> Data:
        data = load(config.dataset, split, config.data_dir)
        images, labels = np.asarray(as_float(data.images[:size], data.levels)), np.asarray(data.labels[:size])
        return plant(images, labels, config.planted), labels

    return one("train", config.train_size), one("test", None)


@cache  # one object for each network, so that all seeds share its compiled functions
def network(config: Settings, name: str | None = None) -> Net:
    """The configured network, or the one of that name."""
    nets = {
        "linear": lambda: mlp(10, ()),
        "MLP": lambda: mlp(10, config.hidden),
        "deep MLP": lambda: mlp(10, 2 * config.hidden),
        "CNN": lambda: mnist_cnn(10, config.channels, config.dense),
        "ResNet": lambda: resnet(10, config.stages, (config.blocks,) * len(config.stages)),
    }
    return nets[name or config.network]()


def moved(key: Key, x: jax.Array) -> jax.Array:
    """Each image shifted by up to 4 pixels, and reflected or not."""
    shift_key, flip_key = jax.random.split(key)
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    corner = jax.random.randint(shift_key, (len(x), 2), 0, 9)
    flipped = jax.random.bernoulli(flip_key, 0.5, (len(x),))

    def one(image, at, flip):
        cut = jax.lax.dynamic_slice(image, (at[0], at[1], 0), (height, width, channels))
        return jnp.where(flip, cut[:, ::-1], cut)

    return jax.vmap(one)(padded, corner, flipped)


@cache  # all seeds share one compiled training step
def _training(
    config: Settings, name: str | None, robust: bool, augment: bool, rate: float, num_steps: int
) -> tuple[Any, optax.GradientTransformation]:
    net = network(config, name)
    attack = pgd(l2(), steps=config.train_steps, random_start=False)
    eps, warmup = config.train_eps, max(1, num_steps // 3)

    def radius(step: Any) -> Any:
        return eps * jnp.minimum(1, step / warmup)

    hardened = adversarial_loss(net.apply, attack, eps=radius, step_size=eps / 5)

    def loss_fn(params: Params, key: Key, batch: Any, step: Any):
        x, labels = batch
        key, move_key = jax.random.split(key)
        x = moved(move_key, x) if augment else x
        if robust:
            return hardened(params, key, (x, labels), step)
        logits = net.apply(params, x)
        return cross_entropy(logits, labels).mean(), {"error": error_rate(logits, labels)}

    if config.optimizer == "sgd":
        drops = {num_steps // 3: 0.1, 2 * num_steps // 3: 0.1}
        descend = optax.sgd(optax.piecewise_constant_schedule(rate, drops), momentum=0.9)
        optimizer = optax.chain(optax.add_decayed_weights(config.weight_decay), descend)
    else:
        optimizer = optax.adamw(optax.cosine_decay_schedule(rate, num_steps), weight_decay=config.weight_decay)
    return make_train_step(loss_fn, optimizer), optimizer


def train(
    config: Settings,
    seed: int,
    data: Data,
    folder: Path,
    *,
    robust: bool = False,
    name: str | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    augment: bool | None = None,
    description: str = "training",
) -> Params:
    """Train a network, or continue its training, and return its last parameters.

    The radius of adversarial training grows over the first third of the steps; otherwise training may not start.

    Args:
        config: settings that are not arguments of this function.
        seed: random seed of the initial parameters and of the order of the images.
        data: the training set.
        folder: the folder of checkpoints and metrics; each training set has its own folder in it.
        robust: whether to train on attacked images.
        name: name of the network; by default the configured one.
        epochs: passes over the data.
        learning_rate: initial learning rate.
        augment: whether to shift and reflect images at random.
        description: text beside the progress bar.

    Raises:
        ValueError: fewer than 8 images.
    """
    images, labels = data
    if len(labels) < 8:
        raise ValueError(f"{description} needs at least 8 images; got {len(labels)}")
    batch_size = min(config.batch_size, len(labels) - len(labels) % 8)
    epochs = (config.robust_epochs if robust else config.epochs) if epochs is None else epochs
    num_steps = epochs * (len(labels) // batch_size)
    step, optimizer = _training(
        config,
        name,
        robust,
        config.augment if augment is None else augment,
        config.learning_rate if learning_rate is None else learning_rate,
        num_steps,
    )
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = network(config, name).init(init_key, jnp.asarray(images[:1]))
    state, _ = fit(
        init_state(run_key, params, optimizer),
        step,
        batches([images, labels], batch_size, seed),
        num_steps,
        mesh=data_mesh(),
        directory=folder / digest({"images": images, "labels": labels})[:12],
        description=description,
    )
    return state.params


def sources(config: Settings, seed: int, data: Data, folder: Path, names: Sequence[str] = SOURCES) -> dict[str, Params]:
    """The standard and the robust model."""
    return {
        name: train(config, seed, data, folder / name, robust=name == "robust", description=f"{name}, seed {seed}")
        for name in names
    }


def predictions(net: Net, params: Params, images: np.ndarray) -> np.ndarray:
    """Predicted classes of a whole data set, `[N]`."""
    return over_batches(partial(jax.jit(net.apply), params), [images], mesh=data_mesh()).argmax(1)


def accuracy(net: Net, params: Params, data: Data) -> float:
    """The accuracy in percent."""
    return 100 * float((predictions(net, params, data[0]) == data[1]).mean())


@cache  # one object, so that AutoAttack is compiled once for all seeds and radii
def _stages(steps: int, queries: int) -> tuple[Stage, ...]:
    return autoattack_stages(l2(), num_classes=10, steps=steps, queries=queries)


def robust_accuracy(
    config: Settings, params: Params, data: Data, epsilons: Sequence[float], *, seed: int, name: str | None = None
) -> dict[str, list[float]]:
    """Accuracy in percent at each radius, under PGD, and under AutoAttack on fewer images."""
    images, labels = (array[: config.images] for array in data)
    net, attack = network(config, name), pgd(l2(), steps=config.eval_steps)
    key, mesh = jax.random.key(seed), data_mesh()
    curve = robustness_curve(
        key, attack, net.apply, params, images, labels, epsilons=epsilons, options=Options(mesh=mesh)
    )
    found = {"PGD": (100 * curve.accuracy()).tolist()}
    few = config.ensemble_images
    if few:
        stages = _stages(config.ensemble_steps, config.queries)
        strong = partial(benchmark, key, net.apply, params, images[:few], labels[:few], threat=l2(), stages=stages,
                         options=Options(256, mesh))  # fmt: skip
        found["ensemble"] = [100 * float(1 - strong(eps=eps).broken.mean()) for eps in epsilons]
    return found
