"""Data sets that isolate what a model uses: robust and non-robust features, and the controls of that claim.

`robust_dataset` and `relabelled_dataset` make whole data sets from any model (D_R, D_NR; D_rand, D_det); `robustify`
and `relabel_by_attack` are one batch of them, for use inside other compiled functions.
"""

from invjax._store import digest
from invjax.features._construction import construct, relabelled_dataset, robust_dataset
from invjax.features._controls import Errors, adversarial_squares, leakage_probe, learning_from_errors
from invjax.features._inversion import Inversion, robustify
from invjax.features._relabelling import next_targets, non_transferable, random_targets, relabel_by_attack
from invjax.features._storage import Constructed, load, save

__all__ = [
    "Constructed",
    "Errors",
    "Inversion",
    "adversarial_squares",
    "construct",
    "digest",
    "leakage_probe",
    "learning_from_errors",
    "load",
    "next_targets",
    "non_transferable",
    "random_targets",
    "relabel_by_attack",
    "relabelled_dataset",
    "robust_dataset",
    "robustify",
    "save",
]
