"""Data sets that isolate the robust or the non-robust features of a model, and control experiments for them.

`robust_dataset` and `relabelled_dataset` make whole data sets from any model (D_R and D_NR; D_rand and D_det).
`robustify` and `relabel_by_attack` make one batch, for use inside other compiled functions.
"""

from invjax._store import digest
from invjax.features._construction import construct
from invjax.features._errors import Errors, errors_of
from invjax.features._inversion import Inversion, robustify
from invjax.features._leakage import leakage_probe
from invjax.features._non_transferable import non_transferable
from invjax.features._relabelled_dataset import relabelled_dataset
from invjax.features._relabelling import relabel_by_attack
from invjax.features._robust_dataset import robust_dataset
from invjax.features._squares import adversarial_squares
from invjax.features._storage import Constructed, load, save
from invjax.features._targets import next_targets, random_targets

__all__ = [
    "Constructed",
    "Errors",
    "Inversion",
    "adversarial_squares",
    "construct",
    "digest",
    "errors_of",
    "leakage_probe",
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
