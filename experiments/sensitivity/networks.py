"""The two networks of these experiments: one with standard and one with adversarial training."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from invjax.attacks import linf, pgd
from invjax.data import Dataset, as_float, batches, load
from invjax.losses import cross_entropy, error_rate
from invjax.models import mnist_cnn
from invjax.training import adversarial_loss, data_mesh, fit, init_state, make_train_step
from invjax.types import Net, Params

TRAININGS = ("plain", "adversarial")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the data and of the training, shared by both experiments."""

    dataset: Literal["digits", "mnist"] = "mnist"
    """Data set of the images."""
    data_dir: str | None = None
    """Folder of the data; by default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    channels: tuple[int, ...] = (16, 32)
    """Channels of the convolutions of the network."""
    dense: int = 128
    """Width of the hidden dense layer of the network."""
    epochs: int = 2
    """Number of passes over the training set."""
    batch_size: int = 128
    """Number of images in a training step."""
    learning_rate: float = 2e-3
    """Initial learning rate of Adam; it decays to zero along a cosine."""
    train_eps: float = 0.3
    """Radius of the linf attack in adversarial training."""
    train_steps: int = 7
    """Number of steps of the attack in adversarial training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; each seed trains one copy of every network."""


def datasets(config: Settings) -> tuple[Dataset, Dataset]:
    """The training and the test set."""
    train, test = (load(config.dataset, split, config.data_dir) for split in ("train", "test"))
    return train, test


def network(config: Settings) -> Net:
    """The convolutional network of Madry et al. 2018 with the configured widths."""
    return mnist_cnn(10, config.channels, config.dense)


def train(config: Settings, data: Dataset, kind: str, seed: int, folder: Path) -> Params:
    """Train a network, or continue its training, by Adam with a decay to zero.

    Adversarial training has PGD in the loss. The radius grows from zero over the first third of the steps; otherwise
    training often does not start.
    """
    net = network(config)
    num_steps = config.epochs * (len(data.labels) // config.batch_size)
    draw = batches([data.images, data.labels], config.batch_size, seed)
    attack = pgd(linf(), steps=config.train_steps)
    growing = max(num_steps // 3, 1)

    def radius(step: Any) -> Any:
        return config.train_eps * jnp.minimum(1, step / growing)

    robust_loss = adversarial_loss(net.apply, attack, eps=radius)

    def loss_fn(params: Params, key: Any, batch: Any, step: Any):
        images, labels = batch
        x = jnp.asarray(as_float(images, data.levels))
        if kind == "adversarial":
            return robust_loss(params, key, (x, labels), step)
        logits = net.apply(params, x)
        return cross_entropy(logits, labels).mean(), {"error": error_rate(logits, labels)}

    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = net.init(init_key, jnp.asarray(as_float(data.images[:1], data.levels)))
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, num_steps))
    state, _ = fit(
        init_state(run_key, params, optimizer),
        make_train_step(loss_fn, optimizer),
        draw,
        num_steps,
        mesh=data_mesh(),
        directory=folder,
        description=f"{kind}, seed {seed}",
    )
    return state.params
