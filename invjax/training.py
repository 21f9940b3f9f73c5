"""Training as a fold: `state, metrics = train_step(state, batch)`, and a loop that survives being killed.

All that a run depends on is in its state (step, parameters, optimiser, key), and the batch is a function of the step.
So a run that is killed at any moment and started again ends in the same parameters, bit for bit, as one that was not.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from invjax import _check, checkpoints
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
        loss_fn: `(params, key, batch) -> (loss, metrics)`, a mean over the batch.
        optimizer: from optax.

    Returns:
        `(state, batch) -> (state, metrics)`; the metrics gain "loss".
    """

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        (loss, metrics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params, key, batch)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), {"loss": loss, **metrics}

    return train_step


class Game(NamedTuple):
    """Two players who share one code: the model makes it, the critic reads it.

    Attributes:
        encode: `(model params, key, batch) -> code`, any pytree.
        model_loss: `(code, critic params, key, batch) -> (loss, metrics)`, what the model minimises.
        critic_loss: `(critic params, code, batch) -> loss`, what the critic minimises.
    """

    encode: Callable[[Params, Key, Batch], Any]
    model_loss: Callable[[Any, Params, Key, Batch], tuple[jax.Array, Metrics]]
    critic_loss: Callable[[Params, Any, Batch], jax.Array]


def make_game_step(game: Game, optimizer: optax.GradientTransformation, critic_steps: int) -> TrainStep:
    """Alternate: `critic_steps` steps of the critic on the detached code, then one of the model against the new critic.

    The code is computed once and its gradient pulled back once, whatever `critic_steps` is.

    Args:
        game: the two players' losses; the state's params are `{"model": ..., "critic": ...}`.
        optimizer: for both, each with a state of its own: start from `init_game`.
        critic_steps: inner steps on the same batch, at least 1.

    Raises:
        ValueError: `critic_steps` is not positive.
    """
    _check.positive(critic_steps=critic_steps)

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        model, critic = state.params["model"], state.params["critic"]
        code, pull_back = jax.vjp(lambda params: game.encode(params, key, batch), model)
        detached = jax.lax.stop_gradient(code)

        def critic_step(carry, _):
            params, opt_state = carry
            loss, gradients = jax.value_and_grad(game.critic_loss)(params, detached, batch)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        start = critic, state.opt_state["critic"]
        (critic, critic_state), critic_losses = jax.lax.scan(critic_step, start, None, length=critic_steps)

        (loss, metrics), d_code = jax.value_and_grad(game.model_loss, has_aux=True)(code, critic, key, batch)
        updates, model_state = optimizer.update(pull_back(d_code)[0], state.opt_state["model"], model)
        params = {"model": optax.apply_updates(model, updates), "critic": critic}
        state = TrainState(state.step + 1, params, {"model": model_state, "critic": critic_state}, state.key)
        return state, {"loss": loss, "critic_loss": critic_losses[-1], **metrics}

    return train_step


def init_game(key: Key, model: Params, critic: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """A state for `make_game_step` before its first step."""
    params = {"model": model, "critic": critic}
    opt_state = {player: optimizer.init(tree) for player, tree in params.items()}
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, key)


def data_mesh(devices: Iterable[jax.Device] | None = None) -> Mesh:
    """All devices along one axis, "data": each holds the parameters and takes its share of every batch."""
    return Mesh(np.array(list(devices or jax.devices())), ("data",), axis_types=(AxisType.Auto,))


def shard_batch(mesh: Mesh, batch: Batch) -> Batch:
    """Spread the leading axis of host arrays over the mesh; with several hosts each one gives its own part.

    Raises:
        ValueError: the batch does not divide by the number of devices.
    """
    for leaf in jax.tree.leaves(batch):
        _check.divisible(
            f"a batch over {mesh.size} devices",
            (leaf.shape[0] * jax.process_count(),),
            mesh.size,
            "change the batch size",
        )
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch)


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
        save_every: steps between checkpoints.
        log_every: steps between metrics.
        description: shown beside the progress bar, which is silent where standard error is not a terminal.

    Returns:
        The final state and the logged metrics, each `{"step": ..., "loss": ..., ...}`.

    Raises:
        ValueError: a number that is not positive; a checkpoint of another model in `directory`.
        FloatingPointError: the loss is no longer finite.
        OSError: a checkpoint could not be written.
    """
    _check.positive(num_steps=num_steps, save_every=save_every, log_every=log_every)
    if mesh is not None:
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    history: History = []
    if directory is not None:
        directory = Path(directory)
        saved = checkpoints.restore(directory / "checkpoints", state)
        if saved is not None:
            state = saved
            history = _read_metrics(directory / "metrics.jsonl", int(state.step))
    start = int(state.step)
    step_fn = jax.jit(train_step)
    on_cpus = mesh is not None and mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
    bar = _progress(start, num_steps, description)
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
                    "lower the learning rate or clip gradients"
                )
            history.append(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}")
        bar.update()
        if directory is not None and (done % save_every == 0 or done == num_steps):
            _write_metrics(directory / "metrics.jsonl", history)
            checkpoints.save(directory / "checkpoints", done, state)
    bar.close()
    return state, history


def _read_metrics(path: Path, last_step: int) -> History:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row["step"] <= last_step]


def _write_metrics(path: Path, rows: History) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(part, path)


def _progress(start: int, total: int, description: str) -> Any:
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm

            return tqdm(initial=start, total=total, desc=description)
        except ImportError:
            pass
    return _Silent()


class _Silent:
    """A progress bar that shows nothing."""

    def update(self) -> None: ...
    def set_postfix(self, **values: Any) -> None: ...
    def close(self) -> None: ...
