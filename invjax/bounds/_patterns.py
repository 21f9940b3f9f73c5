"""Functions that a program computes in several operations and that bounds treat as one.

A softmax uses its input twice, in the numerator and in the sum. Interval arithmetic forgets that both are the same, and
gives an upper bound far above 1. `whole` finds such functions in a list of operations and replaces the last operation
of each by the whole function, for which `_whole_rules` has tight bounds.

There is no template of log_softmax, whose logsumexp cancels in the difference of two logits, and none of a softmax or a
logsumexp that exponentiates its input without a shift, because such a program may overflow where the function does not.

A function is found by comparison with a template: the same function is traced at the same shape, and both programs must
have the same operations with the same parameters and constants. A program that computes the function in another way is
not found, and its bounds are those of its operations.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax.bounds._normalizations import normalization
from invjax.bounds._operations import Operation, Variable, inlined, variable

Axes = tuple[int, ...]


class Template(NamedTuple):
    """A function that is recognized.

    Attributes:
        name: name of its interval and enclosure rules.
        function: `(x, axes, keepdims) -> value` with exactly the operations to be found.
        last: name of its last operation.
    """

    name: str
    function: Callable[[jax.Array, Axes, bool], jax.Array]
    last: str


def _softmax_of_differences(x, axes, keepdims):
    e = jnp.exp(x - x.max(axes, keepdims=True))
    return e / e.sum(axes, keepdims=True)


def _mean_square_deviation(x, axes, keepdims):
    return jnp.square(x - x.mean(axes, keepdims=True)).mean(axes, keepdims=keepdims)


def _mean_square_of_expanded(x, axes, keepdims):
    return jnp.square(x - jnp.expand_dims(x.mean(axes), axes)).mean(axes, keepdims=keepdims)


def _fast_variance(x, axes, keepdims):
    return jnp.maximum(0.0, _difference_of_squares(x, axes, keepdims))


def _difference_of_squares(x, axes, keepdims):
    return jnp.square(x).mean(axes, keepdims=keepdims) - jnp.square(x.mean(axes, keepdims=keepdims))


TEMPLATES = (
    Template("jax.nn.softmax", lambda x, axes, keepdims: jax.nn.softmax(x, axes), "mul"),
    Template("jax.nn.softmax", _softmax_of_differences, "mul"),
    Template("jax.nn.logsumexp", lambda x, axes, keepdims: jax.nn.logsumexp(x, axes, keepdims=keepdims), "add"),
    Template("jnp.var", lambda x, axes, keepdims: x.var(axes, keepdims=keepdims), "select_n"),
    Template("jnp.var", _mean_square_deviation, "div"),
    Template("jnp.var", _mean_square_of_expanded, "div"),
    Template("jnp.var", _fast_variance, "max"),
    Template("jnp.var", _difference_of_squares, "sub"),
    Template("jax.nn.gelu", lambda x, axes, keepdims: jax.nn.gelu(x, approximate=False), "copy"),
    Template("jax.nn.gelu, approximate", lambda x, axes, keepdims: jax.nn.gelu(x, approximate=True), "mul"),
)


def whole(operations: list[Operation]) -> list[Operation]:
    """The operations, with whole functions in the place of their last operations."""
    producers: dict[Variable, Operation] = {}
    found = []
    for operation in operations:
        producers |= dict.fromkeys(operation.outputs, operation)
        one = _recognized(operation, producers)
        steps = [one] if one else normalization(operation, producers) or [operation]
        for step in steps:
            producers |= dict.fromkeys(step.outputs, step)
        found += steps
    return found


def _recognized(operation: Operation, producers: dict[Variable, Operation]) -> Operation | None:
    for template in TEMPLATES:
        if template.last != operation.name:
            continue
        for source, axes, keepdims in _candidates(operation, producers, template):
            program, output = _traced(template, source, axes, keepdims)
            bound: dict[Variable, Variable] = {}
            if _same(output, operation.outputs[0], {o: op for op in program for o in op.outputs}, producers, bound):
                function = lambda x, t=template, a=axes, k=keepdims: t.function(x, a, k)  # noqa: E731
                x = next(iter(bound.values()))
                params = {"axes": axes, "keepdims": keepdims}
                return Operation(template.name, function, (x,), operation.outputs, False, params, operation.line)
    return None


def _candidates(
    operation: Operation, producers: dict[Variable, Operation], template: Template
) -> Iterator[tuple[Variable, Axes, bool]]:
    """Sources, axes and forms for which the template may end in this operation."""
    (output,) = operation.outputs
    if template.name.startswith("jax.nn.gelu"):
        yield output, (), False
        return
    seen, front = set(), [v for v in operation.operands if isinstance(v, Variable)]
    for _ in range(8):  # the reduction is at most so many operations before the last one
        before = []
        for value in front:
            made = producers.get(value)
            if made is None or value in seen:
                continue
            seen.add(value)
            if made.name == "reduce_sum":
                (operand,) = made.operands
                axes = tuple(map(int, made.params["axes"]))
                yield operand, axes, output.shape != made.outputs[0].shape
            else:
                before += [v for v in made.operands if isinstance(v, Variable)]
        front = before


def _traced(template: Template, source: Variable, axes: Axes, keepdims: bool) -> tuple[list[Operation], Any]:
    """The operations of a template, and its output."""
    dtype, x64 = jnp.dtype(source.dtype).name, jax.config.read("jax_enable_x64")
    return _cached(template, source.shape, dtype, axes, keepdims, x64)


@cache
def _cached(template, shape, dtype, axes, keepdims, x64):
    like = jax.ShapeDtypeStruct(shape, dtype)
    operations: list[Operation] = []
    with jax.ensure_compile_time_eval():
        closed = jax.make_jaxpr(lambda x: template.function(x, axes, keepdims))(like)
        (output,) = inlined(closed, [variable(like)], operations)
    return operations, output


def _same(wanted: Any, given: Any, templates: dict, producers: dict, bound: dict) -> bool:
    """Whether two values are computed alike; `bound` gets the variable that stands for the template's input."""
    if not isinstance(wanted, Variable):
        if isinstance(given, Variable | jax.core.Tracer):
            return False
        floats = jnp.issubdtype(wanted.dtype, jnp.floating)  # the variance of no values is NaN
        return np.shape(wanted) == np.shape(given) and bool(np.array_equal(wanted, given, equal_nan=floats))
    if not isinstance(given, Variable) or wanted.shape != given.shape or wanted.dtype != given.dtype:
        return False
    if wanted not in templates:
        return bound.setdefault(wanted, given) is given
    ours, theirs = templates[wanted], producers.get(given)
    if theirs is None or ours.name != theirs.name or ours.params != theirs.params:
        return False
    pairs = zip(ours.operands, theirs.operands, strict=False)
    return len(ours.operands) == len(theirs.operands) and all(
        _same(a, b, templates, producers, bound) for a, b in pairs
    )
