"""The networks of these experiments: a fully invertible RevNet trained with cross-entropy (CE) or with iCE."""

import dataclasses
import functools
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
from jax.sharding import Mesh

from invjax.data import Dataset, as_float, batches, load
from invjax.evaluation import over_batches
from invjax.losses import (
    ADVERSARIES,
    cross_entropy,
    dequantize,
    error_rate,
    gradient_reversal_ice,
    independence_cross_entropy,
)
from invjax.models import Code, InvertibleClassifier, mlp, preset
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
from invjax.types import Net, Params

LOSSES = ("CE", "iCE")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the data and of the training, shared by the experiments of this paper."""

    dataset: Literal["digits", "mnist", "cifar10"] = "mnist"
    """Data set of the images."""
    data_dir: str | None = None
    """Folder of the data; by default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    train_size: int | None = None
    """Number of training images; None uses all."""
    blocks: tuple[int, ...] | None = None
    """Number of blocks of each level; None uses the preset of the data set."""
    epochs: int = 3
    """Number of passes over the training set."""
    batch_size: int = 128
    """Number of images in a training step."""
    learning_rate: float = 4e-3
    """Learning rate of Adam after a warm-up over a tenth of the steps; it then decays to zero along a cosine."""
    form: Literal["gradient-reversal", "alternating"] = "gradient-reversal"
    """How iCE trains model and critic: in one backward pass (gradient reversal), or in turns."""
    adversary: Literal["reversal", "uniform", "permuted-2019", "negated-permuted-2020"] = "reversal"
    """The nuisance loss that the model minimises in the alternating form."""
    critic_steps: int = 5
    """Steps of the nuisance classifier for each step of the model, in the alternating form."""
    critic_hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers of the nuisance classifier."""
    nuisance_weight: float = 0.3
    """Weight of the nuisance term of iCE."""
    likelihood_weight: float = 1.0
    """Weight of bits per dimension in iCE."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; each seed trains one network with each loss."""


def model_for(config: Settings, save_memory: bool = True) -> InvertibleClassifier:
    """The preset of the data set, with the configured number of blocks."""
    changes = {} if config.blocks is None else {"blocks": config.blocks}
    return preset(config.dataset, save_memory=save_memory, **changes)


def optimizer_for(config: Settings, num_steps: int) -> optax.GradientTransformation:
    """Adam with a warm-up and a cosine decay."""
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, max(num_steps // 10, 1), max(num_steps, 2))
    return optax.adam(rate)


def datasets(config: Settings) -> tuple[Dataset, Dataset]:
    """The training and the test set."""
    train, test = (load(config.dataset, split, config.data_dir) for split in ("train", "test"))
    if config.train_size is not None:
        train = train._replace(images=train.images[: config.train_size], labels=train.labels[: config.train_size])
    return train, test


def mesh_for(config: Settings) -> Mesh:
    """A mesh of the largest number of devices that divides a batch."""
    return data_mesh(jax.devices()[: math.gcd(config.batch_size, jax.device_count())])


Training = tuple[TrainStep, Callable[[jax.Array, Any], TrainState]]


@functools.cache  # compiled once for all seeds
def training_for(config: Settings, loss: str, levels: int, num_steps: int) -> Training:
    """The training step of a loss, and `(key, model parameters) -> initial state`; a batch is (bytes, labels)."""
    model = model_for(config)
    optimizer = optimizer_for(config, num_steps)
    critic_optimizer = optimizer_for(config, num_steps * config.critic_steps)  # each optimiser counts its own steps
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

    def ce_loss(params, key, batch, step):
        code, _ = encode(params, key, batch)
        return cross_entropy(code.logits, batch[1]).mean(), {"error": error_rate(code.logits, batch[1])}

    def summary(parts, code, batch):
        return {
            "error": error_rate(code.logits, batch[1]),
            "cross_entropy": parts.cross_entropy.mean(),
            "bits_per_dim": parts.bits_per_dim.mean(),
        }

    def joint_loss(params, key, batch, step):
        code, logdet = encode(params["model"], key, batch)
        parts = gradient_reversal_ice(code, logdet, partial(critic.apply, params["critic"]), batch[1], **weights)
        return parts.total.mean(), summary(parts, code, batch) | {"nuisance_cross_entropy": parts.nuisance.mean()}

    def model_loss(encoded, critic_params, key, batch, step):
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


def train(config: Settings, loss: str, seed: int, data: Dataset, folder: Path) -> Params:
    """Train a model, or continue its training; the parameters fit `model_for(config)` with and without `save_memory`.

    Args:
        config: settings.
        loss: "CE" or "iCE".
        seed: random seed of the parameters, the noise and the order of the images.
        data: the training set.
        folder: the folder of checkpoints.
    """
    init_key, run_key, _ = keys_for(loss, seed)
    num_steps = config.epochs * (len(data.labels) // config.batch_size)
    step, start = training_for(config, loss, data.levels, num_steps)
    first_images = dequantize(init_key, jnp.asarray(as_float(data.images[:512], data.levels)), data.levels)
    state, _ = fit(
        start(run_key, model_for(config).init(init_key, first_images)),
        step,
        batches([data.images, data.labels], config.batch_size, seed),
        num_steps,
        mesh=mesh_for(config),
        directory=folder,
        description=f"{loss}, seed {seed}",
    )
    return state.params["model"] if loss == "iCE" else state.params


def train_network(
    config: Settings, net: Net, name: str, seed: int, data: Dataset, folder: Path, *, epochs: int, learning_rate: float
) -> Params:
    """Train an ordinary network with cross-entropy, with the same warm-up and decay as the models."""
    init_key, run_key, _ = keys_for(name, seed)
    num_steps = epochs * (len(data.labels) // config.batch_size)
    optimizer = optimizer_for(dataclasses.replace(config, learning_rate=learning_rate), num_steps)

    def loss_fn(params, key, batch, step):
        logits = net.apply(params, jnp.asarray(as_float(batch[0], data.levels)))
        return cross_entropy(logits, batch[1]).mean(), {"error": error_rate(logits, batch[1])}

    params = net.init(init_key, jnp.asarray(as_float(data.images[:1], data.levels)))
    state, _ = fit(
        init_state(run_key, params, optimizer),
        make_train_step(loss_fn, optimizer),
        batches([data.images, data.labels], config.batch_size, seed),
        num_steps,
        mesh=mesh_for(config),
        directory=folder,
        description=f"{name}, seed {seed}",
    )
    return state.params


def keys_for(loss: str, seed: int) -> jax.Array:
    """Three keys: for the initial parameters, for training, and for the measurements after training."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), zlib.crc32(loss.encode())), 3)


def noisy(data: Dataset, seed: int) -> np.ndarray:
    """All images with one draw of dequantisation noise."""
    noise = jax.jit(partial(dequantize, levels=data.levels))
    return np.asarray(noise(jax.random.key(seed), jnp.asarray(as_float(data.images[:], data.levels))))


def codes_of(model: InvertibleClassifier, params: Params, data: Dataset, mesh: Mesh) -> Code:
    """The codes of all images of a data set, as host arrays; use `model` without `save_memory`."""
    encode = jax.jit(lambda images: model.encode(params, as_float(images, data.levels))[0])
    return over_batches(encode, [data.images], mesh=mesh)


def nuisance_pictures(model: InvertibleClassifier, params: Params, nuisance: np.ndarray, mesh: Mesh) -> np.ndarray:
    """`decode(0, z_n)`: the images with these nuisance values and logits of zero."""
    erased = jax.jit(lambda z_n: model.decode(params, Code(jnp.zeros((len(z_n), model.num_classes)), z_n)))
    return over_batches(erased, [nuisance], mesh=mesh)
