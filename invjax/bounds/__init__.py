"""Certificates: what surely holds for every input of a region."""

from invjax.bounds._base import Ball, Interval, Margins, certified, l2_ball, linf_box
from invjax.bounds._enclosures import Between, Exact, Line, Lines, affine, bent, register_enclosure, s_shaped
from invjax.bounds._interval import decreasing, ibp, increasing, linear, register_rule, turning
from invjax.bounds._linear import METHODS, crown, margins
from invjax.bounds._smoothing import ABSTAIN, Smoothed, smoothed, smoothing_radius

__all__ = [
    "ABSTAIN",
    "Ball",
    "Between",
    "Exact",
    "Interval",
    "Line",
    "Lines",
    "METHODS",
    "Margins",
    "Smoothed",
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
]
