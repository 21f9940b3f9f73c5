"""Run one function for each member of a population of networks, spread over all devices.

On an accelerator the members are vectorized by `jax.vmap`. On a CPU they run one after another inside one program,
which is faster and needs less memory in our measurements. The devices do not communicate.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

Member = Any
"""The description of one network of a population: a pytree of arrays, such as its architecture and learning rate."""


def population_mesh(devices: Any = None) -> Mesh:
    """A mesh with one axis, "population", along which the networks are divided.

    Args:
        devices: the devices of the mesh; None uses all of them.
    """
    return Mesh(
        np.array(list(jax.devices() if devices is None else devices)), ("population",), axis_types=(AxisType.Auto,)
    )


def over_population(
    function: Callable[..., Any], *, mesh: Mesh | None = None, vectorize: bool | None = None
) -> Callable[..., Any]:
    """Map a function over a population: `(members, *shared) -> [function(member, *shared) for each member]`.

    The results are stacked into arrays on the host. Calls with the same shapes share one compiled program.

    >>> import jax.numpy as jnp
    >>> double = over_population(lambda member, offset: 2 * member + offset)
    >>> double(jnp.arange(3), 1).tolist()
    [1, 3, 5]

    Args:
        function: `(member, *shared) -> result`, where all three are pytrees of arrays.
        mesh: a mesh from `population_mesh`; None uses all devices. The last member is repeated until the number of
            members is a multiple of the number of devices.
        vectorize: whether to use `jax.vmap` instead of a loop; None does so except on a CPU.

    Raises:
        ValueError: the mesh does not have the one axis "population", or the members differ in length.
    """
    mesh = population_mesh() if mesh is None else mesh
    compiled = spread(function, mesh, vectorize)

    def run(members, *shared):
        count = population_size(members)
        return gathered(compiled(filled(members, mesh.size), shared), count)

    return run


def spread(function: Callable[..., Any], mesh: Mesh, vectorize: bool | None) -> Callable[[Any, tuple], Any]:
    """`(members, shared) -> results`, spread over the mesh; its size must divide the number of members."""
    if mesh.axis_names != ("population",):
        raise ValueError(f"mesh must have one axis named population; got {mesh}; use population_mesh()")
    vectorize = mesh.devices.flat[0].platform != "cpu" if vectorize is None else vectorize
    split, whole = PartitionSpec("population"), PartitionSpec()

    def on_one_device(members, shared):
        if vectorize:
            return jax.vmap(lambda member: function(member, *shared))(members)
        return jax.lax.map(lambda member: function(member, *shared), members)

    return jax.jit(jax.shard_map(on_one_device, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False))


def filled(members: Member, by: int) -> Member:
    """The members, with the last one repeated until their number is a multiple of `by`."""
    count = population_size(members)
    ids = np.minimum(np.arange(-(-count // by) * by), count - 1)
    return members if len(ids) == count else jax.tree.map(lambda leaf: leaf[ids], members)


def gathered(results: Any, count: int) -> Any:
    """The first `count` results, indexed on the host, because devices would wait for each other to index them."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], results)


def population_size(members: Member) -> int:
    """The number of members, which is the length of the leading axis of every leaf.

    Args:
        members: a pytree of arrays.

    Raises:
        ValueError: there are no members, or the leaves differ in length.
    """
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(members)}
    if len(lengths) != 1 or lengths == {()} or lengths == {(0,)}:
        raise ValueError(
            f"members must have one leading axis of one length, 1 or more; got lengths {sorted(lengths)}; "
            "stack one entry for each member in every leaf"
        )
    return lengths.pop()[0]


def member_of(population: Any, index: int | np.ndarray) -> Any:
    """Take one member, or several, from a pytree with a leading population axis.

    Args:
        population: a pytree of arrays `[members, ...]`.
        index: position of the member, or an array of positions.
    """
    return jax.tree.map(lambda leaf: leaf[index], population)
