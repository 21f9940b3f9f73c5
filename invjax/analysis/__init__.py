"""Numbers about a trained model."""

from invjax.analysis._decision import Slice, decision_segment, decision_slice
from invjax.analysis._information import Reading, fresh_head, reading, train_head
from invjax.analysis._linear_response import (
    Crossing,
    LinearResponse,
    attack_direction,
    dataset_response,
    gamma,
    linear_epsilon,
    linear_response,
    logit_jacobian,
    mean_field_epsilon,
    rank_means,
    true_epsilon,
)
from invjax.analysis._logit_gaps import GapLaw, gap_coefficient, gap_power_law, logit_gaps, uniform_gap_law
from invjax.analysis._metric_alignment import (
    NORMS,
    beyond_nearest_other,
    distances,
    one_point_accuracy,
    order_violations,
)
from invjax.analysis._power_law import LogLogFit, PowerLaw, hill, log_log_fit, power_law

__all__ = [
    "Crossing",
    "GapLaw",
    "LinearResponse",
    "LogLogFit",
    "NORMS",
    "PowerLaw",
    "Reading",
    "Slice",
    "attack_direction",
    "beyond_nearest_other",
    "dataset_response",
    "decision_segment",
    "decision_slice",
    "distances",
    "fresh_head",
    "gamma",
    "gap_coefficient",
    "gap_power_law",
    "hill",
    "linear_epsilon",
    "linear_response",
    "log_log_fit",
    "logit_gaps",
    "logit_jacobian",
    "mean_field_epsilon",
    "one_point_accuracy",
    "order_violations",
    "power_law",
    "rank_means",
    "reading",
    "train_head",
    "true_epsilon",
    "uniform_gap_law",
]
