"""A straight line through log error against log eps: the usual fit of a power law, for comparison with `power_law`.

Source: Cubuk et al. 2018, *Intriguing Properties of Adversarial Examples*.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from invjax.types import Array


class LogLogFit(NamedTuple):
    """The curve `coefficient * eps ** exponent`.

    Attributes:
        exponent: slope of the line.
        coefficient: exponential of its intercept.
    """

    exponent: float
    coefficient: float


def log_log_fit(epsilons: Float[Array, " points"], errors: Float[Array, " points"]) -> LogLogFit:
    """Fit a straight line through log error against log eps by least squares.

    All points count the same images, so the residuals do not measure the error of the exponent. The few images at small
    eps weigh as much as the many at large eps.

    >>> log_log_fit(np.array([0.1, 0.2, 0.4]), np.array([0.02, 0.04, 0.08])).exponent.__round__(6)
    1.0

    Args:
        epsilons: `[M]`, positive and increasing.
        errors: `[M]`, the fraction of images that are misclassified at each eps, in (0, 1].

    Returns:
        The fitted curve.

    Raises:
        ValueError: there are fewer than two points; epsilons are not positive, finite and increasing; errors are
            outside (0, 1].
    """
    eps, error = np.asarray(epsilons, np.float64), np.asarray(errors, np.float64)
    if eps.ndim != 1 or eps.size < 2 or eps.shape != error.shape:
        raise ValueError(
            f"epsilons and errors must both be [points] with 2 points or more; got {eps.shape} and {error.shape}"
        )
    if not (np.isfinite(eps).all() and (eps > 0).all() and (np.diff(eps) > 0).all()):
        raise ValueError(f"epsilons must be positive and increasing; got {eps.tolist()}; sort them and remove 0")
    if not ((error > 0) & (error <= 1)).all():
        raise ValueError(f"errors must lie in (0, 1]; got {error.tolist()}; start the grid where errors occur")
    exponent, logarithm = np.polyfit(np.log(eps), np.log(error), 1)
    return LogLogFit(float(exponent), float(np.exp(logarithm)))
