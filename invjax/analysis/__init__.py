"""Measurements that explain why a model fails: linear response, logit gaps, power laws, information, decisions."""

from invjax.analysis._crossing import Crossing, linear_epsilon, mean_field_epsilon, rank_means, true_epsilon
from invjax.analysis._decision_segment import decision_segment
from invjax.analysis._decision_slice import Slice, decision_slice
from invjax.analysis._fresh_head import fresh_head, train_head
from invjax.analysis._gap_laws import GapLaw, gap_coefficient, uniform_gap_law
from invjax.analysis._jacobian import logit_jacobian
from invjax.analysis._linear_response import (
    DIRECTIONS,
    LinearResponse,
    attack_direction,
    dataset_response,
    gamma,
    linear_response,
)
from invjax.analysis._log_log import LogLogFit, log_log_fit
from invjax.analysis._logit_gaps import gap_power_law, logit_gaps
from invjax.analysis._metric_alignment import (
    NORMS,
    OrderViolations,
    beyond_nearest_other,
    distances,
    one_point_accuracy,
    order_violations,
)
from invjax.analysis._power_law import PowerLaw, hill, power_law
from invjax.analysis._reading import Reading, reading

__all__ = [
    "DIRECTIONS",
    "NORMS",
    "Crossing",
    "GapLaw",
    "LinearResponse",
    "LogLogFit",
    "OrderViolations",
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
