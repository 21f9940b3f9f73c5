"""The networks of these experiments, by name, and their training."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from invjax.data import Dataset, as_float, batches, load
from invjax.evaluation import over_batches
from invjax.losses import cross_entropy, error_rate
from invjax.models import mlp, mnist_cnn, resnet
from invjax.training import data_mesh, fit, init_state, make_train_step
from invjax.types import LossFn, Net, Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the data and of the training, shared by the experiments of this paper."""

    dataset: Literal["digits", "mnist", "cifar10"] = "mnist"
    """Data set of the images."""
    data_dir: str | None = None
    """Folder of the data; by default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    train_size: int | None = None
    """Number of training images; None uses all."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the hidden layers of the MLP."""
    channels: tuple[int, ...] = (16, 32)
    """Channels of the convolutions of the CNN."""
    dense: int = 128
    """Width of the hidden dense layer of the convolutional network."""
    stages: tuple[int, ...] = (16, 32, 64)
    """Channels of the stages of the ResNet; each stage has one block."""
    epochs: int = 5
    """Number of passes over the training set."""
    batch_size: int = 128
    """Number of images in a training step."""
    learning_rate: float = 2e-3
    """Initial learning rate of Adam; it decays to zero along a cosine."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; each seed trains one copy of every network."""


NETWORKS: dict[str, Callable[[Settings], Net]] = {
    "linear": lambda config: mlp(10, ()),
    "MLP": lambda config: mlp(10, config.hidden),
    "CNN": lambda config: mnist_cnn(10, config.channels, config.dense),
    "ResNet": lambda config: resnet(10, config.stages, (1,) * len(config.stages)),
}
"""The networks, by name."""


@cache  # one object for each network, so that all seeds share its compiled functions
def network(config: Settings, name: str) -> Net:
    """The network with this name and the configured sizes."""
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}; got {name}")
    return NETWORKS[name](config)


def check_models(models: tuple[str, ...], known: Iterable[str] = NETWORKS) -> None:
    """Check a list of names.

    Raises:
        ValueError: the list is empty or has an unknown name.
    """
    known = tuple(known)
    if not models or not set(models) <= set(known):
        raise ValueError(f"models must be some of {', '.join(known)}; got {', '.join(models) or 'none'}")


def datasets(config: Settings) -> tuple[Dataset, Dataset]:
    """The training and the test set."""
    train, test = (load(config.dataset, split, config.data_dir) for split in ("train", "test"))
    return first(train, config.train_size), test


def first(data: Dataset, count: int | None) -> Dataset:
    """The first `count` images; all for None."""
    return data._replace(images=data.images[:count], labels=data.labels[:count])


def images_of(data: Dataset) -> np.ndarray:
    """All images, in [0, 1]."""
    return np.asarray(as_float(data.images[:], data.levels))


def plain_loss(net: Net) -> LossFn:
    """Cross-entropy of batches (images, labels)."""

    def loss_fn(params: Params, key: Any, batch: Any, step):
        logits = net.apply(params, batch[0])
        return cross_entropy(logits, batch[1]).mean(), {"error": error_rate(logits, batch[1])}

    return loss_fn


def train(
    config: Settings,
    net: Net,
    seed: int,
    data: Dataset,
    folder: Path,
    *,
    loss_fn: LossFn | None = None,
    epochs: int | None = None,
    until: int | None = None,
    description: str = "training",
) -> Params:
    """Train a network, or continue its training, by Adam with a decay to zero.

    Args:
        config: batch size, learning rate and, unless given here, epochs.
        net: the network.
        seed: random seed of the initial parameters and of the order of the images.
        data: the training set.
        folder: the folder of checkpoints and metrics.
        loss_fn: loss of batches (images in [0, 1], labels); by default cross-entropy.
        epochs: passes over the data.
        until: number of passes after which to stop, to continue later; 0 is the start. It must not be less than what
            the folder has finished.
        description: text beside the progress bar.
    """
    batch_size = min(config.batch_size, len(data.labels))
    per_epoch = len(data.labels) // batch_size
    epochs = config.epochs if epochs is None else epochs
    loss_fn = plain_loss(net) if loss_fn is None else loss_fn

    def loss_of_bytes(params: Params, key: Any, batch: Any, step):
        return loss_fn(params, key, (jnp.asarray(as_float(batch[0], data.levels)), batch[1]), step)

    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = net.init(init_key, jnp.asarray(as_float(data.images[:1], data.levels)))
    if until == 0:
        return params
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, epochs * per_epoch))
    state, _ = fit(
        init_state(run_key, params, optimizer),
        make_train_step(loss_of_bytes, optimizer),
        batches([data.images, data.labels], batch_size, seed),
        per_epoch * (epochs if until is None else until),
        mesh=data_mesh(),
        directory=folder,
        description=description,
    )
    return state.params


def logits_of(net: Net, params: Params, images: np.ndarray) -> np.ndarray:
    """Logits of a whole data set, `[N, K]`."""
    return over_batches(partial(jax.jit(net.apply), params), [images], mesh=data_mesh())
