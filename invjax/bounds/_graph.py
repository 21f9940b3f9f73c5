"""A function as the list of elementary operations that its input takes part in.

Bounds follow a function operation by operation, forwards (`interval`) or backwards (`linear`). `trace` prepares that
list: calls are opened (jit, checkpoint, custom derivatives, scans unrolled), what does not depend on the input is
computed, and what does not reach the output is left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from invjax._conv import conv_general_dilated

_RANDOM = ("random_bits", "random_seed", "random_split", "random_fold_in", "random_gamma", "rng_uniform",
           "rng_bit_generator", "threefry2x32")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Variable:
    """A value that depends on the input; each one is itself and no other."""

    shape: tuple[int, ...]
    dtype: Any


class Operation(NamedTuple):
    """One application of a primitive.

    Attributes:
        name: of the primitive, or of the activation of `jax.nn` that it is.
        function: arrays for all operands in, an array out, or a list of arrays if there are several outputs.
        operands: a `Variable`, or the array itself where it does not depend on the input.
        outputs: its variables.
        several: whether `function` returns a list.
    """

    name: str
    function: Callable[..., Any]
    operands: tuple[Any, ...]
    outputs: tuple[Variable, ...]
    several: bool

    @property
    def dependent(self) -> tuple[Variable, ...]:
        """The operands that depend on the input, in order."""
        return tuple(operand for operand in self.operands if isinstance(operand, Variable))

    def of_dependent(self, *values: Any) -> Any:
        """`function` with the other operands filled in."""
        given = iter(values)
        return self.function(*(next(given) if isinstance(o, Variable) else o for o in self.operands))


class Graph(NamedTuple):
    """`source` is the input; `outputs` are variables, or arrays where an output does not depend on it."""

    source: Variable
    operations: tuple[Operation, ...]
    outputs: tuple[Any, ...]


def trace(function: Callable, x: Any) -> tuple[Graph, Any]:
    """The graph of `function` of one array like `x`, and the tree structure of what it returns.

    Raises:
        ValueError: the function draws random numbers.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    source = Variable(x.shape, x.dtype)
    operations: list[Operation] = []
    outputs = _inline(closed, [source], operations)
    return Graph(source, _live(operations, outputs), tuple(outputs)), jax.tree.structure(shapes)


def _draws(eqn: Any) -> str | None:
    """The primitive that draws random numbers in an equation, or in what it calls."""
    if eqn.primitive.name in _RANDOM:
        return eqn.primitive.name
    inner = (_draws(inner) for body in _bodies(eqn.params) for inner in body.jaxpr.eqns)
    return next((name for name in inner if name is not None), None)


def _live(operations: list[Operation], outputs: list[Any]) -> tuple[Operation, ...]:
    needed, kept = set(map(id, outputs)), []
    for operation in reversed(operations):
        if not needed.isdisjoint(map(id, operation.outputs)):
            needed |= set(map(id, operation.operands))
            kept.append(operation)
    return tuple(kept[::-1])


def _inline(closed: core.ClosedJaxpr, args: list[Any], operations: list[Operation]) -> list[Any]:
    """Append the operations of `closed` applied to `args`; returns its outputs."""
    jaxpr = closed.jaxpr
    env = dict(zip(jaxpr.constvars, closed.consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        draws = _draws(eqn)
        if draws is not None:
            raise ValueError(
                f"the model draws random numbers ({draws}): its bounds would hold for this one draw; "
                "switch dropout and other noise off, such as by train=False or deterministic=True"
            )
        operands = [read(atom) for atom in eqn.invars]
        env.update(zip(eqn.outvars, _apply(eqn, operands, operations), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: Any, operands: list[Any], operations: list[Operation]) -> list[Any]:
    name, body = eqn.primitive.name, _opened(eqn)
    if body is not None and not _recognised(eqn, operands):
        return _inline(body, operands, operations)
    if not any(isinstance(operand, Variable) for operand in operands):
        outputs = _function(eqn)(*operands)
        return outputs if eqn.primitive.multiple_results else [outputs]
    if name == "stop_gradient":  # a bound is no derivative
        return operands
    if name == "div" and isinstance(operands[1], Variable):
        rewritten = jax.make_jaxpr(lambda a, b: a * lax.integer_pow(b, -1))(*map(_aval, operands))
        return _inline(rewritten, operands, operations)
    if name == "conv_general_dilated":
        rewritten = jax.make_jaxpr(partial(conv_general_dilated, **eqn.params))(*map(_aval, operands))
        if all(inner.primitive.name != name for inner in rewritten.eqns):
            return _inline(rewritten, operands, operations)
    outputs = [Variable(var.aval.shape, var.aval.dtype) for var in eqn.outvars]
    label = eqn.params["name"] if body is not None else name
    several = eqn.primitive.multiple_results and body is None
    operations.append(Operation(label, _function(eqn), tuple(operands), tuple(outputs), several))
    return outputs


def _aval(operand):
    return jax.ShapeDtypeStruct(operand.shape, operand.dtype)


def _function(eqn: Any) -> Callable[..., Any]:
    params = dict(eqn.params)
    if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
        params["precision"] = (lax.Precision.HIGHEST,) * 2  # TF32 and bfloat16 would round bounds by a thousandth
    params = eqn.primitive.get_bind_params(params)

    def function(*arrays):
        with eqn.ctx.manager:
            outputs = eqn.primitive.bind(*arrays, **params)
        return outputs[0] if _opened(eqn) is not None and len(eqn.outvars) == 1 else outputs

    return function


def _opened(eqn: Any) -> core.ClosedJaxpr | None:
    """What a call calls; a scan is unrolled."""
    if eqn.primitive.name in ("while", "cond"):
        return None
    bodies = list(_bodies(eqn.params))
    if len(bodies) != 1:
        return None
    if eqn.primitive.name == "scan":
        avals = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars]
        return jax.make_jaxpr(partial(_unrolled, bodies[0], _counts(eqn, bodies[0]), eqn.params))(*avals)
    # what is no call, such as a reduction, has a body of other shapes
    inside, outside = ([atom.aval for atom in atoms] for atoms in (_ends_of(bodies[0].jaxpr), _ends_of(eqn)))
    same = [(aval.shape, aval.dtype) for aval in inside] == [(aval.shape, aval.dtype) for aval in outside]
    return bodies[0] if same else None


def _ends_of(jaxpr_or_eqn: Any) -> list[Any]:
    return [*jaxpr_or_eqn.invars, *jaxpr_or_eqn.outvars]


def _bodies(params: dict[str, Any]) -> Iterator[core.ClosedJaxpr]:
    values = (item for value in params.values() for item in (value if isinstance(value, tuple) else (value,)))
    for value in values:
        if isinstance(value, core.ClosedJaxpr):
            yield value
        elif isinstance(value, core.Jaxpr) and not value.constvars:
            yield core.ClosedJaxpr(value, ())


def _counts(eqn: Any, body: core.ClosedJaxpr) -> tuple[int, int]:
    """How many constants and carried values a scan has: one step sees these whole, and all else without an axis.

    The parameters that say so are not the same in all versions of JAX.
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


_ACTIVATIONS = {name: getattr(jax.nn, name) for name in ("softplus", "elu", "leaky_relu", "silu")}
"""They use their input more than once, so that bounds of their parts would be loose. The primitive `max` is all of
`relu`, and needs no name."""


def _recognised(eqn: Any, operands: list[Any]) -> bool:
    """Whether a call is of one of `_ACTIVATIONS`: by its name and, since anybody can use a name, by what it does."""
    name = eqn.params.get("name")
    if name not in _ACTIVATIONS or not isinstance(operands[0], Variable) or "jaxpr" not in eqn.params:
        return False
    if any(isinstance(operand, Variable) or operand.ndim for operand in operands[1:]):
        return False
    avals = [atom.aval for atom in eqn.invars]
    return str(eqn.params["jaxpr"]) == _body_of(name, *[(a.shape, a.dtype, a.weak_type) for a in avals])


@cache
def _body_of(name: str, *avals: tuple[tuple[int, ...], Any, bool]) -> str:
    like = [jax.ShapeDtypeStruct(shape, dtype, weak_type=weak) for shape, dtype, weak in avals]
    return str(jax.make_jaxpr(_ACTIVATIONS[name])(*like).jaxpr.eqns[0].params.get("jaxpr"))
