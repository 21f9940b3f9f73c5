"""A function as a list of the elementary operations that involve its input.

Bounds follow a function operation by operation, forwards (`ibp`) or backwards (`crown`). `trace` prepares that list: it
replaces calls by their bodies, computes everything that does not depend on the input, and drops everything that does
not reach the output. Values of 16 or fewer bits become float32, because bounds in half precision would round or
overflow where the model does not; each variable remembers the largest value of its own dtype.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from invjax._conv import conv_general_dilated
from invjax.bounds import _calls

_RANDOM = (
    "random_bits",
    "random_seed",
    "random_split",
    "random_fold_in",
    "random_gamma",
    "rng_uniform",
    "rng_bit_generator",
    "threefry2x32",
)


@dataclass(frozen=True, eq=False)
class Variable:
    """A value that depends on the input. Two variables are equal only if they are the same object.

    Attributes:
        shape: the shape of the value.
        dtype: the dtype of its bounds, which is float32 if the model computes the value in half precision.
        largest: the largest finite number of the model's own dtype; infinity if `dtype` overflows first.
    """

    shape: tuple[int, ...]
    dtype: Any
    largest: float = float("inf")


def variable(aval: Any) -> Variable:
    """A variable for a value of this shape and dtype."""
    dtype = wide(aval.dtype)
    return Variable(aval.shape, dtype, float("inf") if dtype == aval.dtype else float(jnp.finfo(aval.dtype).max))


def wide(dtype: Any) -> Any:
    """The dtype in which values of this dtype are bounded: at least float32 for floats, and otherwise the same."""
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype


class Operation(NamedTuple):
    """One application of a primitive.

    Attributes:
        name: name of the primitive, or of the activation of `jax.nn` that the operation is.
        function: the primitive as a function of all operands; it returns an array, or a list of several arrays.
        operands: a `Variable` for each operand that depends on the input, and an array for each that does not.
        outputs: the variables that the operation computes.
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
        """`function` of the operands that depend on the input, with all other operands filled in."""
        given = iter(values)
        return self.function(*(next(given) if isinstance(o, Variable) else o for o in self.operands))


class Noise(NamedTuple):
    """A value that is drawn at random, or computed from one; `primitive` is the name of the primitive that drew it."""

    primitive: str


class Graph(NamedTuple):
    """The operations of a function, in order.

    Attributes:
        source: the variable of the input.
        operations: the operations between input and outputs.
        outputs: a `Variable` for each output, or an array for an output that does not depend on the input.
    """

    source: Variable
    operations: tuple[Operation, ...]
    outputs: tuple[Any, ...]


def trace(function: Callable, x: Any) -> tuple[Graph, Any]:
    """The graph of a function of one array, and the tree structure of its result.

    Args:
        function: a function of one array.
        x: an array, or a `jax.ShapeDtypeStruct`, with the shape and dtype of the input.

    Raises:
        ValueError: the function draws random numbers.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    source = variable(x)
    operations: list[Operation] = []
    outputs = _inline(closed, [source], operations)
    noise = [value for value in outputs if isinstance(value, Noise)]
    if noise:
        raise ValueError(
            f"the model draws random numbers ({noise[0].primitive}), so its bounds would hold for one draw only; "
            "switch off dropout and other noise, for example with train=False or deterministic=True"
        )
    return Graph(source, _live(operations, outputs), tuple(outputs)), jax.tree.structure(shapes)


def _noise(eqn: Any, operands: list[Any]) -> Noise | None:
    """The noise in the outputs of an equation that draws random numbers or takes them; None if there is none."""
    if eqn.primitive.name in _RANDOM:
        return Noise(eqn.primitive.name)
    inner = (_noise(inner, []) for body in _calls.bodies(eqn.params) for inner in body.jaxpr.eqns)
    taken = (operand for operand in operands if isinstance(operand, Noise))
    return next((noise for noise in (*taken, *inner) if noise is not None), None)


def _live(operations: list[Operation], outputs: list[Any]) -> tuple[Operation, ...]:
    needed, live = set(map(id, outputs)), []
    for operation in reversed(operations):
        if not needed.isdisjoint(map(id, operation.outputs)):
            needed |= set(map(id, operation.operands))
            live.append(operation)
    return tuple(live[::-1])


def _inline(closed: core.ClosedJaxpr, args: list[Any], operations: list[Operation]) -> list[Any]:
    """Append the operations of `closed` applied to `args`; return its outputs."""
    jaxpr = closed.jaxpr
    consts = [_widened(const) for const in closed.consts]
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return np.asarray(atom.val, wide(atom.aval.dtype)) if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        env.update(zip(eqn.outvars, _apply(eqn, operands, operations), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: Any, operands: list[Any], operations: list[Operation]) -> list[Any]:
    """Append the operations of one equation; return its outputs."""
    name, body = eqn.primitive.name, _calls.called(eqn)
    shapes = [None if isinstance(operand, Variable) else getattr(operand, "shape", ()) for operand in operands]
    if body is not None and not _calls.is_activation(eqn, shapes):
        return _inline(body, operands, operations)
    noise = _noise(eqn, operands)
    if noise is not None:  # it matters only if it reaches the output
        return [noise] * len(eqn.outvars)
    if not any(isinstance(operand, Variable) for operand in operands):
        outputs = _function(eqn, eqn.params)(*(_like(o, atom.aval) for o, atom in zip(operands, eqn.invars, strict=True)))
        return [_widened(output) for output in (outputs if eqn.primitive.multiple_results else [outputs])]
    if name == "stop_gradient":  # the value passes unchanged, and bounds follow values
        return operands
    if name == "div" and isinstance(operands[1], Variable):
        rewritten = jax.make_jaxpr(lambda a, b: a * lax.integer_pow(b, -1))(*map(_aval, operands))
        return _inline(rewritten, operands, operations)
    if name == "conv_general_dilated":
        rewritten = jax.make_jaxpr(partial(conv_general_dilated, **_wide_params(eqn)))(*map(_aval, operands))
        if all(inner.primitive.name != name for inner in rewritten.eqns):
            return _inline(rewritten, operands, operations)
    outputs = [variable(var.aval) for var in eqn.outvars]
    if body is not None:
        label = eqn.params["name"]
        operations.append(Operation(label, _calls.ACTIVATIONS[label], tuple(operands), tuple(outputs), False))
    else:
        function = _function(eqn, _wide_params(eqn))
        operations.append(Operation(name, function, tuple(operands), tuple(outputs), eqn.primitive.multiple_results))
    return outputs


def _aval(operand):
    return jax.ShapeDtypeStruct(operand.shape, operand.dtype)


def _like(array: Any, aval: Any) -> Any:
    return array if getattr(array, "dtype", aval.dtype) == aval.dtype else jnp.asarray(array, aval.dtype)


def _widened(array: Any) -> Any:
    dtype = getattr(array, "dtype", None)
    return array if dtype is None or wide(dtype) == dtype else jnp.asarray(array, wide(dtype))


def _wide_params(eqn: Any) -> dict[str, Any]:
    """The parameters of an equation, with a wide dtype for its result."""
    return {name: wide(value) if isinstance(value, np.dtype) else value for name, value in eqn.params.items()}


def _function(eqn: Any, params: dict[str, Any]) -> Callable[..., Any]:
    """The primitive of an equation with these parameters, as a function of arrays."""
    if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
        # TF32 and bfloat16 would round bounds by a thousandth
        params = params | {"precision": (lax.Precision.HIGHEST,) * 2}
    params = eqn.primitive.get_bind_params(dict(params))

    def function(*arrays):
        with eqn.ctx.manager:
            return eqn.primitive.bind(*arrays, **params)

    return function
