"""Many networks trained in one compiled program: a population of one padded shape, spread over all devices.

`over_population` runs a function for each member of a population: at once (`jax.vmap`) on an accelerator, one after
another inside one program on CPU, where that was measured faster and smaller; members are spread over devices, which
do not talk to each other. `population_trainer` trains with it. All members see the same batches, which therefore exist
once, and are read in chunks of many steps, so that Python is asked for once in a chunk.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Float, PRNGKeyArray, Shaped

from invjax import _check
from invjax._progress import progress
from invjax.training._fit import Batch, init_state, make_train_step
from invjax.types import Key, Params

Keys = Shaped[PRNGKeyArray, " population"]
"""A typed random key for each member."""

Member = Any
"""What makes one network of a population: a pytree of arrays, such as its architecture and its learning rate."""


def population_mesh(devices: Any = None) -> Mesh:
    """All devices along one axis, "population": each takes its share of the networks."""
    return Mesh(
        np.array(list(jax.devices() if devices is None else devices)), ("population",), axis_types=(AxisType.Auto,)
    )


def over_population(
    function: Callable[..., Any], *, mesh: Mesh | None = None, at_once: bool | None = None
) -> Callable[..., Any]:
    """`(members, *shared) -> [function(member, *shared) for each member]`, stacked, on the host.

    Compiled once for all calls of the same shapes.

    >>> import jax.numpy as jnp
    >>> double = over_population(lambda member, offset: 2 * member + offset)
    >>> double(jnp.arange(3), 1).tolist()
    [1, 3, 5]

    Args:
        function: of one member, a pytree, and of shared pytrees.
        mesh: of `population_mesh`; by default one of all devices. Members that do not divide by it are filled up.
        at_once: `jax.vmap`, or one after another; by default the former except on CPU.

    Raises:
        ValueError: a mesh without the one axis "population"; members of different lengths.
    """
    mesh = population_mesh() if mesh is None else mesh
    spread = _spread(function, mesh, at_once)

    def run(members, *shared):
        count = population_size(members)
        return _gathered(spread(_filled(members, mesh.size), shared), count)

    return run


def _spread(function: Callable[..., Any], mesh: Mesh, at_once: bool | None) -> Callable[[Any, tuple], Any]:
    """`(members, shared) -> results`, both spread over the mesh, which the number of members must divide by."""
    if mesh.axis_names != ("population",):
        raise ValueError(f"the mesh must have one axis named population; got {mesh}; use population_mesh()")
    at_once = mesh.devices.flat[0].platform != "cpu" if at_once is None else at_once
    split, whole = PartitionSpec("population"), PartitionSpec()

    def share(members, shared):
        if at_once:
            return jax.vmap(lambda member: function(member, *shared))(members)
        return jax.lax.map(lambda member: function(member, *shared), members)

    return jax.jit(jax.shard_map(share, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False))


def _filled(members: Member, by: int) -> Member:
    """The members, the last one repeated until their number divides by `by`."""
    count = population_size(members)
    ids = np.minimum(np.arange(-(-count // by) * by), count - 1)
    return members if len(ids) == count else jax.tree.map(lambda leaf: leaf[ids], members)


def _gathered(results: Any, count: int) -> Any:
    """The first `count` results on the host: to index on the devices would make them wait for each other."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], results)


def population_size(members: Member) -> int:
    """The number of members: the length of the leading axis of all leaves.

    Raises:
        ValueError: there is none, or they differ.
    """
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(members)}
    if len(lengths) != 1 or lengths == {()} or lengths == {(0,)}:
        raise ValueError(f"members must have one leading axis of one length, 1 or more; got lengths {sorted(lengths)}")
    return lengths.pop()[0]


Trainer = Callable[..., tuple[Params, Float[np.ndarray, "chunks population"]]]


def population_trainer(
    init_fn: Callable[[Key, Member], Params],
    loss_fn: Callable[[Member, Params, Key, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]],
    optimizer_fn: Callable[[Member], optax.GradientTransformation],
    *,
    mesh: Mesh | None = None,
    at_once: bool | None = None,
) -> Trainer:
    """Make a function that trains populations; several of the same shapes are compiled once.

    Args:
        init_fn: a member's parameters.
        loss_fn: `(member, params, key, batch, step) -> (loss, metrics)`; the metrics are not kept.
        optimizer_fn: a member's optimiser; its learning rate may come from the member.
        mesh: see `over_population`.
        at_once: see `over_population`.

    Returns:
        `train(keys [N], members, batches, num_steps, steps_at_once=..., description=...) -> (params, losses)`: a random
        key each, members with a leading axis, `step -> batch` of host arrays as in `training.fit`; parameters with a
        leading axis, and each member's mean loss over each chunk of `steps_at_once` steps. A member that diverges
        harms no other: look at its losses. What a member becomes depends on the others by their common shape alone
        (masked networks draw at the padded one).
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

    begin_all, advance_all = _spread(begin, mesh, at_once), _spread(advance, mesh, at_once)

    def train(
        keys: Keys, members: Member, batches: Callable[[int], Batch], num_steps: int, *, steps_at_once: int = 100,
        description: str = "training a population",
    ) -> tuple[Params, Float[np.ndarray, "chunks population"]]:  # fmt: skip
        _check.positive(num_steps=num_steps, steps_at_once=steps_at_once)
        _check.divisible("training in chunks of steps_at_once", (num_steps,), steps_at_once, "change one of the two")
        count = population_size((keys, members))
        keys, members = _filled((keys, members), mesh.size)
        state, losses = begin_all((keys, members), ()), []
        bar = progress(0, num_steps // steps_at_once, description)
        for start in range(0, num_steps, steps_at_once):
            chunk = jax.tree.map(lambda *rows: np.stack(rows), *map(batches, range(start, start + steps_at_once)))
            state, loss = advance_all((state, members), (chunk,))
            losses.append(_gathered(loss, count))
            bar.update()
        bar.close()
        return _gathered(state.params, count), np.stack(losses)

    return train


def member_of(population: Any, index: int | np.ndarray) -> Any:
    """One member's part of a pytree with a leading population axis; an array of indices takes several."""
    return jax.tree.map(lambda leaf: leaf[index], population)
