"""Exact entropy and mutual information of small discrete tables, in nats and float64."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from invjax.types import Array

Table = Float[Array, "..."]
"""A joint distribution with one axis for each variable."""


def distribution(p: Table) -> np.ndarray:
    """The table in float64, after a check that it is a distribution."""
    table = np.asarray(p, np.float64)
    if not table.ndim or not np.all(table >= 0):
        raise ValueError(f"a table must contain probabilities, none negative or NaN; got {table.min(initial=np.inf)}")
    if not abs(table.sum() - 1) <= 1e-6:
        raise ValueError(f"a table must sum to 1; got {table.sum()}; divide it by its sum")
    return table


def _axes(table: np.ndarray, *groups: int | Sequence[int]) -> list[tuple[int, ...]]:
    """Each group of variables as a tuple of axes, after a check that no axis is in two groups."""
    found = [(group,) if isinstance(group, int) else tuple(group) for group in groups]
    named = [axis for group in found for axis in group]
    if len(set(named)) < len(named) or not set(named) <= set(range(table.ndim)):
        raise ValueError(f"variables must be different axes of a table with {table.ndim} axes; got {found}")
    return found


def entropy_of(table: np.ndarray, axes_kept: Sequence[int]) -> float:
    """The entropy of the variables on these axes of a checked table."""
    marginal = table.sum(tuple(axis for axis in range(table.ndim) if axis not in axes_kept))
    return float(-(marginal * np.log(np.where(marginal > 0, marginal, 1.0))).sum())


def entropy(p: Table, axes: int | Sequence[int] | None = None) -> float:
    """The joint entropy `H = -sum p log p` of the variables on `axes`.

    >>> bool(np.isclose(entropy(np.full((2, 5), 0.1)), np.log(10)))
    True

    Args:
        p: the joint table, with any number of axes.
        axes: the axes of the variables; by default all axes.

    Returns:
        The entropy in nats.

    Raises:
        ValueError: the table is negative or does not sum to 1, or does not have these axes.
    """
    table = distribution(p)
    (axes_kept,) = _axes(table, range(table.ndim) if axes is None else axes)
    return entropy_of(table, axes_kept)


def mutual_information(
    p: Table, first: int | Sequence[int], second: int | Sequence[int], given: int | Sequence[int] = ()
) -> float:
    """The conditional mutual information `I(a; b | c) = H(a, c) + H(b, c) - H(a, b, c) - H(c)`.

    >>> round(mutual_information(0.5 * np.eye(2), 0, 1), 6)  # log 2
    0.693147

    Args:
        p: the joint table, with any number of axes.
        first: the axis or axes of a.
        second: the axis or axes of b.
        given: the axis or axes of c; none by default.

    Returns:
        The information in nats. It is exact to rounding, so independent variables may give -1e-16.

    Raises:
        ValueError: the table is negative or does not sum to 1; an axis does not exist or appears twice.
    """
    table = distribution(p)
    a, b, c = _axes(table, first, second, given)
    return entropy_of(table, a + c) + entropy_of(table, b + c) - entropy_of(table, a + b + c) - entropy_of(table, c)


def conditional(name: str, q: Table, shape: tuple[int, ...]) -> np.ndarray:
    """`q` in float64, after a check of its shape and that it is a distribution over its first axis."""
    found = np.asarray(q, np.float64)
    if found.shape != shape:
        raise ValueError(f"{name} must have the shape of the table, {shape}; got {found.shape}")
    if not np.all(found >= 0) or not np.allclose(found.sum(0), 1, rtol=0, atol=1e-6):
        raise ValueError(f"{name} must be a distribution over its first axis; got {name}.sum(0)={found.sum(0)}")
    return found
