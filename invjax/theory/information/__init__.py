r"""Exact information in small discrete tables `p(y, z_s, z_n)`: the theory behind independence cross-entropy.

The logits z_s and the nuisance z_n of an invertible classifier are the image x in other coordinates, so

    I(y; x) = I(y; z_s, z_n) = I(y; z_n) + I(y; z_s | z_n).

In training only bounds on these terms are known; for a table the terms are finite sums. All values are in nats and
float64.

Source: Jacobsen et al. 2019, section 3, lemmas 9 and 10, theorem 6.
"""

from invjax.theory.information._tables import Table, entropy, mutual_information
from invjax.theory.information._theorem6 import (
    Shift,
    exclusive_or,
    independent_nuisance,
    premises,
    shift_information,
)
from invjax.theory.information._variational import Bound, posterior, tightened, variational_bound

__all__ = [
    "Bound",
    "Shift",
    "Table",
    "entropy",
    "exclusive_or",
    "independent_nuisance",
    "mutual_information",
    "posterior",
    "premises",
    "shift_information",
    "tightened",
    "variational_bound",
]
