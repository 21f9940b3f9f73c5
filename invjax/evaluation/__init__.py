"""How a model does: robustness curves, agreement with people, and one report of both failures."""

from invjax._batching import correct, over_batches
from invjax.evaluation._agreement import Agreement, agreement
from invjax.evaluation._benchmark import Benchmark, benchmark
from invjax.evaluation._certificate import certificate_curve
from invjax.evaluation._curve import Curve, robustness_curve
from invjax.evaluation._intervals import wilson
from invjax.evaluation._options import Options
from invjax.evaluation._report import Invariance, Line, Relabelled, Report, Sensitivity, report, table

__all__ = [
    "Agreement",
    "Benchmark",
    "Curve",
    "Invariance",
    "Line",
    "Options",
    "Relabelled",
    "Report",
    "Sensitivity",
    "agreement",
    "benchmark",
    "certificate_curve",
    "correct",
    "over_batches",
    "report",
    "robustness_curve",
    "table",
    "wilson",
]
