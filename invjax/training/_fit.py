"""The training loop: `state, metrics = train_step(state, batch)`, resumed bit for bit after a kill.

The state holds everything that a run depends on (step, parameters, optimizer state and key), and the batch is a
function of the step. A run that is killed and started again on the same devices therefore ends in the same parameters,
bit for bit, as an uninterrupted one. (On a GPU this needs `XLA_FLAGS=--xla_gpu_deterministic_ops=true`.)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from invjax import _check
from invjax._batching import data_mesh, shard_batch
from invjax._dtypes import canonical
from invjax._progress import progress
from invjax._store import local_path, sole_writer
from invjax.training import _checkpoints
from invjax.training._interrupts import Interrupted, delayed_signals
from invjax.training._log import Row, open_log, read_log
from invjax.types import Key, LossFn, Params

Batch = Any
"""A pytree of arrays whose first axis is the batch."""

Metrics = dict[str, jax.Array]
"""Scalars by name."""

History = list[Row]
"""The logged metrics, each entry with its "step"."""


class TrainState(NamedTuple):
    """The complete state of a training run, from which it can continue.

    Attributes:
        step: number of steps done, which also determines the position in the data.
        params: parameters of the model.
        opt_state: state of the optimizer.
        key: random key of the run; step `s` draws from `fold_in(key, s)`.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    key: Key


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
"""`(state, batch) -> (state, metrics)`."""


def init_state(key: Key, params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state of a run before its first step.

    Args:
        key: random key of the run.
        params: initial parameters of the model.
        optimizer: the optimizer that will update them.
    """
    params = canonical(params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)


def make_train_step(loss_fn: LossFn, optimizer: optax.GradientTransformation) -> TrainStep:
    """Make one step of gradient descent from a loss.

    Args:
        loss_fn: `(params, key, batch, step) -> (loss, metrics)`, a mean over the batch. `step` counts the steps done,
            so that radii and weights can follow optax schedules.
        optimizer: an optax optimizer.

    Returns:
        `(state, batch) -> (state, metrics)`; the metrics also hold "loss".
    """

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        (loss, metrics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params, key, batch, state.step)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), named(metrics, loss=loss)

    return train_step


def named(metrics: Metrics, **own: jax.Array) -> Metrics:
    """The metrics of a loss with those of the step.

    Raises:
        ValueError: a metric has the name of one of the step, or is called "step".
    """
    taken = sorted(metrics.keys() & {"step", *own})
    if taken:
        raise ValueError(f"the loss returns a metric named {taken[0]!r}, which the training logs itself; rename it")
    return {**own, **metrics}


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
    """Train until `num_steps` steps are done.

    With a `directory`, the run writes checkpoints and `metrics.jsonl` there, one line of metrics every `log_every`
    steps, and the same metrics as TensorBoard event files if `tensorboardX` is installed. The same call then continues
    from the newest checkpoint, with the same result as an uninterrupted run.

    Args:
        state: the state to start from if there is no checkpoint.
        train_step: a step from `make_train_step` or `make_game_step`, which is compiled here. Several runs that pass
            the same function object, with the same shapes, compile it once.
        batches: `step -> batch` of host arrays, a pure function (`data.batches`).
        num_steps: total number of steps, including those done before an interruption.
        mesh: devices that share each batch, from `data_mesh`; each of them holds all parameters.
        directory: folder for checkpoints and metrics; None saves nothing.
        save_every: number of steps between checkpoints.
        log_every: number of steps between metrics.
        description: text beside the progress bar, which a terminal and a notebook show.

    Returns:
        The final state and the logged metrics, each `{"step": ..., "loss": ..., ...}`.

    Raises:
        ValueError: a number is not positive, the checkpoint in `directory` is of another model or past `num_steps`, or
            another process trains in `directory`.
        Interrupted: Ctrl-C or SIGTERM arrived. The step was finished and saved; the exception holds the state. A second
            Ctrl-C stops at once.
        FloatingPointError: the loss is not finite, or the parameters are not finite when they should be saved.
        OSError: a checkpoint could not be written.
    """
    _check.positive(num_steps=num_steps, save_every=save_every, log_every=log_every)
    state = canonical(state)
    if mesh is not None:
        mesh = _automatic(mesh)
        # a compiled identity replicates the state, because `device_put` does not send typed keys to other hosts
        with jax.transfer_guard("allow"):
            state = jax.jit(lambda s: s, out_shardings=NamedSharding(mesh, PartitionSpec()))(state)
    directory = None if directory is None else local_path(directory)
    finished = directory is not None and num_steps in _checkpoints.steps(directory / _CHECKPOINTS)
    with sole_writer(None if finished else directory), delayed_signals() as signalled:
        if directory is not None:
            saved = _checkpoints.restore(directory / _CHECKPOINTS, state)
            state = state if saved is None else saved
        start = int(state.step)
        if start > num_steps:
            raise ValueError(
                f"num_steps={num_steps}, but {directory} is at step {start}; raise num_steps, or use another folder"
            )
        if start == num_steps:
            return state, read_log(directory, start)
        step_fn = jax.jit(train_step)
        on_cpus = mesh is not None and mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
        log, history = open_log(directory, start), []
        bar = progress(start, num_steps, description)
        try:
            for done in range(start + 1, num_steps + 1):
                batch = batches(done - 1)
                state, metrics = step_fn(state, shard_batch(mesh, batch) if mesh is not None else jax.device_put(batch))
                if on_cpus:  # the CPU devices of one process share their threads: two steps in flight can deadlock
                    jax.block_until_ready(state)
                stopped = signalled()
                if done % log_every == 0 or done == num_steps:
                    history.append(_row(done, metrics, description))
                    log.add(history[-1])
                    bar.set_postfix(loss=f"{history[-1]['loss']:.3f}")
                bar.update()
                if directory is not None and (done % save_every == 0 or done == num_steps or stopped):
                    _check_finite(state, description)
                    _checkpoints.save(directory / _CHECKPOINTS, done, state)
                stopped = signalled() if done == num_steps else stopped  # it may have come during the last save
                if stopped:
                    raise Interrupted(_how_to_go_on(stopped, done, directory), state, log.rows + history)
        finally:
            bar.close()
            log.close()
    return state, log.rows + history


def _automatic(mesh: Mesh) -> Mesh:
    """The mesh with an automatic axis, so that a loss may mix arrays of any layout; `jax.make_mesh` has explicit axes.

    Raises:
        ValueError: the mesh has other axes than "data".
    """
    if mesh.axis_names != ("data",):
        raise ValueError(f"the mesh must have one axis named data; got {mesh}; use data_mesh()")
    return data_mesh(mesh.devices.flat)


def _how_to_go_on(signal: str, done: int, directory: Path | None) -> str:
    kept = "the exception holds the state" if directory is None else "the same call goes on from there"
    return f"stopped by {signal} after step {done}; {kept}"


_CHECKPOINTS = "checkpoints"


def _row(done, metrics, description):
    row: dict[str, float | int] = {"step": done} | {name: float(value) for name, value in metrics.items()}
    if not np.isfinite(row["loss"]):
        raise FloatingPointError(
            f"{description}: the loss is {row['loss']} at step {done}; "
            "lower the learning rate or clip gradients, and check that images are finite and labels in range"
        )
    return row


def _check_finite(state, description):
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.params)):
        raise FloatingPointError(
            f"{description}: the parameters are not finite at step {int(state.step)}, and were not saved; "
            "lower the learning rate or clip gradients"
        )
