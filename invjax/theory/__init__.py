"""The analytic models of the papers: closed forms, each beside a way to check it."""

from invjax.theory import gaussian, gaussian_attacks, gaussian_classifiers, overly_robust, spheres
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
    "gaussian",
    "gaussian_attacks",
    "gaussian_classifiers",
    "independent_nuisance",
    "mutual_information",
    "overly_robust",
    "posterior",
    "premises",
    "shift_information",
    "spheres",
    "tightened",
    "variational_bound",
]
