"""Functions of a batch that work however JAX spreads the batch over devices.

A mesh has axes of three types. JAX chooses the layout of arrays along automatic axes. Along explicit axes, the default
of `jax.make_mesh`, the layout is a part of the type of an array, and operations refuse arrays of different layouts.
Inside `jax.shard_map` the axes are manual, and the type of an array says along which of them it varies.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, auto_axes, explicit_axes, get_abstract_mesh, use_abstract_mesh

from invjax import _check

F = TypeVar("F", bound=Callable[..., Any])


def automatic(run: F) -> F:
    """Make all explicit axes of the mesh of `x` automatic inside of `run(model, x, ...)`, except inside of the model.

    The loops of attacks mix the batch with random keys, labels and constants of other layouts, which explicit axes
    refuse. The model may hold parameters with explicit axes, so it keeps them.

    Args:
        run: a function of a model, of a batch `x [B, ...]` and of any other arguments. The model is a function of one
            array `[B, ...]`, and the result of `run` is a pytree of arrays `[B, ...]`.

    Returns:
        The same function. Its result is spread over devices as `x` is.
    """
    signature = inspect.signature(run)

    @wraps(run)
    def on_any_mesh(*given, **named):
        bound = signature.bind(*given, **named)
        (model, x, *args), kwargs = bound.args, bound.kwargs
        mesh, axes = _explicit(x)
        if not axes:
            return run(model, x, *args, **kwargs)
        batch = PartitionSpec(jax.typeof(x).sharding.spec[0])

        def kept(z):
            # an attack on one example at a time gives the model batches of one, which no mesh can divide
            return explicit_axes(model, axes=axes, in_sharding=batch if len(z) == len(x) else PartitionSpec())(z)

        leaves, tree = jax.tree.flatten((x, args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if _explicit(leaf)[1]]

        def of_arrays(*arrays):
            every = list(leaves)
            for i, array in zip(places, arrays, strict=True):
                every[i] = array
            x, args, kwargs = jax.tree.unflatten(tree, every)
            return run(kept, x, *args, **kwargs)

        with mesh_of(x):
            run_on = auto_axes(of_arrays, axes=axes, out_sharding=NamedSharding(mesh, batch))
            return run_on(*(leaves[i] for i in places))

    return cast(F, on_any_mesh)


def check_automatic(x: Any, what: str) -> None:
    """Refuse a batch that is spread over explicit axes.

    Args:
        x: `[B, ...]`, the batch.
        what: the function that cannot take it, with which the message begins.

    Raises:
        ValueError: the mesh of x has explicit axes.
    """
    axes = _explicit(x)[1]
    if axes:
        raise ValueError(
            f"{what} takes no explicit axes; got images on explicit axes {axes}; use a mesh from training.data_mesh()"
        )


def beside(x: Any, values: Any) -> Any:
    """The values `[B, ...]` of each example, spread over explicit axes as `x [B, ...]` is.

    Args:
        x: `[B, ...]`, the batch.
        values: a pytree of arrays `[B, ...]`, such as labels or radii.
    """
    mesh, axes = _explicit(x)
    if not axes:
        return values
    return jax.reshard(values, NamedSharding(mesh, PartitionSpec(jax.typeof(x).sharding.spec[0])))


def varying(x: Any, values: Any) -> Any:
    """The values, with the type of arrays that vary along the same manual axes as `x`.

    Inside `jax.shard_map` the values that a loop carries must have one type in all its steps. Constants, with which a
    loop starts, vary along no axis.

    Args:
        x: an array, such as the batch.
        values: a pytree of arrays or numbers, such as those that a loop starts from.

    Returns:
        The values; outside of `jax.shard_map` they are the same objects.
    """
    if not get_abstract_mesh().manual_axes:
        return values

    def of_leaf(leaf):
        axes = _varies(x) - _varies(leaf)
        return jax.lax.pcast(leaf, tuple(sorted(axes)), to="varying") if axes else leaf

    return jax.tree.map(of_leaf, values)


def typed(x: Any, shape: tuple[int, ...] | None = None) -> jax.ShapeDtypeStruct:
    """A placeholder for tracing a function: `x`, or an array of another shape that varies along the same manual axes.

    Args:
        x: an array, or its type.
        shape: the other shape; None is that of `x`, with its layout.
    """
    aval = x if isinstance(x, jax.core.ShapedArray) else jax.typeof(x)
    mesh, settings = aval.sharding.mesh, {}
    if mesh.manual_axes:
        settings["manual_axis_type"] = aval.manual_axis_type
    if mesh.manual_axes or mesh.explicit_axes:
        settings["sharding"] = aval.sharding if shape is None else NamedSharding(mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(aval.shape if shape is None else shape, aval.dtype, **settings)


@contextmanager
def mesh_of(x: Any) -> Iterator[None]:
    """Enter the mesh of `x`, where JAX then places constants, if it has explicit axes and the caller is in no mesh.

    Args:
        x: an array.
    """
    mesh, axes = _explicit(x)
    if not axes or not get_abstract_mesh().empty:
        yield
    elif _check.concrete(x) and _check.concrete(jnp.zeros(())):  # the caller is not traced
        with jax.set_mesh(x.sharding.mesh):
            yield
    else:
        with use_abstract_mesh(mesh):
            yield


def _explicit(x: Any) -> tuple[Any, tuple[str, ...]]:
    """The mesh of an array, and its explicit axes; no axes for anything but an array."""
    if not isinstance(x, jax.Array):
        return None, ()
    mesh = jax.typeof(x).sharding.mesh
    return mesh, tuple(mesh.explicit_axes)


def _varies(x: Any) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying
