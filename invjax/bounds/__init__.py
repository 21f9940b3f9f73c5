"""Certificates: statements about a model that hold for every input of a region.

`margins` and `certified` decide whether a prediction is constant over a box or an l2 ball; `ibp` and `crown` bound the
outputs of any JAX function. `verify` decides it for small ReLU networks by branch and bound, or finds an image with
another prediction. `smoothed` certifies any classifier with high probability. `register_rule` and `register_enclosure`
extend the bounds to new primitives.
"""

from invjax.bounds import _interval_table as _interval_table  # registers the rules of JAX's primitives
from invjax.bounds import _normalization_rules as _normalization_rules  # registers the rules of layer norm and the like
from invjax.bounds import _whole_rules as _whole_rules  # registers the rules of softmax and other whole functions
from invjax.bounds._crown import METHODS, Margins, certified, crown, margins
from invjax.bounds._enclosure_rules import affine, bent, s_shaped
from invjax.bounds._enclosures import Between, Exact, Line, Lines, register_enclosure
from invjax.bounds._interval import ibp, register_rule
from invjax.bounds._interval_rules import decreasing, increasing, linear, turning
from invjax.bounds._regions import Ball, Interval, l2_ball, linf_box
from invjax.bounds._smoothing import ABSTAIN, Smoothed, smoothed, smoothing_radius
from invjax.bounds._verify import Verdict, verify

__all__ = [
    "ABSTAIN",
    "METHODS",
    "Ball",
    "Between",
    "Exact",
    "Interval",
    "Line",
    "Lines",
    "Margins",
    "Smoothed",
    "Verdict",
    "affine",
    "bent",
    "certified",
    "crown",
    "decreasing",
    "ibp",
    "increasing",
    "l2_ball",
    "linear",
    "linf_box",
    "margins",
    "register_enclosure",
    "register_rule",
    "s_shaped",
    "smoothed",
    "smoothing_radius",
    "turning",
    "verify",
]
