"""A function as a list of the elementary operations that involve its input.

Bounds follow a function operation by operation, forwards (`ibp`) or backwards (`crown`). `trace` prepares that list: it
takes the operations of the traced program, recognizes functions that bounds treat as one operation, and drops
everything that does not reach the output.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from invjax.bounds._operations import Noise, Operation, Variable, inlined, variable
from invjax.bounds._patterns import whole


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


def trace(function: Callable, x: Any, *, recognize: bool = True) -> tuple[Graph, Any]:
    """The graph of a function of one array, and the tree structure of its result.

    Args:
        function: a function of one array.
        x: a placeholder of the input, from `typed`.
        recognize: whether functions that bounds treat as one operation are recognized.

    Raises:
        ValueError: the outputs of the function depend on random numbers.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(x)
    source = variable(x)
    operations: list[Operation] = []
    outputs = inlined(closed, [source], operations)
    noise = [value for value in outputs if isinstance(value, Noise)]
    if noise:
        raise ValueError(
            f"the model draws random numbers ({noise[0].primitive}), so its bounds would hold for one draw only; "
            "switch off dropout and other noise, for example with train=False or deterministic=True"
        )
    return Graph(
        source, _live(whole(operations) if recognize else operations, outputs), tuple(outputs)
    ), jax.tree.structure(shapes)


def _live(operations: list[Operation], outputs: list[Any]) -> tuple[Operation, ...]:
    needed, live = set(map(id, outputs)), []
    for operation in reversed(operations):
        if not needed.isdisjoint(map(id, operation.outputs)):
            needed |= set(map(id, operation.operands))
            live.append(operation)
    return tuple(live[::-1])
