"""Train many networks in one compiled program: a population of one padded shape, spread over all devices.

All members see the same batches, which are therefore stored once. The trainer passes batches in chunks of many steps,
so that Python runs only once for each chunk.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray, Shaped

from invjax import _check
from invjax._progress import progress
from invjax._store import local_path
from invjax.training._fit import Batch, init_state, make_train_step
from invjax.training._over_population import Member, filled, gathered, population_mesh, population_size, spread
from invjax.training._resume import resumable
from invjax.types import Key, Params

Keys = Shaped[PRNGKeyArray, " population"]
"""One typed random key for each member."""

Trainer = Callable[..., tuple[Params, Float[np.ndarray, "chunks population"]]]
"""`(keys, members, batches, num_steps, *, chunk_steps, description, directory, save_every) -> (params, losses)`."""


class _Population(NamedTuple):
    """The complete state of the training of a population: its checkpoint."""

    step: np.ndarray
    members: Any
    losses: np.ndarray


def population_trainer(
    init_fn: Callable[[Key, Member], Params],
    loss_fn: Callable[[Member, Params, Key, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]],
    optimizer_fn: Callable[[Member], optax.GradientTransformation],
    *,
    mesh: Mesh | None = None,
    vectorize: bool | None = None,
) -> Trainer:
    """Make a function that trains populations; all populations of the same shapes are compiled once.

    Args:
        init_fn: `(key, member) -> params`.
        loss_fn: `(member, params, key, batch, step) -> (loss, metrics)`; the metrics are discarded.
        optimizer_fn: `member -> optimizer`; the learning rate may come from the member.
        mesh: a mesh from `population_mesh`; None uses all devices.
        vectorize: whether to use `jax.vmap` instead of a loop; None does so except on a CPU.

    Returns:
        `train(keys [N], members, batches, num_steps, chunk_steps=..., description=...) -> (params, losses)`. It takes
        one random key for each member, members with a leading axis, and `step -> batch` of host arrays as in
        `training.fit`. It returns parameters with a leading axis, and each member's mean loss over each chunk of
        `chunk_steps` steps. A member that diverges affects only its own parameters and losses. A member's result
        depends on the others only through the padded shape.

        With `directory=`, the training writes a checkpoint there after a chunk about every `save_every` steps, and the
        same call continues from the newest one, with the same result as an uninterrupted training. Ctrl-C and SIGTERM
        raise `Interrupted` after a chunk, as in `training.fit`.
    """
    mesh = population_mesh() if mesh is None else mesh

    def begin(keyed):
        key, member = keyed
        init_key, run_key = jax.random.split(key)
        return init_state(run_key, init_fn(init_key, member), optimizer_fn(member))

    def advance(running, chunk):
        state, member = running
        step = make_train_step(partial(loss_fn, member), optimizer_fn(member))
        state, metrics = jax.lax.scan(step, state, chunk)
        return state, metrics["loss"].mean()

    begin_all, advance_all = spread(begin, mesh, vectorize), spread(advance, mesh, vectorize)

    def train(
        keys: Keys,
        members: Member,
        batches: Callable[[int], Batch],
        num_steps: int,
        *,
        chunk_steps: int = 100,
        description: str = "training a population",
        directory: str | Path | None = None,
        save_every: int = 500,
    ) -> tuple[Params, Float[np.ndarray, "chunks population"]]:
        _check.count(num_steps=num_steps, chunk_steps=chunk_steps, save_every=save_every)
        _check.function("batches", batches, "step -> batch; use data.batches([x, y], batch_size, seed)")
        _check.divisible("training in chunks of chunk_steps", (num_steps,), chunk_steps, "change one of the two")
        count = population_size((keys, members))
        keys, members = filled((keys, members), mesh.size)
        state = begin_all((keys, members), ())
        losses = np.full((num_steps // chunk_steps, count), np.nan, jnp.result_type(float))
        directory = None if directory is None else local_path(directory)
        with resumable(num_steps, directory, save_every) as training:
            saved = training.restore(_Population(np.zeros((), np.int32), state, losses))
            done = 0 if saved is None else int(saved.step)
            state, losses = (state, losses) if saved is None else (saved.members, np.array(saved.losses))
            del saved  # its buffers
            bar = progress(done // chunk_steps, len(losses), description)
            for start in range(done, num_steps, chunk_steps):
                done = start + chunk_steps
                chunk = jax.tree.map(lambda *rows: np.stack(rows), *map(batches, range(start, done)))
                state, loss = advance_all((state, members), (chunk,))
                losses[start // chunk_steps] = gathered(loss, count)
                bar.update()
                training.end_step(done, _Population(np.asarray(done, np.int32), state, losses), losses)
            bar.close()
        return gathered(state.params, count), losses

    return train
