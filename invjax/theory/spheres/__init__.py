r"""Adversarial spheres: two classes, uniform on concentric spheres, where both kinds of failure have a closed form.

A point of radius `R1` is inner, class 0, and a point of radius `R2 > R1` is outer, class 1; the middle radius is
`t = (R1 + R2) / 2`. In spherical coordinates a change of the radius is semantic, and a change of the direction is
nuisance. Two classifiers are compared:

    max margin    D*(x) = sign(|x| - t)                        invariant to all nuisance, sensitive to all semantics
    misaligned    D(x) = sign(|x_1, ..., x_(d-1)| - t)         ignores the last coordinate

In high dimension the second classifier is as accurate on the data, because the square of one coordinate of a uniform
direction is `B ~ Beta(1/2, (d-1)/2)`, about 1/d. Yet every inner point can be moved to the outer sphere along that
coordinate without a change of its logits.

Closed forms are Python floats, computed in float64 whatever the precision of JAX.

Source: Gilmer et al. 2018, *Adversarial Spheres*, for the data; Jacobsen et al. 2019, examples 7 and 8. The closed
forms are ours: the paper evaluates the misaligned classifier on samples.
"""

from invjax.theory.spheres._closed_forms import mean_distance, mean_margin, misaligned_error, reachable
from invjax.theory.spheres._points import Moved, change_last, max_margin, misaligned, sample

__all__ = [
    "Moved",
    "change_last",
    "max_margin",
    "mean_distance",
    "mean_margin",
    "misaligned",
    "misaligned_error",
    "reachable",
    "sample",
]
