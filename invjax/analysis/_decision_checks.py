"""Checks of the points and logits of `decision_slice` and `decision_segment`."""

import numpy as np

from invjax import _check


def check_points(**points):
    """Refuse points of different shapes, with integers or with values that are not finite."""
    shapes = {name: point.shape for name, point in points.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"points must have the same shape; got {shapes}; reshape or crop them")
    for name, point in points.items():
        _check.floating(name, point)
        _check.finite(name, point)


def check_logits(logits, count):
    """Refuse logits that are not `[count, classes]`."""
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] < 2:
        raise ValueError(
            f"logits_fn must map {count} examples to logits [{count}, classes]; got {logits.shape}; "
            "two classes need two logits, such as [-z, z]"
        )


def check_finite(logits, fix):
    """Refuse logits that are not finite."""
    bad = int((~np.isfinite(logits)).sum())
    if bad:
        raise ValueError(f"logits_fn returns {bad} NaN or infinite values of {logits.size}; {fix}")
