"""Ways to fool a classifier. `base` says what an attack is, `threats` what it may do to an image."""

from invjax.attacks.alignment import Neighbours, aligned_neighbours
from invjax.attacks.apgd import apgd, apgd_targeted
from invjax.attacks.auto import EnsembleResult, Stage, ensemble, standard
from invjax.attacks.base import Attack, AttackResult, jit_attack, restarts, worst_of
from invjax.attacks.diagnose import Finding, diagnose
from invjax.attacks.fab import fab
from invjax.attacks.gradient import fgsm, iterated_ll, pgd, step_ll
from invjax.attacks.invariance import InvarianceExamples, l0_invariance, linf_invariance
from invjax.attacks.judge import judge
from invjax.attacks.metamers import feature_adversary, interpolate, metamers
from invjax.attacks.minimal import line_search, smallest
from invjax.attacks.nearest import ReferenceBank, reference_bank
from invjax.attacks.square import square
from invjax.attacks.threats import Threat, l0, l1, l2, linf
from invjax.attacks.transformed import transformed
from invjax.attacks.warps import affine_grid, unwarp, warp

__all__ = [
    "Attack",
    "AttackResult",
    "EnsembleResult",
    "Finding",
    "InvarianceExamples",
    "Neighbours",
    "ReferenceBank",
    "Stage",
    "Threat",
    "affine_grid",
    "aligned_neighbours",
    "apgd",
    "apgd_targeted",
    "diagnose",
    "ensemble",
    "fab",
    "feature_adversary",
    "fgsm",
    "interpolate",
    "iterated_ll",
    "jit_attack",
    "judge",
    "l0",
    "l0_invariance",
    "l1",
    "l2",
    "line_search",
    "linf",
    "linf_invariance",
    "metamers",
    "pgd",
    "reference_bank",
    "restarts",
    "smallest",
    "square",
    "standard",
    "step_ll",
    "transformed",
    "unwarp",
    "warp",
    "worst_of",
]
