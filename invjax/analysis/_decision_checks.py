"""Checks of the points and logits of `decision_slice` and `decision_segment`."""

import numpy as np

from invjax import _check, _logits


def check_points(**points):
    """Refuse points of different shapes, with integers or with values that are not finite."""
    for name, point in points.items():
        _check.array(name, point)
    shapes = {name: point.shape for name, point in points.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"points must have the same shape; got {shapes}; reshape or crop them")
    for name, point in points.items():
        _check.floating(name, point)
        _check.finite(name, point)


def check_logits(logits, count):
    """Refuse logits that are not `[count, classes]`."""
    _logits.check_shape(logits, (count,))


def check_finite(logits, fix):
    """Refuse logits that are not finite."""
    bad = int((~np.isfinite(logits)).sum())
    if bad:
        raise ValueError(f"logits_fn returns {bad} NaN or infinite values of {logits.size}; {fix}")
