"""The variational bound on mutual information and its training, on exact tables (Barber & Agakov).

Source: Jacobsen et al. 2019, lemmas 9 and 10.
"""

from typing import NamedTuple

import numpy as np

from invjax import _check
from invjax.theory.information._tables import Table, conditional, distribution, entropy_of


class Bound(NamedTuple):
    """A lower bound on `I(y; z)` and its gap: `value + gap = I(y; z)`.

    Attributes:
        value: the lower bound, in nats.
        gap: the difference to the mutual information, in nats.
    """

    value: float
    gap: float


def posterior(p: Table) -> np.ndarray:
    """The posterior `p(y | z)`: the classifier for which the variational bound is tight.

    >>> posterior(np.array([[0.375, 0.0], [0.125, 0.5]])).tolist()
    [[0.75, 0.0], [0.25, 1.0]]

    Args:
        p: the joint table, with y on its first axis.

    Returns:
        The posterior, of the shape of `p`; it is uniform over y for a z of probability 0.

    Raises:
        ValueError: the table is negative or does not sum to 1.
    """
    table = distribution(p)
    total = table.sum(0, keepdims=True)
    return np.where(total > 0, table / np.where(total > 0, total, 1.0), 1 / len(table))


def variational_bound(p: Table, q: Table) -> Bound:
    """Lemma 9: `I(y; z) >= H(y) + E log q(y | z)` for every classifier q, with gap `E_z KL(p(y | z) || q(y | z))`.

    Value and gap are computed independently of each other and of `mutual_information`.

    >>> p = 0.5 * np.eye(2)
    >>> bound = variational_bound(p, np.array([[0.9, 0.1], [0.1, 0.9]]))
    >>> round(bound.value, 4), round(bound.gap, 4)
    (0.5878, 0.1054)

    Args:
        p: the joint table, with y on its first axis and z on all others.
        q: the classifier, of the same shape: a distribution over the first axis for each z.

    Returns:
        The bound and its gap. The bound is minus infinity if q gives probability 0 to a pair (y, z) that occurs.

    Raises:
        ValueError: the table is negative or does not sum to 1; q has another shape or is no classifier.
    """
    table = distribution(p)
    guessed, true = conditional("q", q, table.shape), posterior(table)
    with np.errstate(divide="ignore"):
        log_q, log_true = np.log(guessed), np.log(true)
    occurs = table > 0
    return Bound(
        entropy_of(table, (0,)) + float((table[occurs] * log_q[occurs]).sum()),
        float((table[occurs] * (log_true[occurs] - log_q[occurs])).sum()),
    )


def tightened(p: Table, q: Table, *, steps: int, step_size: float = 1.0) -> np.ndarray:
    """Lemma 10: training the classifier q raises `variational_bound` to `I(y; z)`.

    Each step is a step of gradient ascent on the mean `log q(y | z)` for each z, in the logits of q:

        log q <- log q + step_size * (p(y | z) - q(y | z)), normalized.

    No step of size 2 or less lowers the bound. This is the inner maximization of independence cross-entropy. An encoder
    that minimizes the bound lowers the information only at this maximum: for a fixed q the encoder may merely rename
    the values of z.

    Args:
        p: the joint table, with y on its first axis.
        q: the initial classifier, positive, of the shape of `p`.
        steps: number of steps.
        step_size: size of a step, in (0, 2].

    Returns:
        The trained classifier.

    Raises:
        ValueError: q contains zeros, or the steps or the step size are out of range; otherwise as for
            `variational_bound`.
    """
    _check.positive(steps=steps, step_size=step_size)
    table = distribution(p)
    found, true = conditional("q", q, table.shape), posterior(table)
    if step_size > 2 or not np.all(found > 0):
        raise ValueError(f"tightened needs step_size <= 2 and a positive q; got {step_size} and {found.min()}")
    for _ in range(steps):
        found = found * np.exp(step_size * (true - found))
        found = found / found.sum(0, keepdims=True)
    return found
