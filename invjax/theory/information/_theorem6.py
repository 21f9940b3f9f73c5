r"""Theorem 6 of independence cross-entropy: when the logits contain all information about the class after a shift.

The theorem assumes that the nuisance has no information in training, `I(y; z_n) = 0`, that the shift adds none,
`I_Adv(y; z_n) <= I(y; z_n)`, and that `I_Adv(y; z_s | z_n) <= I_Adv(y; z_s)`. It concludes
`I_Adv(y; z_s) = I_Adv(y; x)`. If the first two assumptions hold, the third is equivalent to the conclusion:
`exclusive_or` satisfies the first two and not the conclusion, and `independent_nuisance` constructs tables that satisfy
all of them.

Source: Jacobsen et al. 2019, theorem 6. We could not check the published wording of the third assumption; it is stated
here as we know it, without a copy of the text.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from invjax.theory.information._tables import conditional, distribution, mutual_information
from invjax.types import Array


class Shift(NamedTuple):
    """The terms of theorem 6, in nats.

    Attributes:
        training_nuisance: `I_D(y; z_n)`, which the theorem assumes to be 0.
        nuisance: `I_Adv(y; z_n)`, which the theorem assumes not to exceed `training_nuisance`.
        conditional: `I_Adv(y; z_s | z_n)`, which the theorem assumes not to exceed `semantic`.
        semantic: `I_Adv(y; z_s)`, the left side of the conclusion.
        everything: `I_Adv(y; z_s, z_n) = I_Adv(y; x)`, the right side of the conclusion.
    """

    training_nuisance: float
    nuisance: float
    conditional: float
    semantic: float
    everything: float


def shift_information(p: Float[Array, "y s n"], p_adv: Float[Array, "y s n"]) -> Shift:
    """Both sides of theorem 6, `I_Adv(y; z_s) = I_Adv(y; x)`, and the terms of its assumptions.

    >>> round(shift_information(exclusive_or(), exclusive_or()).everything, 6)
    0.693147

    Args:
        p: the table `p(y, z_s, z_n)` in training.
        p_adv: the table after the distribution shift; its axes may have other lengths.

    Returns:
        The five terms.

    Raises:
        ValueError: a table is negative or does not sum to 1.
    """
    return Shift(
        training_nuisance=mutual_information(p, 0, 2),
        nuisance=mutual_information(p_adv, 0, 2),
        conditional=mutual_information(p_adv, 0, 1, given=2),
        semantic=mutual_information(p_adv, 0, 1),
        everything=mutual_information(p_adv, 0, (1, 2)),
    )


def premises(shift: Shift, tolerance: float = 1e-9) -> tuple[bool, bool, bool]:
    """Whether each of the three assumptions of theorem 6 holds.

    Args:
        shift: the terms of the theorem.
        tolerance: the rounding error that is allowed, in nats.
    """
    return (
        shift.training_nuisance <= tolerance,
        shift.nuisance <= shift.training_nuisance + tolerance,
        shift.conditional <= shift.semantic + tolerance,
    )


def exclusive_or() -> Float[np.ndarray, "2 2 2"]:
    """The table of `y = z_s xor z_n` for two fair coins.

    Each coin alone has no information about y, and both together have all of it, `log 2`. Theorem 6 is false without
    its third assumption, and this table is the counterexample.
    """
    y, s, n = np.indices((2, 2, 2))
    return 0.25 * (y == (s ^ n))


def independent_nuisance(
    p_y: Float[Array, " y"], semantic_given_y: Float[Array, "s classes"], p_n: Float[Array, " n"]
) -> Float[np.ndarray, "y s n"]:
    """The table `p(y) p(z_s | y) p(z_n)` of a nuisance that is independent of the class and of the logits.

    These two conditions can be required of a model: z_n is independent of y, and independent of z_s given y. They are
    sufficient for theorem 6, because then `I(y; z_s | z_n) = I(y; z_s) = I(y; x)`.

    >>> p = independent_nuisance(np.array([0.5, 0.5]), np.array([[0.9, 0.2], [0.1, 0.8]]), np.array([0.3, 0.7]))
    >>> premises(shift_information(p, p))
    (True, True, True)

    Args:
        p_y: the distribution of the classes.
        semantic_given_y: `p(z_s | y)`, with columns that sum to 1.
        p_n: the distribution of the nuisance.

    Returns:
        The joint table `p(y, z_s, z_n)`.

    Raises:
        ValueError: a distribution is negative or does not sum to 1.
    """
    classes, nuisance = distribution(p_y), distribution(p_n)
    given = conditional("semantic_given_y", semantic_given_y, (len(semantic_given_y), len(classes)))
    return (classes[:, None] * given.T)[:, :, None] * nuisance[None, None]
