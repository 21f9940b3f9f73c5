"""The training loop: `state, metrics = train_step(state, batch)`, resumed bit for bit after a kill.

The state holds everything that a run depends on (step, parameters, optimizer state and key), and the batch is a
function of the step. A run that is killed and started again on the same devices therefore ends in the same parameters,
bit for bit, as an uninterrupted one. (On a GPU this needs `XLA_FLAGS=--xla_gpu_deterministic_ops=true`.)
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from invjax import _check
from invjax._batching import data_mesh, same_on_hosts, shard_batch
from invjax._dtypes import canonical
from invjax._explain import described
from invjax._progress import progress
from invjax._store import local_path
from invjax.training._log import Row, open_log, read_log
from invjax.training._resume import resumable
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

    Raises:
        ValueError: `key` is no random key, or `optimizer` no optimizer of optax.
    """
    _check.key(key)
    check_optimizer(optimizer)
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

    Raises:
        ValueError: `loss_fn` is no function, or `optimizer` no optimizer of optax. When the step is traced: the loss
            is not one number with a dictionary of metrics, each one number.
    """
    _check.function("loss_fn", loss_fn, "(params, key, batch, step) -> (loss, metrics)")
    check_optimizer(optimizer)

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        loss_of = with_metrics(loss_fn, "loss_fn")
        (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params, key, batch, state.step)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), named(metrics, loss=loss)

    return train_step


def check_optimizer(optimizer: Any, name: str = "optimizer") -> None:
    """Refuse anything but an optimizer of optax, such as the learning rate or the function that makes it."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ValueError(f"{name} must be made by optax; got {described(optimizer)}; such as optax.adam(1e-3)")


def with_metrics(loss_fn: Callable[..., Any], name: str) -> Callable[..., tuple[jax.Array, Metrics]]:
    """The loss, after a check of its result while it is traced.

    Raises:
        ValueError: the result is not one number with a dictionary of metrics, each one number.
    """

    def checked(*arguments):
        result = loss_fn(*arguments)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            raise ValueError(f"{name} must return (loss, metrics); got {described(result)}; write return loss, {{}}")
        _check_numbers({"loss": result[0], **result[1]}, name)
        return result

    return checked


def _check_numbers(metrics, name):
    for what, value in metrics.items():
        if jnp.shape(value):
            raise ValueError(
                f"the metric {what!r} of {name} must be one number; got shape {jnp.shape(value)}; return its mean over "
                "the batch"
            )


def _check_metrics(metrics):
    """Refuse the metrics of a step of the user's own that the log could not hold."""
    _check_numbers(metrics, "train_step")
    if "loss" not in metrics or "step" in metrics:
        raise ValueError(
            f"the metrics of train_step must hold 'loss' and not 'step', which is the number of the step; got "
            f"{sorted(metrics)}"
        )


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
        state: the state to start from if there is no checkpoint. It is copied, and stays usable; each step writes its
            result over the state before it.
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
        ValueError: a number is not positive, the checkpoint in `directory` is of another model or past `num_steps`,
            another process trains in `directory`, or several hosts start from different states or draw different
            batches.
        Interrupted: Ctrl-C or SIGTERM arrived. The step was finished and saved; the exception holds the state. A second
            Ctrl-C stops at once. Several hosts stop after the same step if one of them gets the signal.
        FloatingPointError: the loss is not finite, or the parameters are not finite when they should be saved.
        OSError: a checkpoint could not be written.
    """
    _check.count(num_steps=num_steps, save_every=save_every, log_every=log_every)
    _check_parts(state, train_step, batches)
    state = canonical(state)
    mesh = None if mesh is None else _automatic(mesh)
    state = state if mesh is None else _replicated(mesh, state)
    directory = None if directory is None else local_path(directory)
    check = partial(_check_finite, description=description)
    with resumable(num_steps, directory, save_every, check) as training:
        saved = training.restore(state)
        if saved is not None:
            state = saved
        elif mesh is None:  # the steps write over their state, so they get a copy of the one that belongs to the caller
            state = jax.tree.map(lambda leaf: jax.device_put(leaf, may_alias=False), state)
        start = int(state.step)
        if start == num_steps:
            return state, read_log(directory, start)
        step_fn = jax.jit(train_step, donate_argnums=0)  # the old state makes room for the new one
        on_cpus = mesh is not None and mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
        log = open_log(directory, start)
        history = list(log.rows)
        bar = progress(start, num_steps, description)
        try:
            for done in range(start + 1, num_steps + 1):
                batch = batches(done - 1)
                if done == start + 1:
                    same_on_hosts(mesh, "batches", batch, "pass whole batches, of which each host keeps its part")
                state, metrics = step_fn(state, shard_batch(mesh, batch) if mesh is not None else jax.device_put(batch))
                if done == start + 1:
                    _check_metrics(metrics)
                if on_cpus:  # the CPU devices of one process share their threads: two steps in flight can deadlock
                    jax.block_until_ready(state)
                if done % log_every == 0 or done == num_steps:
                    history.append(_row(done, metrics, description))
                    log.add(history[-1])
                    bar.set_postfix(loss=f"{history[-1]['loss']:.3f}")
                bar.update()
                training.end_step(done, state, history)
        finally:
            bar.close()
            log.close()
    return state, history


def _replicated(mesh, state):
    same_on_hosts(mesh, "states", state, "make the state from the same key on every host, as init_state does")
    # a compiled identity replicates the state, because `device_put` does not send typed keys to other hosts
    with jax.transfer_guard("allow"):
        return jax.jit(lambda s: s, out_shardings=NamedSharding(mesh, PartitionSpec()))(state)


def _automatic(mesh: Mesh) -> Mesh:
    """The mesh with an automatic axis, so that a loss may mix arrays of any layout; `jax.make_mesh` has explicit axes.

    Raises:
        ValueError: the mesh has other axes than "data".
    """
    if mesh.axis_names != ("data",):
        raise ValueError(f"the mesh must have one axis named data; got {mesh}; use data_mesh()")
    return data_mesh(mesh.devices.flat)


def _check_parts(state, train_step, batches):
    if not isinstance(state, TrainState):
        raise ValueError(f"state must be a TrainState; got {described(state)}; use init_state(key, params, optimizer)")
    _check.function("train_step", train_step, "(state, batch) -> (state, metrics); use make_train_step(loss_fn, ...)")
    _check.function("batches", batches, "step -> batch; use data.batches([x, y], batch_size, seed)")


def _row(done, metrics, description):
    row: dict[str, float | int] = {"step": done} | {name: float(value) for name, value in metrics.items()}
    if not np.isfinite(row["loss"]):
        raise FloatingPointError(
            f"{description}: the loss is {row['loss']} at step {done}; "
            "lower the learning rate or clip gradients, and check that images are finite and labels in range"
        )
    return row


def _check_finite(state, description):
    numbers = [leaf for leaf in jax.tree.leaves(state.params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]  # no keys
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in numbers):
        raise FloatingPointError(
            f"{description}: the parameters are not finite at step {int(state.step)}, and were not saved; "
            "lower the learning rate or clip gradients"
        )
