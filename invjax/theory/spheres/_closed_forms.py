"""Errors, distances and margins of the misaligned classifier in closed form, as float64 numbers.

The square of one coordinate of a uniform direction is `B ~ Beta(1/2, (d-1)/2)`; all closed forms follow from this law.
"""

import math

from scipy import special

from invjax.theory.spheres._points import Radii, check_spheres


def misaligned_error(*, dimension: int, radii: Radii) -> float:
    """The error of `misaligned` on the outer sphere, `P(B > 1 - (t / R2)^2)`; on the inner sphere it makes no error.

    The tail is computed directly rather than as one minus the rest, so it is accurate where it is tiny.

    >>> f"{misaligned_error(dimension=100, radii=(1, 10)):.3g}"
    '1.89e-27'

    Args:
        dimension: dimension d of the space, at least 2.
        radii: `(R1, R2)`, inner and outer.

    Raises:
        ValueError: as for `sample`.
    """
    check_spheres(dimension, radii)
    return _shorter(dimension, sum(radii) / 2 / radii[1])


def reachable(*, dimension: int, radii: Radii) -> float:
    """The fraction of outer points from which `change_last` reaches the inner sphere: `P(B > 1 - (R1 / R2)^2)`.

    Args:
        dimension: dimension d of the space, at least 2.
        radii: `(R1, R2)`, inner and outer.

    Raises:
        ValueError: as for `sample`.
    """
    check_spheres(dimension, radii)
    return _shorter(dimension, radii[0] / radii[1])


def mean_distance(*, dimension: int, radii: Radii, far: bool = False) -> float:
    r"""The mean distance by which `change_last` moves an inner point to the outer sphere.

    The distance is `sqrt(R2^2 - R1^2 + x_d^2) - |x_d|`; the far root has a plus sign. With `c = R2^2 - R1^2`,

        E sqrt(c + x_d^2) = sqrt(c) 2F1(-1/2, 1/2; d/2; -R1^2 / c)
        E |x_d| = R1 Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)).

    >>> round(mean_distance(dimension=100, radii=(1, 10)), 4)
    9.8704

    Args:
        dimension: dimension d of the space, at least 2.
        radii: `(R1, R2)`, inner and outer.
        far: whether the point moves to the farther of the two roots.

    Raises:
        ValueError: as for `sample`.
    """
    check_spheres(dimension, radii)
    inner, outer = radii
    square = outer**2 - inner**2
    root = math.sqrt(square) * float(special.hyp2f1(-0.5, 0.5, dimension / 2, -(inner**2) / square))
    last = inner * math.exp(math.lgamma(dimension / 2) - math.lgamma((dimension + 1) / 2)) / math.sqrt(math.pi)
    return root + last if far else root - last


def mean_margin(*, dimension: int, radii: Radii) -> tuple[float, float]:
    r"""The mean distance of inner and of outer points from the boundary of `misaligned`.

    The margin is `+- (|x_1, ..., x_(d-1)| - t)`, negative on an error, and the mean length of these coordinates is
    `R Gamma(d/2)^2 / (Gamma((d-1)/2) Gamma((d+1)/2))`. In high dimension both margins approach `(R2 - R1) / 2`, the
    margin of `max_margin`, so no small perturbation reveals the fault of this classifier.

    >>> [round(margin, 3) for margin in mean_margin(dimension=100, radii=(1, 10))]
    [4.505, 4.45]

    Args:
        dimension: dimension d of the space, at least 2.
        radii: `(R1, R2)`, inner and outer.

    Raises:
        ValueError: as for `sample`.
    """
    check_spheres(dimension, radii)
    logs = (2 * math.lgamma(dimension / 2), math.lgamma((dimension - 1) / 2), math.lgamma((dimension + 1) / 2))
    fraction, middle = math.exp(logs[0] - logs[1] - logs[2]), sum(radii) / 2
    return middle - radii[0] * fraction, radii[1] * fraction - middle


def _shorter(dimension, length):
    """P(|x_1, ..., x_(d-1)| < length) on the unit sphere, where the square is `1 - B ~ Beta((d-1)/2, 1/2)`."""
    return float(special.betainc((dimension - 1) / 2, 0.5, length**2))
