"""The networks of these experiments: a fully invertible RevNet trained with cross-entropy (CE) or with iCE."""

import dataclasses
import math
import zlib
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import common
from invjax.data import Dataset, as_float
from invjax.evaluation import over_batches
from invjax.losses import (
    ADVERSARIES,
    cross_entropy,
    dequantize,
    error_rate,
    gradient_reversal_ice,
    independence_cross_entropy,
)
from invjax.models import Code, InvertibleClassifier, mlp, preset, resnet
from invjax.training import Game, TrainStep, init_game, make_game_step
from invjax.types import ApplyFn, LossFn, Net, Params

LOSSES = ("CE", "iCE")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the images and of the RevNet."""

    data: common.Flat[common.Data] = common.Data()
    """The images."""
    blocks: tuple[int, ...] | None = None
    """Number of blocks of each level; None uses the preset of the data set."""
    train: common.Train = common.Train(epochs=3, batch_size=128, learning_rate=4e-3)
    """Training of the RevNet: Adam with a warm-up over a tenth of the steps, then a decay to zero along a cosine."""
    seeds: tuple[int, ...] = common.axis((0, 1, 2))
    """Random seeds; each seed trains one network of each kind."""


@dataclasses.dataclass(frozen=True)
class Ice:
    """Settings of independence cross-entropy (iCE)."""

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


ICE = Ice()


@cache
def model_for(dataset: str, blocks: tuple[int, ...] | None) -> InvertibleClassifier:
    """The fully invertible RevNet of a data set; its gradients rebuild the activations."""
    return preset(dataset, save_memory=True, **({} if blocks is None else {"blocks": blocks}))


@cache
def resnet_for(channels: tuple[int, ...]) -> Net:
    """A ResNet for ten classes with one block in each stage."""
    return resnet(10, channels, (1,) * len(channels))


@cache  # one object for all seeds, whose training step is compiled once
def ce_loss(apply_fn: ApplyFn, levels: int, dequantized: bool) -> LossFn:
    """Cross-entropy of a network, with or without dequantisation noise; a batch is (bytes, labels)."""

    def loss_fn(params, key, batch, step):
        x = as_float(batch[0], levels)
        logits = apply_fn(params, dequantize(key, x, levels) if dequantized else x)
        return cross_entropy(logits, batch[1]).mean(), {"error": error_rate(logits, batch[1])}

    return loss_fn


@cache
def ice_players(model: InvertibleClassifier, ice: Ice, levels: int) -> tuple[LossFn, Game]:
    """The players of iCE, a model and a critic, as one loss by gradient reversal and as a game of two losses."""
    critic, adversary = mlp(model.num_classes, ice.critic_hidden), ADVERSARIES[ice.adversary]
    weights: Any = {name: getattr(ice, name) for name in ("nuisance_weight", "likelihood_weight")} | {"levels": levels}

    def encode(params, key, batch):
        return model.encode(params, dequantize(key, as_float(batch[0], levels), levels))

    def summary(parts, code, batch):
        bits, error = parts.bits_per_dim.mean(), error_rate(code.logits, batch[1])
        return parts.total.mean(), {"error": error, "cross_entropy": parts.cross_entropy.mean(), "bits_per_dim": bits}

    def joint_loss(params, key, batch, step):
        code, logdet = encode(params["model"], key, batch)
        read = partial(critic.apply, params["critic"])
        parts = gradient_reversal_ice(code, logdet, read, batch[1], **weights)
        loss, metrics = summary(parts, code, batch)
        return loss, metrics | {"nuisance_cross_entropy": parts.nuisance.mean()}

    def model_loss(encoded, critic_params, key, batch, step):
        read = critic.apply(critic_params, encoded[0].nuisance)
        parts = independence_cross_entropy(key, *encoded, read, batch[1], adversary=adversary, **weights)
        return summary(parts, encoded[0], batch)

    def critic_loss(params, encoded, batch):
        return cross_entropy(critic.apply(params, encoded[0].nuisance), batch[1]).mean()

    return joint_loss, Game(encode, model_loss, critic_loss)


@cache
def _game_step(game: Game, ice: Ice, settings: common.Train, num_steps: int) -> tuple[TrainStep, Any]:
    # each optimiser counts the steps of its own player
    of_model, of_critic = (common.adam_warm_up(settings, num_steps * steps) for steps in (1, ice.critic_steps))
    return make_game_step(game, of_model, of_critic, ice.critic_steps), (of_model, of_critic)


def train(
    model: InvertibleClassifier, data: Dataset, settings: common.Train, ice: Ice | None, *, seed: int, folder: Path
) -> Params:
    """Train a model with iCE, or with cross-entropy if `ice` is None, or continue its training."""
    name, levels, arrays = "iCE" if ice else "CE", data.levels, data[:2]
    init_key, key, _ = keys_for(name, seed)
    params = model.init(init_key, dequantize(init_key, jnp.asarray(as_float(data.images[:512], levels)), levels))
    place: dict[str, Any] = {"seed": seed, "folder": folder, "description": f"{name}, seed {seed}"}
    options = {"key": key, "optimizer": common.adam_warm_up} | place
    if ice is None:
        return common.train(params, ce_loss(model.apply, levels, True), arrays, settings, **options)
    nuisance = jnp.zeros((1, math.prod(model.shape) - model.num_classes))
    critic = mlp(model.num_classes, ice.critic_hidden).init(key, nuisance)
    joint_loss, game = ice_players(model, ice, levels)
    if ice.form == "gradient-reversal":
        return common.train({"model": params, "critic": critic}, joint_loss, arrays, settings, **options)["model"]
    step, optimizers = _game_step(game, ice, settings, settings.num_steps(len(data.labels)))
    return common.advance(init_game(key, params, critic, *optimizers), step, arrays, settings, **place).params["model"]


def train_network(net: Net, name: str, data: Dataset, settings: common.Train, *, seed: int, folder: Path) -> Params:
    """Train an ordinary network with cross-entropy, with the same warm-up and decay as the models."""
    init_key, key, _ = keys_for(name, seed)
    params = net.init(init_key, jnp.asarray(as_float(data.images[:1], data.levels)))
    return common.train(params, ce_loss(net.apply, data.levels, False), data[:2], settings, key=key, seed=seed,
                        folder=folder, optimizer=common.adam_warm_up, description=f"{name}, seed {seed}")  # fmt: skip


def keys_for(name: str, seed: int) -> jax.Array:
    """Three keys of a loss or network: for the initial parameters, for training, and for the measurements."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())), 3)


def pair_up(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of at most `count` pairs of images of different classes; the first image cycles through the classes."""
    rng, count = np.random.default_rng(0), min(count, len(labels))
    order = rng.permutation(len(labels))
    by_class = [order[labels[order] == c] for c in np.unique(labels)]
    members = [by_class[i % len(by_class)] for i in range(count)]
    first = [ids[i // len(by_class) % len(ids)] for i, ids in enumerate(members)]
    return np.array(first), np.array([rng.choice(np.flatnonzero(labels != labels[i])) for i in first])


def noisy(data: Dataset, seed: int) -> np.ndarray:
    """All images with one draw of dequantisation noise."""
    noise = jax.jit(partial(dequantize, levels=data.levels))
    return np.asarray(noise(jax.random.key(seed), jnp.asarray(as_float(data.images[:], data.levels))))


@partial(jax.jit, static_argnums=(0, 1))
def _code(model, levels, params, images):
    return model.encode(params, as_float(images, levels))[0]


def codes_of(model: InvertibleClassifier, params: Params, data: Dataset, mesh: Mesh) -> Code:
    """The codes of all images of a data set, as host arrays."""
    return over_batches(partial(_code, model, data.levels, params), [data.images], mesh=mesh)


@partial(jax.jit, static_argnums=0)
def _erased(model, params, nuisance):
    return model.decode(params, Code(jnp.zeros((len(nuisance), model.num_classes)), nuisance))


def nuisance_pictures(model: InvertibleClassifier, params: Params, nuisance: np.ndarray, mesh: Mesh) -> np.ndarray:
    """`decode(0, z_n)`: the images with these nuisance values and logits of zero."""
    return over_batches(partial(_erased, model, params), [nuisance], mesh=mesh)
