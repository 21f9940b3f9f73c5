"""Training as a fold: `state, metrics = train_step(state, batch)`, and a loop that survives being killed.

All that a run depends on is in its state (step, parameters, optimiser, key), and the batch is a function of the step.
So a run that is killed at any moment and started again on the same devices ends in the same parameters, bit for bit, as
one that was not. (On GPU this needs `XLA_FLAGS=--xla_gpu_deterministic_ops=true`.)
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from invjax import _check
from invjax._batching import shard_batch
from invjax._progress import progress
from invjax._store import write_file
from invjax.training import _checkpoints
from invjax.types import Key, LossFn, Params

Batch = Any
Metrics = dict[str, jax.Array]
History = list[dict[str, float | int]]


class TrainState(NamedTuple):
    """Everything a training run is: restore it and go on.

    Attributes:
        step: steps done; with it comes the position in the data.
        params: the parameters.
        opt_state: the optimiser's state.
        key: the run's random key; step `s` draws from `fold_in(key, s)`.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    key: Key


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def init_state(key: Key, params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """A state before its first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)


def make_train_step(loss_fn: LossFn, optimizer: optax.GradientTransformation) -> TrainStep:
    """One step of gradient descent.

    Args:
        loss_fn: `(params, key, batch, step) -> (loss, metrics)`, a mean over the batch; `step` counts those done, so
            radii and weights can follow optax schedules.
        optimizer: from optax.

    Returns:
        `(state, batch) -> (state, metrics)`; the metrics gain "loss".
    """

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        (loss, metrics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params, key, batch, state.step)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), {"loss": loss, **metrics}

    return train_step


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Callable[[int], Batch],
    num_steps: int,
    *,
    mesh: Mesh | None = None,
    directory: str | Path | None = None,
    save_every: int = 500,
    log_every: int = 50,
    description: str = "training",
) -> tuple[TrainState, History]:
    """Run `train_step` until `num_steps` steps are done.

    With a `directory` the run is saved there: checkpoints, and `metrics.jsonl` with one line each `log_every` steps.
    Started again with the same arguments it goes on from the newest checkpoint, to the same result.

    Args:
        state: where to start if there is no checkpoint.
        train_step: from `make_train_step` or `make_game_step`; compiled here. Pass the same function object for several
            runs of the same shapes and it is compiled once.
        batches: `step -> batch` of host arrays, a pure function (`data.batches`).
        num_steps: in total, those done before an interruption included.
        mesh: spread each batch over these devices (`data_mesh()`); parameters are replicated.
        directory: where checkpoints and metrics go; None keeps nothing.
        save_every: steps between _checkpoints.
        log_every: steps between metrics.
        description: shown beside the progress bar, which is silent where standard error is not a terminal.

    Returns:
        The final state and the logged metrics, each `{"step": ..., "loss": ..., ...}`.

    Raises:
        ValueError: a number that is not positive; a checkpoint in `directory` of another model, or past `num_steps`.
        FloatingPointError: the loss or, before they are saved, the parameters are no longer finite.
        OSError: a checkpoint could not be written.
    """
    _check.positive(num_steps=num_steps, save_every=save_every, log_every=log_every)
    if mesh is not None:
        # by a compiled identity: `device_put` does not take typed keys to other hosts
        state = jax.jit(lambda s: s, out_shardings=NamedSharding(mesh, PartitionSpec()))(state)
    history: History = []
    if directory is not None:
        directory = Path(directory)
        saved = _checkpoints.restore(directory / "checkpoints", state)
        if saved is not None:
            state = saved
            history = _read_metrics(directory / "metrics.jsonl", int(state.step))
        _write_metrics(directory / "metrics.jsonl", history)
    start = int(state.step)
    if start > num_steps:
        raise ValueError(
            f"num_steps={num_steps}, but {directory} is at step {start}; ask for more, or use another folder"
        )
    step_fn = jax.jit(train_step)
    on_cpus = mesh is not None and mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
    bar = progress(start, num_steps, description)
    for step in range(start, num_steps):
        batch = batches(step)
        state, metrics = step_fn(state, shard_batch(mesh, batch) if mesh is not None else batch)
        if on_cpus:  # devices of one process share its threads: two steps in flight wait for each other for ever
            jax.block_until_ready(state)
        done = step + 1
        if done % log_every == 0 or done == num_steps:
            row: dict[str, float | int] = {"step": done} | {name: float(value) for name, value in metrics.items()}
            if not np.isfinite(row["loss"]):
                raise FloatingPointError(
                    f"{description}: the loss is {row['loss']} at step {done}; "
                    "lower the learning rate or clip gradients, and check that images are finite and labels in range"
                )
            history.append(row)
            if directory is not None and jax.process_index() == 0:
                with (directory / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")
            bar.set_postfix(loss=f"{row['loss']:.3f}")
        bar.update()
        if directory is not None and (done % save_every == 0 or done == num_steps):
            if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.params)):
                raise FloatingPointError(
                    f"{description}: the parameters are no longer finite at step {done}, and were not saved; "
                    "lower the learning rate or clip gradients"
                )
            _checkpoints.save(directory / "checkpoints", done, state)
    bar.close()
    return state, history


def _read_metrics(path: Path, last_step: int) -> History:
    text = path.read_text() if path.exists() else ""
    rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [row for row in rows if row["step"] <= last_step]  # what came after the checkpoint is computed again


def _write_metrics(path: Path, rows: History) -> None:
    write_file(path, "".join(json.dumps(row) + "\n" for row in rows))
