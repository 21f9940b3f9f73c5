"""Calls inside a JAX program: find the function that an equation calls, and replace the call by its operations.

`trace` uses this module to replace `jit`, `checkpoint` and custom derivatives by their bodies, to unroll scans, and to
recognize the activations of `jax.nn`, which stay whole because bounds of their parts would be loose.
"""

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
from jax.extend import core

from invjax._sharding import typed

ACTIVATIONS = {name: getattr(jax.nn, name) for name in ("softplus", "elu", "leaky_relu", "silu")}
"""Activations that use their input more than once. `relu` needs no entry because it is the single primitive `max`."""


_LIBRARIES = tuple(str(Path(file).parent) for file in (jax.__file__, jaxtyping.__file__, __file__))


def line(eqn: Any) -> str:
    """The file and line of the model's code that an equation comes from; empty if it is unknown."""
    frames = getattr(getattr(eqn.source_info, "traceback", None), "frames", ())
    own = (frame for frame in frames if not frame.file_name.startswith(_LIBRARIES) and "flax" not in frame.file_name)
    return next((f"{Path(frame.file_name).name}:{frame.line_num}" for frame in own), "")


def bodies(params: dict[str, Any]) -> Iterator[core.ClosedJaxpr]:
    """All programs among the parameters of an equation."""
    values = (item for value in params.values() for item in (value if isinstance(value, tuple) else (value,)))
    for value in values:
        if isinstance(value, core.ClosedJaxpr):
            yield value
        elif isinstance(value, core.Jaxpr) and not value.constvars:
            yield core.ClosedJaxpr(value, ())


def called(eqn: Any) -> core.ClosedJaxpr | None:
    """The program that an equation calls, with scans unrolled; None if the equation is no call or cannot be opened."""
    if eqn.primitive.name in ("while", "cond"):
        return None
    inner = list(bodies(eqn.params))
    if len(inner) != 1:
        return None
    if eqn.primitive.name == "scan":
        avals = [typed(atom.aval) for atom in eqn.invars]
        return jax.make_jaxpr(partial(_unrolled, inner[0], _counts(eqn, inner[0]), eqn.params))(*avals)
    # the body of a primitive that is not a call, such as a reduction, has other shapes than the equation
    inside, outside = ([atom.aval for atom in atoms] for atoms in (_ends_of(inner[0].jaxpr), _ends_of(eqn)))
    same = [(aval.shape, aval.dtype) for aval in inside] == [(aval.shape, aval.dtype) for aval in outside]
    return inner[0] if same else None


def _ends_of(jaxpr_or_eqn: Any) -> list[Any]:
    return [*jaxpr_or_eqn.invars, *jaxpr_or_eqn.outvars]


def _counts(eqn: Any, body: core.ClosedJaxpr) -> tuple[int, int]:
    """The number of constants and of carried values of a scan.

    The body receives both with all their axes, and every other operand without its first axis. The equation also has
    parameters with these numbers, but their names depend on the version of JAX.
    """
    whole = [
        sum(len(outer.aval.shape) == len(inner.aval.shape) for outer, inner in zip(*pair, strict=True))
        for pair in ((eqn.invars, body.jaxpr.invars), (eqn.outvars, body.jaxpr.outvars))
    ]
    return whole[0] - whole[1], whole[1]


def _unrolled(body: core.ClosedJaxpr, counts: tuple[int, int], params: dict[str, Any], *args: Any) -> list[Any]:
    (fixed, carried), length = counts, params["length"]
    consts, carry, xs = args[:fixed], list(args[fixed : fixed + carried]), args[fixed + carried :]
    step, rows = core.jaxpr_as_fun(body), []
    for i in reversed(range(length)) if params["reverse"] else range(length):
        outputs = step(*consts, *carry, *(x[i] for x in xs))
        carry = outputs[:carried]
        rows.append(outputs[carried:])
    if params["reverse"]:
        rows.reverse()
    return [*carry, *(jnp.stack(column) for column in zip(*rows, strict=True))]


def is_activation(eqn: Any, shapes: list[tuple[int, ...] | None]) -> bool:
    """Whether an equation calls one of the activations of `jax.nn`.

    Another function can have the same name, so the body is compared, too.

    Args:
        eqn: the equation.
        shapes: the shape of each operand that does not depend on the input, and None for each operand that does.
    """
    name = eqn.params.get("name")
    if name not in ACTIVATIONS or shapes[0] is not None or "jaxpr" not in eqn.params:
        return False
    if any(shape is None or shape for shape in shapes[1:]):
        return False
    like = [(typed(atom.aval), atom.aval.weak_type) for atom in eqn.invars]
    return str(eqn.params["jaxpr"]) == _body_of(name, jax.config.read("jax_enable_x64"), *like)


@cache
def _body_of(name: str, x64: bool, *avals: tuple[jax.ShapeDtypeStruct, bool]) -> str:
    like = [aval.update(weak_type=weak) for aval, weak in avals]
    with jax.enable_x64(x64):  # the constants of a body have other dtypes in the two modes
        return str(jax.make_jaxpr(ACTIVATIONS[name])(*like).jaxpr.eqns[0].params.get("jaxpr"))
