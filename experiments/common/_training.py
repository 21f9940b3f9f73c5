"""The training loop of experiments: Adam with a warm-up and a cosine decay, resumable, compiled once for all seeds."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from invjax.data import batches
from invjax.training import data_mesh, fit, init_state, make_train_step
from invjax.types import Key, LossFn, Params


@dataclasses.dataclass(frozen=True)
class Train:
    """Settings of a training."""

    epochs: int = 10
    """Number of passes over the training set."""
    batch_size: int = 128
    """Number of images in a training step."""
    learning_rate: float = 2e-3
    """Learning rate of Adam after a warm-up over a tenth of the steps; it then decays to zero along a cosine."""

    def num_steps(self, images: int) -> int:
        """The number of steps of a training on so many images."""
        return self.epochs * (images // self.batch_size)


@cache  # all seeds share the compiled step
def _step(loss_fn: LossFn, learning_rate: float, num_steps: int) -> tuple[Any, optax.GradientTransformation]:
    schedule = optax.warmup_cosine_decay_schedule(0, learning_rate, num_steps // 10, num_steps)
    optimizer = optax.adam(schedule)
    return make_train_step(loss_fn, optimizer), optimizer


def train(
    init: Callable[[Key, Any], Params],
    loss_fn: LossFn,
    arrays: Sequence[np.ndarray],
    settings: Train,
    *,
    seed: int,
    folder: Path,
    start: Callable[[Key, Any], Any],
    description: str = "training",
) -> Params:
    """Train a network, or continue its training, and return its last parameters.

    The step is compiled once for each `loss_fn`. Trials that differ only in their seed should pass the same object, so
    make the loss in a function with `functools.cache`.

    Args:
        init: `(key, x) -> params`, such as the `init` of a net.
        loss_fn: `(params, key, batch, step) -> (loss, metrics)`; `batch` has a part of each array.
        arrays: the training set, such as images of bytes and labels, each `[N, ...]`.
        settings: passes, batch size and learning rate.
        seed: random seed of the initial parameters and of the order of the images.
        folder: folder of the checkpoints and of `metrics.jsonl`.
        start: `(key, first) -> x`, the images that `init` gets, from the first 512 entries of the first array.
        description: text beside the progress bar.
    """
    init_key, start_key, run_key = jax.random.split(jax.random.key(seed), 3)
    num_steps = settings.num_steps(len(arrays[0]))
    step, optimizer = _step(loss_fn, settings.learning_rate, num_steps)
    params = init(init_key, start(start_key, jnp.asarray(arrays[0][:512])))
    state, _ = fit(
        init_state(run_key, params, optimizer),
        step,
        batches(list(arrays), settings.batch_size, seed),
        num_steps,
        mesh=data_mesh(),
        directory=folder,
        description=description,
    )
    return state.params
