r"""Information in small discrete tables `p(y, z_s, z_n)`, exactly: what independence cross-entropy rests on.

The logits `z_s` and the nuisance `z_n` of an invertible classifier are the image `x` in other coordinates, so

    I(y; x) = I(y; z_s, z_n) = I(y; z_n) + I(y; z_s | z_n).

Training can only see bounds on these terms, but a table can be summed. Everything here is in nats and float64.

Source: Jacobsen et al. 2019, section 3, lemmas 9 and 10, theorem 6. Theorem 6 assumes that `I(y; z_n) = 0` in training,
that the shift adds nothing, `I_Adv(y; z_n) <= I(y; z_n)`, and that `I_Adv(y; z_s | z_n) <= I_Adv(y; z_s)`; it concludes
`I_Adv(y; z_s) = I_Adv(y; x)`. Where the first two hold, the third says no less than the conclusion: `exclusive_or` has
the first two and not the conclusion, `independent_nuisance` makes tables that have all of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from invjax import _check
from invjax.types import Array

Table = Float[Array, "..."]
"""A joint distribution, one axis a variable; here y first, then z_s and z_n."""


def _distribution(p: Table) -> np.ndarray:
    """`p` in float64, if it is one."""
    table = np.asarray(p, np.float64)
    if not table.ndim or not np.all(table >= 0):
        raise ValueError(f"a table must hold probabilities, none negative or NaN; got {table.min(initial=np.inf)}")
    if not abs(table.sum() - 1) <= 1e-6:
        raise ValueError(f"a table must sum to 1; got {table.sum()}; divide it by its sum")
    return table


def _axes(table: np.ndarray, *groups: int | Sequence[int]) -> list[tuple[int, ...]]:
    """Each group of variables as a tuple of axes, no axis in two groups."""
    found = [(group,) if isinstance(group, int) else tuple(group) for group in groups]
    named = [axis for group in found for axis in group]
    if len(set(named)) < len(named) or not set(named) <= set(range(table.ndim)):
        raise ValueError(f"variables must be different axes of a table with {table.ndim}; got {found}")
    return found


def _entropy(table: np.ndarray, kept: Sequence[int]) -> float:
    marginal = table.sum(tuple(axis for axis in range(table.ndim) if axis not in kept))
    return float(-(marginal * np.log(np.where(marginal > 0, marginal, 1.0))).sum())


def entropy(p: Table, axes: int | Sequence[int] | None = None) -> float:
    """`H = -sum p log p` of the variables on `axes`, together; of all of them unless given.

    >>> bool(np.isclose(entropy(np.full((2, 5), 0.1)), np.log(10)))
    True

    Args:
        p: the joint table, any number of axes.
        axes: the variables.

    Returns:
        Nats.

    Raises:
        ValueError: a table that is negative or does not sum to 1; axes that it does not have.
    """
    table = _distribution(p)
    (kept,) = _axes(table, range(table.ndim) if axes is None else axes)
    return _entropy(table, kept)


def mutual_information(
    p: Table, first: int | Sequence[int], second: int | Sequence[int], given: int | Sequence[int] = ()
) -> float:
    """`I(a; b | c) = H(a, c) + H(b, c) - H(a, b, c) - H(c)` of variables of a joint table.

    >>> p = exclusive_or()
    >>> bool(np.allclose([mutual_information(p, 0, 1), mutual_information(p, 0, 1, given=2)], [0, np.log(2)]))
    True

    Args:
        p: the joint table, any number of axes.
        first: the axis or axes of a.
        second: those of b.
        given: those of c.

    Returns:
        Nats, exact to rounding, and so perhaps -1e-16.

    Raises:
        ValueError: a table that is negative or does not sum to 1; axes that it does not have, or that appear twice.
    """
    table = _distribution(p)
    a, b, c = _axes(table, first, second, given)
    return _entropy(table, a + c) + _entropy(table, b + c) - _entropy(table, a + b + c) - _entropy(table, c)


# Barber & Agakov's bound


class Bound(NamedTuple):
    """A lower bound on `I(y; z)` and what it misses, both in nats: `value + gap = I(y; z)`."""

    value: float
    gap: float


def posterior(p: Table) -> np.ndarray:
    """`p(y | z)`, y the first axis: the classifier for which the bound is tight. Uniform where z does not occur."""
    table = _distribution(p)
    total = table.sum(0, keepdims=True)
    return np.where(total > 0, table / np.where(total > 0, total, 1.0), 1 / len(table))


def _conditional(name: str, q: Table, shape: tuple[int, ...]) -> np.ndarray:
    """`q` in float64, if it has this shape and is a distribution over its first axis."""
    found = np.asarray(q, np.float64)
    if found.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, that of the table; got {found.shape}")
    if not np.all(found >= 0) or not np.allclose(found.sum(0), 1, rtol=0, atol=1e-6):
        raise ValueError(f"{name} must be a distribution over its first axis; got {name}.sum(0)={found.sum(0)}")
    return found


def variational_bound(p: Table, q: Table) -> Bound:
    """Lemma 9: `I(y; z) >= H(y) + E log q(y | z)` for every classifier q; the gap is `E_z KL(p(y | z) || q(y | z))`.

    The two are summed apart from each other and from `mutual_information`.

    >>> p = 0.5 * np.eye(2)
    >>> bound = variational_bound(p, np.array([[0.9, 0.1], [0.1, 0.9]]))
    >>> round(bound.value, 4), round(bound.gap, 4)
    (0.5878, 0.1054)

    Args:
        p: the joint table, y on its first axis, z on all others.
        q: the same shape, a distribution over the first axis for each z.

    Returns:
        The bound, minus infinity where q rules out what occurs, and its gap.

    Raises:
        ValueError: a table that is negative or does not sum to 1; a q of another shape, or that is no classifier.
    """
    table = _distribution(p)
    guessed, true = _conditional("q", q, table.shape), posterior(table)
    with np.errstate(divide="ignore"):
        log_q, log_true = np.log(guessed), np.log(true)
    occurs = table > 0
    return Bound(
        _entropy(table, (0,)) + float((table[occurs] * log_q[occurs]).sum()),
        float((table[occurs] * (log_true[occurs] - log_q[occurs])).sum()),
    )


def tightened(p: Table, q: Table, *, steps: int, step_size: float = 1.0) -> np.ndarray:
    """Lemma 10: train the classifier q, and the bound of `variational_bound` rises to `I(y; z)`.

    Gradient ascent of each z's own mean `log q(y | z)` in the logits of q, of which no step of at most 2 lowers it:

        log q <- log q + step_size * (p(y | z) - q(y | z)), normalised.

    That is the inner maximum of independence cross-entropy. Only there does the encoder, which then lowers the bound,
    lower the information: with q held fixed it may as well rename the values of z.

    Args:
        p: the joint table, y on its first axis.
        q: the classifier to start at, positive, the table's shape.
        steps: how many.
        step_size: in (0, 2].

    Returns:
        The trained q.

    Raises:
        ValueError: as `variational_bound`; a q with zeros; steps or a step size out of range.
    """
    _check.positive(steps=steps, step_size=step_size)
    table = _distribution(p)
    found, true = _conditional("q", q, table.shape), posterior(table)
    if step_size > 2 or not np.all(found > 0):
        raise ValueError(f"tightened needs step_size <= 2 and a positive q; got {step_size} and {found.min()}")
    for _ in range(steps):
        found = found * np.exp(step_size * (true - found))
        found = found / found.sum(0, keepdims=True)
    return found


# Theorem 6


class Shift(NamedTuple):
    """The terms of theorem 6, in nats.

    Attributes:
        training_nuisance: `I_D(y; z_n)`, which must be 0.
        nuisance: `I_Adv(y; z_n)`, which must not exceed it.
        conditional: `I_Adv(y; z_s | z_n)`, which must not exceed `semantic`.
        semantic: `I_Adv(y; z_s)`, the left side of the conclusion.
        everything: `I_Adv(y; z_s, z_n) = I_Adv(y; x)`, its right side.
    """

    training_nuisance: float
    nuisance: float
    conditional: float
    semantic: float
    everything: float


def shift_information(p: Float[Array, "y s n"], p_adv: Float[Array, "y s n"]) -> Shift:
    """Both sides of theorem 6, `I_Adv(y; z_s) = I_Adv(y; x)`, and all that it assumes.

    Args:
        p: `p(y, z_s, z_n)` in training.
        p_adv: the same after the shift; it may have other sizes.

    Raises:
        ValueError: a table that is negative or does not sum to 1.
    """
    return Shift(
        training_nuisance=mutual_information(p, 0, 2),
        nuisance=mutual_information(p_adv, 0, 2),
        conditional=mutual_information(p_adv, 0, 1, given=2),
        semantic=mutual_information(p_adv, 0, 1),
        everything=mutual_information(p_adv, 0, (1, 2)),
    )


def premises(shift: Shift, tolerance: float = 1e-9) -> tuple[bool, bool, bool]:
    """Which of the three assumptions of theorem 6 hold, each to `tolerance` nats."""
    return (
        shift.training_nuisance <= tolerance,
        shift.nuisance <= shift.training_nuisance + tolerance,
        shift.conditional <= shift.semantic + tolerance,
    )


def exclusive_or() -> Float[np.ndarray, "2 2 2"]:
    """`y = z_s xor z_n`, both fair coins: neither says anything of y alone, together they say all, `log 2`.

    Without its third assumption, as the first version of the paper had it, theorem 6 is false, and this is why.
    """
    y, s, n = np.indices((2, 2, 2))
    return 0.25 * (y == (s ^ n))


def independent_nuisance(
    p_y: Float[Array, " y"], semantic_given_y: Float[Array, "s classes"], p_n: Float[Array, " n"]
) -> Float[np.ndarray, "y s n"]:
    """`p(y) p(z_s | y) p(z_n)`: a nuisance that depends neither on y nor, y given, on the logits.

    Two conditions that can be asked of a model, `z_n` independent of y, and of `z_s` given y. They are sufficient for
    theorem 6: `I(y; z_s | z_n) = I(y; z_s) = I(y; x)`.

    >>> p = independent_nuisance(np.array([0.5, 0.5]), np.array([[0.9, 0.2], [0.1, 0.8]]), np.array([0.3, 0.7]))
    >>> premises(shift_information(p, p))
    (True, True, True)

    Args:
        p_y: the classes.
        semantic_given_y: `p(z_s | y)`, columns that sum to 1.
        p_n: the nuisance.

    Raises:
        ValueError: one that is negative or does not sum to 1.
    """
    classes, nuisance = _distribution(p_y), _distribution(p_n)
    given = _conditional("semantic_given_y", semantic_given_y, (len(semantic_given_y), len(classes)))
    return (classes[:, None] * given.T)[:, :, None] * nuisance[None, None]
