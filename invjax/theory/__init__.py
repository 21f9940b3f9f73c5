"""The analytic models of the papers: closed forms, each beside a way to check it."""

from invjax.theory import spheres
from invjax.theory.information import (
    Bound,
    Shift,
    entropy,
    exclusive_or,
    independent_nuisance,
    mutual_information,
    posterior,
    premises,
    shift_information,
    tightened,
    variational_bound,
)

__all__ = [
    "Bound",
    "Shift",
    "entropy",
    "exclusive_or",
    "independent_nuisance",
    "mutual_information",
    "posterior",
    "premises",
    "shift_information",
    "spheres",
    "tightened",
    "variational_bound",
]
