"""Adversarial attacks. An `Attack` is the record of one attack; a `Threat` bounds its change of an image."""

from invjax._warps import affine_grid, unwarp, warp
from invjax.attacks import building
from invjax.attacks._apgd import apgd, apgd_targeted
from invjax.attacks._attack import Attack, AttackResult
from invjax.attacks._autoattack import Stage, autoattack, autoattack_stages
from invjax.attacks._checks import Finding
from invjax.attacks._combine import restarts, worst_of
from invjax.attacks._compiled import jit_attack, over
from invjax.attacks._diagnose import diagnose
from invjax.attacks._fab import fab
from invjax.attacks._feature_adversary import feature_adversary
from invjax.attacks._goals import confident, top_k
from invjax.attacks._gradient import Loss, fgsm, iterated_ll, pgd, step_ll
from invjax.attacks._invariance import InvarianceExamples, Judge
from invjax.attacks._judge import judge
from invjax.attacks._l0_invariance import l0_invariance
from invjax.attacks._linf_invariance import linf_invariance
from invjax.attacks._metamers import interpolate, metamers
from invjax.attacks._neighbour_search import nearest_of
from invjax.attacks._neighbours import Neighbours, aligned_neighbours
from invjax.attacks._random_model import RandomModel, random_model
from invjax.attacks._reference_bank import ReferenceBank, pixels_of, reference_bank
from invjax.attacks._smallest import distances, line_search, smallest
from invjax.attacks._square import square
from invjax.attacks._threats import THREATS, Threat, l0, l1, l2, linf, masked
from invjax.attacks._transformed import transformed

__all__ = [
    "THREATS",
    "Attack",
    "AttackResult",
    "Finding",
    "InvarianceExamples",
    "Judge",
    "Loss",
    "Neighbours",
    "RandomModel",
    "ReferenceBank",
    "Stage",
    "Threat",
    "affine_grid",
    "aligned_neighbours",
    "apgd",
    "apgd_targeted",
    "autoattack",
    "autoattack_stages",
    "building",
    "confident",
    "diagnose",
    "distances",
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
    "masked",
    "metamers",
    "nearest_of",
    "over",
    "pgd",
    "pixels_of",
    "random_model",
    "reference_bank",
    "restarts",
    "smallest",
    "square",
    "step_ll",
    "top_k",
    "transformed",
    "unwarp",
    "warp",
    "worst_of",
]
