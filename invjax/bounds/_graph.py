"""A function as a list of the elementary operations that involve its input.

Bounds follow a function operation by operation, forwards (`ibp`) or backwards (`crown`). `trace` prepares that list: it
replaces calls by their bodies, computes everything that does not depend on the input, and drops everything that does
not reach the output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
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
    """A value that depends on the input. Two variables are equal only if they are the same object."""

    shape: tuple[int, ...]
    dtype: Any


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
        x: a placeholder of the input, from `typed`.

    Raises:
        ValueError: the function draws random numbers.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(x)
    source = Variable(x.shape, x.dtype)
    operations: list[Operation] = []
    outputs = _inline(closed, [source], operations)
    return Graph(source, _live(operations, outputs), tuple(outputs)), jax.tree.structure(shapes)


def _draws(eqn: Any) -> str | None:
    """The name of the primitive that draws random numbers in an equation or in what it calls, if there is one."""
    if eqn.primitive.name in _RANDOM:
        return eqn.primitive.name
    inner = (_draws(inner) for body in _calls.bodies(eqn.params) for inner in body.jaxpr.eqns)
    return next((name for name in inner if name is not None), None)


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
    env = dict(zip(jaxpr.constvars, closed.consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        draws = _draws(eqn)
        if draws is not None:
            raise ValueError(
                f"the model draws random numbers ({draws}), so its bounds would hold for one draw only; "
                "switch off dropout and other noise, for example with train=False or deterministic=True"
            )
        operands = [read(atom) for atom in eqn.invars]
        env.update(zip(eqn.outvars, _apply(eqn, operands, operations), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: Any, operands: list[Any], operations: list[Operation]) -> list[Any]:
    """Append the operations of one equation; return its outputs."""
    name, body = eqn.primitive.name, _calls.called(eqn)
    shapes = [None if isinstance(operand, Variable) else getattr(operand, "shape", ()) for operand in operands]
    if body is not None and not _calls.is_activation(eqn, shapes):
        return _inline(body, operands, operations)
    if not any(isinstance(operand, Variable) for operand in operands):
        outputs = _function(eqn)(*operands)
        return outputs if eqn.primitive.multiple_results else [outputs]
    if name == "stop_gradient":  # the value passes unchanged, and bounds follow values
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
    """The primitive of an equation with its parameters, as a function of arrays."""
    params = dict(eqn.params)
    if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
        params["precision"] = (lax.Precision.HIGHEST,) * 2  # TF32 and bfloat16 would round bounds by a thousandth
    params = eqn.primitive.get_bind_params(params)

    def function(*arrays):
        with eqn.ctx.manager:
            outputs = eqn.primitive.bind(*arrays, **params)
        return outputs[0] if _calls.called(eqn) is not None and len(eqn.outvars) == 1 else outputs

    return function
