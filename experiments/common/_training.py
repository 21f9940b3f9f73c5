"""The training loop of all experiments: it resumes, and its step is compiled once for all seeds."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import optax

from experiments.common._folder import my_turn
from invjax.data import batches
from invjax.training import TrainState, TrainStep, data_mesh, fit, init_state, make_train_step
from invjax.types import Key, LossFn, Params


@dataclasses.dataclass(frozen=True)
class Train:
    """Settings of a training."""

    epochs: int = 10  # Number of passes over the training set.
    batch_size: int = 128  # Number of images in a training step.
    learning_rate: float = 2e-3  # Largest learning rate; it decays over the training.

    def num_steps(self, images: int) -> int:
        """The number of steps of a training on so many images."""
        return self.epochs * self.steps_per_epoch(images)

    def steps_per_epoch(self, images: int) -> int:
        """The number of steps of one pass over so many images."""
        return images // min(self.batch_size, images)


OptimizerFn = Callable[[Train, int], optax.GradientTransformation]
"""`(settings, number of steps) -> optimiser`; one function object for all seeds."""


def adam_cosine(settings: Train, num_steps: int) -> optax.GradientTransformation:
    """Adam, whose learning rate decays to zero along a cosine."""
    return optax.adam(optax.cosine_decay_schedule(settings.learning_rate, max(num_steps, 1)))


def adam_warm_up(settings: Train, num_steps: int) -> optax.GradientTransformation:
    """Adam, whose learning rate rises over a tenth of the steps and then decays to zero along a cosine."""
    warm_up = max(num_steps // 10, 1)
    return optax.adam(optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, warm_up, max(num_steps, 2)))


@cache  # all seeds share the compiled step
def _step(
    loss_fn: LossFn, optimizer_fn: OptimizerFn, settings: Train, num_steps: int
) -> tuple[TrainStep, optax.GradientTransformation]:
    optimizer = optimizer_fn(settings, num_steps)
    return make_train_step(loss_fn, optimizer), optimizer


def train(
    params: Params,
    loss_fn: LossFn,
    arrays: Sequence[Any],
    settings: Train,
    *,
    key: Key,
    seed: int,
    folder: Path,
    optimizer: OptimizerFn = adam_cosine,
    epochs: int | None = None,
) -> Params:
    """Train a network, or continue its training, and return its last parameters.

    The step is compiled once for each `loss_fn`. Trials that differ only in their seed should pass the same object, so
    make the loss in a function with `functools.cache`.

    Args:
        params: initial parameters.
        loss_fn: `(params, key, batch, step) -> (loss, metrics)`; `batch` has a part of each array.
        arrays: the training set, such as images of bytes and labels, each `[N, ...]`.
        settings: passes, batch size and learning rate.
        key: random key of the loss.
        seed: random seed of the order of the images.
        folder: folder of the checkpoints and of `metrics.jsonl`.
        optimizer: `adam_cosine`, `adam_warm_up`, or another function of the settings and the number of steps.
        epochs: number of passes after which to stop, to continue later; None is all. It must not be less than what
            the folder has finished.
    """
    if epochs == 0:
        return params
    step, made = _step(loss_fn, optimizer, settings, settings.num_steps(len(arrays[0])))
    state = init_state(key, params, made)
    return advance(state, step, arrays, settings, seed=seed, folder=folder, epochs=epochs).params


def advance(
    state: TrainState,
    step: TrainStep,
    arrays: Sequence[Any],
    settings: Train,
    *,
    seed: int,
    folder: Path,
    epochs: int | None = None,
) -> TrainState:
    """Repeat any training step, such as that of a game, with the arguments of `train`; the final state."""
    images = len(arrays[0])
    batch_size = min(settings.batch_size, images)
    with my_turn(folder):
        state, _ = fit(
            state,
            step,
            batches(list(arrays), batch_size, seed),
            settings.steps_per_epoch(images) * (settings.epochs if epochs is None else epochs),
            mesh=mesh_for(batch_size),
            directory=folder,
            description=folder.name,
        )
    return state


def mesh_for(batch_size: int) -> jax.sharding.Mesh:
    """A mesh of the largest number of devices that divides a batch.

    Raises:
        ValueError: several processes compute together, and the batch does not divide by the number of their devices.
    """
    count = math.gcd(batch_size, jax.device_count())
    if jax.process_count() > 1 and count < jax.device_count():
        raise ValueError(
            f"a batch of {batch_size} images must divide by the {jax.device_count()} devices of all processes; "
            "change the batch size"
        )
    return data_mesh(jax.devices()[:count])


def split_key(seed: int, count: int = 2) -> Key:
    """Random keys of a seed, by default one for the initial parameters and one for the training."""
    return jax.random.split(jax.random.key(seed), count)
