"""Certificates: what surely holds for every input of a region."""

from invjax.bounds.base import Ball, Interval, Margins, certified, l2_ball, linf_box
from invjax.bounds.enclosures import Between, Exact, Line, Lines, affine, bent, register_enclosure, s_shaped
from invjax.bounds.interval import decreasing, ibp, increasing, linear, register_rule, turning
from invjax.bounds.linear import METHODS, crown, margins
from invjax.bounds.smoothing import ABSTAIN, Smoothed, smoothed, smoothing_radius

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
