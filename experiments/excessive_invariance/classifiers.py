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
from invjax import losses
from invjax.data import Dataset, as_float
from invjax.evaluation import over_batches
from invjax.models import Code, InvertibleClassifier, mlp, preset
from invjax.training import Game, TrainStep, init_game, make_game_step
from invjax.types import ApplyFn, Key, LossFn, Net, Params

LOSSES = ("CE", "iCE")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the images and of the RevNet."""

    data: common.Flat[common.Data] = common.Data()  # The images.
    blocks: tuple[int, ...] | None = None  # Number of blocks of each level; None uses the preset of the data set.
    train: common.Train = common.Train(epochs=3, batch_size=128, learning_rate=4e-3)
    """Training of the RevNet: Adam with a warm-up over a tenth of the steps, then a decay to zero along a cosine."""
    seeds: tuple[int, ...] = common.axis((0, 1, 2))  # Random seeds; each seed trains one network of each kind.

    @property
    def model(self) -> InvertibleClassifier:
        """The fully invertible RevNet of the data set; its gradients rebuild the activations."""
        return revnet(self.data.dataset, self.blocks)

    @property
    def mesh(self) -> Mesh:
        """The devices of a batch."""
        return common.mesh_for(self.train.batch_size)


@dataclasses.dataclass(frozen=True)
class Ice:
    """Settings of independence cross-entropy (iCE)."""

    form: Literal["gradient-reversal", "alternating"] = "gradient-reversal"
    """How iCE trains model and critic: in one backward pass (gradient reversal), or in turns."""
    adversary: Literal["reversal", "uniform", "permuted-2019", "negated-permuted-2020"] = "reversal"
    """The nuisance loss that the model minimises in the alternating form."""
    critic_steps: int = 5  # Steps of the nuisance classifier for each step of the model, in the alternating form.
    critic_hidden: tuple[int, ...] = (512, 512)  # Widths of the hidden layers of the nuisance classifier.
    nuisance_weight: float = 0.3  # Weight of the nuisance term of iCE.
    likelihood_weight: float = 1.0  # Weight of bits per dimension in iCE.


ICE = Ice()


@cache
def revnet(dataset: str, blocks: tuple[int, ...] | None) -> InvertibleClassifier:
    return preset(dataset, save_memory=True, **({} if blocks is None else {"blocks": blocks}))


@cache  # one object for all seeds, whose training step is compiled once
def dequantized_loss(apply_fn: ApplyFn, levels: int) -> LossFn:
    return common.plain_loss(apply_fn, prepare=partial(losses.dequantize, levels=levels))


@cache
def ice_players(model: InvertibleClassifier, ice: Ice, levels: int) -> tuple[LossFn, Game]:
    """The players of iCE, a model and a critic, as one loss by gradient reversal and as a game; batches have bytes."""
    critic, adversary = mlp(model.num_classes, ice.critic_hidden), losses.ADVERSARIES[ice.adversary]
    weights: Any = {name: getattr(ice, name) for name in ("nuisance_weight", "likelihood_weight")} | {"levels": levels}

    def encode(params, key, batch):
        return model.encode(params, losses.dequantize(key, as_float(batch[0], levels), levels))

    def summary(parts, code, batch):
        bits, error = parts.bits_per_dim.mean(), losses.error_rate(code.logits, batch[1])
        return parts.total.mean(), {"error": error, "cross_entropy": parts.cross_entropy.mean(), "bits_per_dim": bits}

    def joint_loss(params, key, batch, step):
        code, logdet = encode(params["model"], key, batch)
        read = partial(critic.apply, params["critic"])
        parts = losses.gradient_reversal_ice(code, logdet, read, batch[1], **weights)
        loss, metrics = summary(parts, code, batch)
        return loss, metrics | {"nuisance_cross_entropy": parts.nuisance.mean()}

    def model_loss(encoded, critic_params, key, batch, step):
        read = critic.apply(critic_params, encoded[0].nuisance)
        parts = losses.independence_cross_entropy(key, *encoded, read, batch[1], adversary=adversary, **weights)
        return summary(parts, encoded[0], batch)

    def critic_loss(params, encoded, batch):
        return losses.cross_entropy(critic.apply(params, encoded[0].nuisance), batch[1]).mean()

    return joint_loss, Game(encode, model_loss, critic_loss)


@cache
def _game_step(game: Game, ice: Ice, settings: common.Train, num_steps: int) -> tuple[TrainStep, Any]:
    # each optimiser counts the steps of its own player
    of_model, of_critic = (common.adam_warm_up(settings, num_steps * steps) for steps in (1, ice.critic_steps))
    return make_game_step(game, of_model, of_critic, ice.critic_steps), (of_model, of_critic)


def train(config: Any, loss: str, data: Dataset, *, seed: int, folder: Path) -> Params:
    """Train the RevNet with "CE" or with "iCE", or continue its training."""
    model, levels, (init_key, key, _) = config.model, data.levels, keys_for(loss, seed)
    start = losses.dequantize(init_key, jnp.asarray(common.images_of(data, 512)), levels)
    place: dict[str, Any] = {"seed": seed, "folder": folder}
    if loss == "CE":
        return common.trained(model, dequantized_loss(model.apply, levels), data, config.train, keys=(init_key, key),
                              start=start, optimizer=common.adam_warm_up, **place)  # fmt: skip
    ice, nuisance = config.ice, jnp.zeros((1, math.prod(model.shape) - model.num_classes))
    params, critic = model.init(init_key, start), mlp(model.num_classes, ice.critic_hidden).init(key, nuisance)
    joint_loss, game = ice_players(model, ice, levels)
    if ice.form == "gradient-reversal":
        both = {"model": params, "critic": critic}
        options = {"key": key, "optimizer": common.adam_warm_up}
        return common.train(both, joint_loss, data[:2], config.train, **options, **place)["model"]
    step, optimizers = _game_step(game, ice, config.train, config.train.num_steps(len(data.labels)))
    state = init_game(key, params, critic, *optimizers)
    return common.advance(state, step, data[:2], config.train, **place).params["model"]


def train_network(net: Net, name: str, data: Dataset, settings: common.Train, *, seed: int, folder: Path) -> Params:
    """Train an ordinary network with cross-entropy, with the same warm-up and decay as the models."""
    return common.trained(net, common.plain_loss(net.apply), data, settings, seed=seed, folder=folder,
                          keys=keys_for(name, seed)[:2], optimizer=common.adam_warm_up)  # fmt: skip


def keys_for(name: str, seed: int) -> Key:
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
    noise = jax.jit(partial(losses.dequantize, levels=data.levels))
    return np.asarray(noise(jax.random.key(seed), jnp.asarray(common.images_of(data))))


@partial(jax.jit, static_argnums=(0, 1))
def _code(model, levels, params, images):
    return model.encode(params, as_float(images, levels))[0]


def codes_of(config: Settings, params: Params, data: Dataset) -> Code:
    return over_batches(partial(_code, config.model, data.levels, params), [data.images], mesh=config.mesh)


@partial(jax.jit, static_argnums=0)
def _erased(model, params, nuisance):
    return model.decode(params, Code(jnp.zeros((len(nuisance), model.num_classes)), nuisance))


def nuisance_pictures(config: Settings, params: Params, nuisance: np.ndarray) -> np.ndarray:
    """`decode(0, z_n)`: the images with these nuisance values and logits of zero."""
    return over_batches(partial(_erased, config.model, params), [nuisance], mesh=config.mesh)
