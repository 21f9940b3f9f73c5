"""How a model does: robustness curves, agreement with people, and one report of both failures."""

from invjax.evaluation.agreement import Agreement, agreement
from invjax.evaluation.certificate import certificate_curve
from invjax.evaluation.curve import Curve, robustness_curve
from invjax.evaluation.intervals import wilson
from invjax.evaluation.report import Invariance, Line, Relabelled, Report, Sensitivity, report, table

__all__ = [
    "Agreement",
    "Curve",
    "Invariance",
    "Line",
    "Relabelled",
    "Report",
    "Sensitivity",
    "agreement",
    "certificate_curve",
    "report",
    "robustness_curve",
    "table",
    "wilson",
]
