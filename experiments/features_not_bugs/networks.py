"""The settings that the experiments of this paper share, their trainings, and their accuracy under attack."""

import dataclasses
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from experiments.common import Arrays
from invjax.attacks import l2, pgd
from invjax.types import Key, LossFn, Net, Params

SOURCES = ("standard", "robust")  # the models that data sets are made from


@dataclasses.dataclass(frozen=True)
class Data(common.Data):
    """Settings of the images, which may get a non-robust feature."""

    planted: float = 0.0  # Length in l2 of a faint pattern of the class on each image, a non-robust feature; 0 is none.

    def load(self) -> tuple[Arrays, Arrays]:  # type: ignore[override]  # a pattern is no whole number of levels
        """The training and the test set, in [0, 1]."""
        train, test = (
            (plant(common.images_of(data), data.labels, self.planted), data.labels) for data in super().load()
        )
        return train, test


@dataclasses.dataclass(frozen=True)
class Train(common.Train):
    """Settings of a training."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """adam decays to zero along a cosine; sgd has momentum 0.9, and its rate is divided by 10 after each third."""
    weight_decay: float = 5e-4  # Weight decay of SGD and of Adam (for Adam decoupled from the gradient).


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the data, the training and the attacks, shared by the experiments of this paper."""

    data: common.Flat[Data] = Data()  # The images.
    network: Literal["linear", "MLP", "CNN", "ResNet"] = "CNN"  # Network of the experiment.
    hidden: tuple[int, ...] = (200, 200)  # Widths of the hidden layers of the MLP.
    channels: tuple[int, ...] = (8, 16)  # Channels of the convolutions of the CNN.
    dense: int = 64  # Width of the hidden dense layer of the convolutional network.
    stages: tuple[int, ...] = (64, 128, 256, 512)  # Channels of the stages of the ResNet.
    blocks: int = 2  # Number of blocks in each stage of the ResNet.
    train: Train = Train(epochs=15, batch_size=128, learning_rate=2e-3)  # Training of all networks.
    augment: bool = False
    """Random shifts of up to 4 pixels and reflections in training, unless an experiment says otherwise."""
    robust_epochs: int = 10  # Number of passes of adversarial training over the training set.
    train_eps: float = 1.5  # Radius in l2 of adversarial training.
    train_steps: int = 5  # Number of steps of the attack in adversarial training, of length eps / 5, from the image.
    images: int = 500  # Number of test images for robust accuracy; the first ones are used.
    eval_steps: int = 20  # Number of steps of PGD in the evaluation.
    ensemble_images: int = 200  # Number of test images for AutoAttack; 0 does not run it.
    ensemble_steps: int = 20  # Number of steps of the gradient attacks in AutoAttack (published: 100).
    queries: int = 200  # Number of queries of Square in AutoAttack (published: 5000).
    seeds: tuple[int, ...] = common.axis((0, 1, 2))  # Random seeds; each seed repeats the whole experiment.

    def net(self, name: str | None = None) -> Net:
        """The configured network, or the one of that name."""
        return common.network(
            name or self.network, hidden=self.hidden, channels=self.channels, dense=self.dense, stages=self.stages,
            blocks=self.blocks,
        )  # fmt: skip


SMALL: dict[str, Any] = {"data": Data("cifar10", train_size=16_000), "channels": (16, 32), "dense": 128}
"""Settings that a CPU can train on a part of CIFAR-10."""

PAPER: dict[str, Any] = dict(
    data=Data("cifar10"), network="ResNet", train=Train(150, 128, 0.1, "sgd"), augment=True, robust_epochs=150,
    train_eps=0.5, train_steps=7, images=10_000, eval_steps=100, ensemble_images=1000, ensemble_steps=100, queries=5000
)  # fmt: skip
"""Settings of the paper on CIFAR-10, except for the size of its networks."""


def comparable(config: Settings) -> bool:
    """Whether the numbers of the paper are for the same images."""
    return config.data.dataset == "cifar10" and not config.data.planted


def title(config: Settings) -> str:
    """A name of the images, for figures."""
    planted = config.data.planted
    return config.data.dataset + (f" with a planted pattern of {planted:g} in l2" if planted else "")


def about(config: Settings) -> str:
    """The data and the network, for the last column of a table."""
    return f"{title(config)}, {config.data.train_size or 'all'} training images, {config.network}"


def plant(images: np.ndarray, labels: np.ndarray, norm: float) -> np.ndarray:
    """Images of lower contrast with the pattern of their class: fixed random signs of length `norm` in l2.

    A classifier that reads the pattern makes no errors, and a change of about `norm / sqrt(2)` changes its prediction.
    """
    limit = 0.5 * np.sqrt(images[0].size)
    if not 0 <= norm < limit:
        raise ValueError(f"planted must be in [0, {limit:g}); got planted={norm}")
    if not norm:
        return images
    height = norm / np.sqrt(images[0].size)
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (10, *images.shape[1:]))
    return (height + (1 - 2 * height) * images + height * signs[labels]).clip(0, 1).astype(np.float32)


def moved(key: Key, x: jax.Array) -> jax.Array:
    """Each image shifted by up to 4 pixels, and reflected or not."""
    shift_key, flip_key = jax.random.split(key)
    x, flipped = common.shifted(shift_key, x, 4), jax.random.bernoulli(flip_key, 0.5, (len(x),))
    return jnp.where(flipped[:, None, None, None], x[:, :, ::-1], x)


@cache  # one loss for all seeds, so that its training step is compiled once
def loss_of(config: Settings, name: str | None, augment: bool, warm_up: int | None) -> LossFn:
    """The cross-entropy of a network.

    With a warm-up it is that of attacked images, whose radius grows over so many steps; otherwise adversarial training
    may not start.
    """
    apply_fn, eps = config.net(name).apply, config.train_eps
    attack = pgd(l2(), steps=config.train_steps, random_start=False)
    plain, robust = common.plain_loss(apply_fn), partial(common.growing_loss, apply_fn, attack, eps, step_size=eps / 5)
    of_images = robust(warm_up) if warm_up else plain

    def loss_fn(params, key, batch, step):
        key, move_key = jax.random.split(key)
        images = moved(move_key, batch[0]) if augment else batch[0]
        return of_images(params, key, (images, batch[1]), step)

    return loss_fn


def optimizer(settings: Any, num_steps: int) -> optax.GradientTransformation:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adam":
        return optax.adamw(optax.cosine_decay_schedule(rate, num_steps), weight_decay=decay)
    drops = {num_steps // 3: 0.1, 2 * num_steps // 3: 0.1}
    descend = optax.sgd(optax.piecewise_constant_schedule(rate, drops), momentum=0.9)
    return optax.chain(optax.add_decayed_weights(decay), descend)


def train(
    config: Settings, data: Arrays, name: str | None = None, *, seed: int, folder: Path, robust: bool = False,
    augment: bool | None = None, **changes: Any,
) -> Params:  # fmt: skip
    """Train the configured network or the one of that name, or continue its training, and return its last parameters.

    Adversarial training (`robust`) takes `config.robust_epochs`. `augment` shifts and reflects images at random, by
    default as configured. `changes` are fields of `config.train` that differ, such as `epochs=1`.
    """
    settings = dataclasses.replace(config.train, **({"epochs": config.robust_epochs} if robust else {}) | changes)
    warm_up = max(1, settings.num_steps(len(data[1])) // 3) if robust else None
    loss_fn = loss_of(config, name, config.augment if augment is None else augment, warm_up)
    return common.trained(config.net(name), loss_fn, data, settings, seed=seed, folder=folder, optimizer=optimizer)


def source(config: Settings, which: str, data: Arrays, *, seed: int, shared: Path) -> Params:
    """The model "standard" or "robust" of a seed, which the trials of this seed share."""
    return train(config, data, seed=seed, folder=shared / f"{which}-seed{seed}", robust=which == "robust")


def robust_accuracy(
    config: Settings, params: Params, data: Arrays, epsilons: Sequence[float], *, seed: int, name: str | None = None
) -> dict[str, list[float]]:
    """Accuracy in [0, 1] at each radius, under PGD and, on fewer images, under AutoAttack ("ensemble")."""
    apply_fn, (images, labels), few = config.net(name).apply, data, config.ensemble_images
    shown, attack = (images[: config.images], labels[: config.images]), pgd(l2(), steps=config.eval_steps)
    found = {"PGD": common.curve(apply_fn, params, attack, shown, epsilons, seed=seed)}
    if few:
        strong = partial(common.ensemble, apply_fn, params, (shown[0][:few], shown[1][:few]), norm="l2",
                         steps=config.ensemble_steps, queries=config.queries, seed=seed)  # fmt: skip
        found["ensemble"] = [float(1 - strong(eps=eps).broken.mean()) for eps in epsilons]
    return found
