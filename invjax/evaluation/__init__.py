"""Numbers about a model on a data set: robust and certified accuracy, agreement with people, and a report on both
failures.

`benchmark` is AutoAttack in one call. `robustness_curve`, `certificate_curve` and `smoothed_curve` give accuracy
against the radius.
`report` measures both failures on the same images, and `agreement` compares predictions with what people see. `Options`
says how these functions use the machine and where they keep finished parts.
"""

from invjax._batching import correct, over_batches
from invjax.evaluation._agreement import Agreement, agreement
from invjax.evaluation._benchmark import Benchmark, benchmark
from invjax.evaluation._certificate import certificate_curve
from invjax.evaluation._curve import Curve, robustness_curve
from invjax.evaluation._intervals import wilson
from invjax.evaluation._invariance import ChangedImages, Invariance
from invjax.evaluation._options import Options
from invjax.evaluation._report import Report, report
from invjax.evaluation._sensitivity import Sensitivity, ThreatModel
from invjax.evaluation._smoothed import smoothed_curve
from invjax.evaluation._table import Entry, table

__all__ = [
    "Agreement",
    "Benchmark",
    "ChangedImages",
    "Curve",
    "Entry",
    "Invariance",
    "Options",
    "Report",
    "Sensitivity",
    "ThreatModel",
    "agreement",
    "benchmark",
    "certificate_curve",
    "correct",
    "over_batches",
    "report",
    "robustness_curve",
    "smoothed_curve",
    "table",
    "wilson",
]
