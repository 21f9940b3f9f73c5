"""The elementary operations of a program that involve its input.

`inlined` follows a traced program: it replaces calls by their bodies, and computes everything that does not depend on
the input. Floats of 16 or fewer bits become float32, because bounds in half precision would round or overflow where the
model does not; each variable remembers the largest value of its own dtype.
"""

import contextlib
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
from invjax._dtypes import wide_dtype
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
_FOLDED = 4096
"""The largest number of entries of a constant that is computed while the program is traced."""
_STEPS = 10_000
"""The largest number of steps of a loop."""


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


class Operation(NamedTuple):
    """One application of a primitive, or of a function that bounds treat as one operation.

    Attributes:
        name: name of the primitive or of the function.
        function: the operation as a function of all operands; it returns an array, or a list of several arrays.
        operands: a `Variable` for each operand that depends on the input, and an array for each that does not.
        outputs: the variables that the operation computes.
        several: whether `function` returns a list.
        params: the parameters of the primitive, or the axes of the function.
        line: the line of the model's code, for errors.
    """

    name: str
    function: Callable[..., Any]
    operands: tuple[Any, ...]
    outputs: tuple[Variable, ...]
    several: bool
    params: dict[str, Any]
    line: str

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


def variable(aval: Any) -> Variable:
    """A variable for a value of this shape and dtype."""
    dtype = wide(aval.dtype)
    return Variable(aval.shape, dtype, float("inf") if dtype == aval.dtype else float(jnp.finfo(aval.dtype).max))


def wide(dtype: Any) -> Any:
    """The dtype in which values of this dtype are bounded: at least float32 for floats, and otherwise the same."""
    return wide_dtype(dtype) if jnp.issubdtype(dtype, jnp.floating) else dtype


def inlined(closed: core.ClosedJaxpr, args: list[Any], operations: list[Operation]) -> list[Any]:
    """Append the operations of a program to `operations`, and return its outputs.

    Args:
        closed: the program.
        args: its inputs, each a `Variable`, an array or `Noise`.
        operations: receives the operations, in order.

    Returns:
        The outputs, each a `Variable`, an array or `Noise`.
    """
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
        return inlined(body, operands, operations)
    noise = _noise(eqn, operands)
    if noise is not None:  # it matters only if it reaches the output
        return [noise] * len(eqn.outvars)
    if not any(isinstance(operand, Variable) for operand in operands):
        return _computed(eqn, operands)
    if name == "stop_gradient":  # the value passes unchanged, and bounds follow values
        return operands
    opened = (
        {"cond": _branched, "while": _looped}[name](eqn, operands, operations) if name in ("cond", "while") else None
    )
    if opened is not None:
        return opened
    rewritten = _rewritten(eqn, operands, operations)
    if rewritten is not None:
        like = [jax.ShapeDtypeStruct(operand.shape, operand.dtype) for operand in operands]
        return inlined(jax.make_jaxpr(rewritten)(*like), operands, operations)
    outputs = tuple(variable(var.aval) for var in eqn.outvars)
    if body is not None:
        label, function, several = eqn.params["name"], _calls.ACTIVATIONS[eqn.params["name"]], False
    else:
        label, function, several = name, _function(eqn, _wide_params(eqn)), eqn.primitive.multiple_results
    operations.append(Operation(label, function, tuple(operands), outputs, several, eqn.params, _calls.line(eqn)))
    return list(outputs)


def _rewritten(eqn: Any, operands: list[Any], operations: list[Operation]) -> Callable[..., Any] | None:
    """A function with the values of an equation and tighter bounds; None if the equation stays as it is."""
    name = eqn.primitive.name
    if name == "div" and isinstance(operands[1], Variable) and jnp.issubdtype(operands[1].dtype, jnp.floating):
        return lambda a, b: a * lax.integer_pow(b, -1)
    if name == "mul" and operands[0] is operands[1]:
        return lambda a, b: lax.square(a)
    if name == "dot_general" and operands[0] is operands[1]:
        (contracted, other), batch = eqn.params["dimension_numbers"]
        if contracted == other and batch == ((), ()) and len(contracted) == len(operands[0].shape):
            return lambda a, b: lax.square(a).sum()
    if name == "conv_general_dilated":
        function = partial(conv_general_dilated, **_wide_params(eqn))
        like = [jax.ShapeDtypeStruct(operand.shape, operand.dtype) for operand in operands]
        inner = jax.make_jaxpr(function)(*like).eqns
        return function if all(step.primitive.name != name for step in inner) else None
    if name == "select_n" and len(operands) == 3 and isinstance(operands[0], Variable):
        return _guarded(operands, operations)
    return None


def _guarded(operands: list[Any], operations: list[Operation]) -> Callable[..., Any] | None:
    """`where(x > c, x, other)` as `where(x > c, max(x, c), other)`: the chosen x is above c, and its bounds say so."""
    which, *cases = operands
    made = next((operation for operation in reversed(operations) if which in operation.outputs), None)
    if made is None or made.name not in ("gt", "ge", "lt", "le") or len(made.dependent) != 1:
        return None
    x, limit = (made.operands[0], made.operands[1])
    above = made.name in ("gt", "ge")
    if x is not made.dependent[0]:
        x, limit, above = limit, x, not above
    if all(case is not x for case in cases):
        return None
    inside, outside = (jnp.maximum, jnp.minimum) if above else (jnp.minimum, jnp.maximum)

    def select(which, on_false, on_true):
        on_false = outside(on_false, limit) if cases[0] is x else on_false
        on_true = inside(on_true, limit) if cases[1] is x else on_true
        return lax.select_n(which, on_false, on_true)

    return select


def _branched(eqn: Any, operands: list[Any], operations: list[Operation]) -> list[Any] | None:
    """The outputs of a choice that does not depend on the input; None if it does."""
    index, *operands = operands
    branches = eqn.params["branches"]
    if isinstance(index, Variable):
        return None
    if not isinstance(index, jax.core.Tracer):
        return inlined(branches[min(max(int(index), 0), len(branches) - 1)], operands, operations)
    index = jnp.clip(index, 0, len(branches) - 1)
    cases = zip(*(inlined(branch, operands, operations) for branch in branches), strict=True)
    return [_chosen(index, list(case), eqn, operations) for case in cases]


def _chosen(index: Any, cases: list[Any], eqn: Any, operations: list[Operation]) -> Any:
    like = [jax.ShapeDtypeStruct(case.shape, case.dtype) for case in cases]
    return inlined(jax.make_jaxpr(lambda *cases: lax.select_n(index, *cases))(*like), cases, operations)[0]


def _looped(eqn: Any, operands: list[Any], operations: list[Operation]) -> list[Any] | None:
    """The outputs of a loop whose number of steps does not depend on the input; None if it may."""
    counts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    condition, body, carry = operands[: counts[0]], operands[counts[0] : sum(counts)], operands[sum(counts) :]
    for _ in range(_STEPS):
        (more,) = inlined(eqn.params["cond_jaxpr"], [*condition, *carry], operations)
        if isinstance(more, Variable | Noise | jax.core.Tracer):
            return None
        if not more:
            return carry
        carry = inlined(eqn.params["body_jaxpr"], [*body, *carry], operations)
    raise NotImplementedError(f"bounds follow at most {_STEPS} steps of a loop; the model has a longer one")


def _noise(eqn: Any, operands: list[Any]) -> Noise | None:
    """The noise in the outputs of an equation that draws random numbers or takes them; None if there is none."""
    if eqn.primitive.name in _RANDOM:
        return Noise(eqn.primitive.name)
    inner = (_noise(inner, []) for body in _calls.bodies(eqn.params) for inner in body.jaxpr.eqns)
    taken = (operand for operand in operands if isinstance(operand, Noise))
    return next((noise for noise in (*taken, *inner) if noise is not None), None)


def _computed(eqn: Any, operands: list[Any]) -> list[Any]:
    """The outputs of an equation that does not depend on the input, in the model's own dtypes and then widened."""
    arrays = [_like(operand, atom.aval) for operand, atom in zip(operands, eqn.invars, strict=True)]
    small = eqn.primitive.name != "pvary"  # it exists only inside of shard_map
    small = small and all(not isinstance(a, jax.core.Tracer) and np.size(a) <= _FOLDED for a in arrays)
    small = small and all(var.aval.size <= _FOLDED for var in eqn.outvars)
    with jax.ensure_compile_time_eval() if small else contextlib.nullcontext():
        outputs = _function(eqn, eqn.params)(*arrays)
        return [_widened(output) for output in (outputs if eqn.primitive.multiple_results else [outputs])]


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
