r"""Enclosures: two affine functions that bound an operation from both sides.

Over the box of its inputs an operation f satisfies

    lower(v) <= f(v) <= upper(v),

where lower and upper are affine. `crown` carries these functions backwards through a network. This module holds the
records and the registry; `_enclosure_rules` holds the rules of the primitives.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from invjax.bounds._operations import Operation, Variable
from invjax.bounds._regions import Interval


class Line(NamedTuple):
    """The affine function `slope * x + offset`, for each value of an array.

    Attributes:
        slope: the slope at each value, `[...]`.
        offset: the offset at each value, `[...]`.
    """

    slope: jax.Array
    offset: jax.Array


class Lines(NamedTuple):
    """Two lines that enclose a function of one value, for each value of an array.

    Attributes:
        lower: a line that is nowhere above the function.
        upper: a line that is nowhere below the function.
    """

    lower: Line
    upper: Line


class Between(NamedTuple):
    """Two affine functions of the operands that enclose an operation.

    Attributes:
        lower: an affine function that is nowhere above the operation.
        upper: an affine function that is nowhere below the operation.
    """

    lower: Callable[..., Any]
    upper: Callable[..., Any]


class Exact(NamedTuple):
    """The operation itself, if it is affine.

    Attributes:
        function: the operation as a function of the operands that depend on the input.
        has_offset: False if the function is known to be 0 at 0, so that its offset need not be computed.
    """

    function: Callable[..., Any]
    has_offset: bool = True


Enclosure = Exact | Lines | Between | None
"""The enclosure of an operation, or None if only the interval of its output is known."""

Rule = Callable[..., Enclosure]
"""`(function, *intervals) -> Enclosure`. The function takes the operands that depend on the input; the intervals are
the bounds of these operands."""

_RULES: dict[str, Rule] = {}
_WHOLE: dict[str, Callable[..., Enclosure]] = {}


def register_enclosure(primitive: core.Primitive | str, rule: Rule) -> None:
    """Give `crown` the affine bounds of a primitive; without them `crown` uses the interval of `ibp`.

    `affine`, `bent` and `s_shaped` are rules that suit most primitives:

    >>> from invjax import bounds
    >>> bounds.register_enclosure(jax.lax.asinh_p, bounds.s_shaped)

    Args:
        primitive: the primitive, or its name.
        rule: `(function, *intervals) -> Exact | Lines | Between | None`. The new rule replaces an earlier one.
    """
    _RULES[primitive if isinstance(primitive, str) else primitive.name] = rule


def register_whole(name: str, rule: Callable[..., Enclosure]) -> None:
    """Give `crown` the affine bounds of a function of `_patterns`, as `rule(x, *, axes, keepdims)`."""
    _WHOLE[name] = rule


def enclosure_of(operation: Operation, bounds: dict[Variable, Interval], outputs: list[Interval]) -> Enclosure:
    """The enclosure of an operation, given the intervals of its operands and of its outputs."""
    intervals = [bounds[variable] for variable in operation.dependent]
    if operation.name in _WHOLE:
        enclosure = _WHOLE[operation.name](*intervals, **operation.params)
        return Lines(*map(_finite_or, enclosure, outputs[0])) if isinstance(enclosure, Lines) else enclosure
    if operation.name not in _RULES or not all(jnp.issubdtype(i.lower.dtype, jnp.floating) for i in intervals):
        return None
    enclosure = _RULES[operation.name](operation.of_dependent, *intervals)
    if not isinstance(enclosure, Lines):
        return enclosure
    return Lines(*map(_finite_or, enclosure, outputs[0]))


def _finite_or(line: Line, end: Any) -> Line:
    """The line where it is finite, and the constant end of the output's interval elsewhere."""
    finite = jnp.isfinite(line.slope) & jnp.isfinite(line.offset)
    return Line(jnp.where(finite, line.slope, 0), jnp.where(finite, line.offset, end))
