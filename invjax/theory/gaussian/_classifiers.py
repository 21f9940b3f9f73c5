r"""Linear classifiers of two Gaussians `x ~ N(y mu*, S*)`: direction of the gradient, errors, usefulness.

A model of mean mu and covariance S decides by `sign(x^T S^-1 mu)`, whose gradient is `S^-1 mu` everywhere. All values
are float64 whatever the precision of JAX.

Source: Ilyas et al. 2019, *Adversarial Examples Are Not Bugs, They Are Features*, theorem 3 and section 2.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from invjax.theory.gaussian import _checks
from invjax.theory.gaussian._checks import Matrix, Vector


class Alignment(NamedTuple):
    """The worst alignment of a mean with the gradient of its classifier.

    Attributes:
        cosine: the smallest cosine over all means.
        mean: a mean of length 1 that attains it, `[d]`.
    """

    cosine: float
    mean: np.ndarray


def alignment(mean: Vector, covariance: Matrix) -> float:
    """The cosine of the angle between the mean and `S^-1 mean`, the gradient of the classifier.

    Theorem 3 states that its minimum over all means is larger for `robust_covariance(S*)` than for S*. A stronger
    statement holds: the cosine grows with eps for every mean that is not an eigenvector of S*. For an eigenvector it
    is 1.

    Args:
        mean: mean of the model, `[d]`.
        covariance: covariance S of the model, `[d, d]`.

    Raises:
        ValueError: the covariance is not symmetric positive definite, or the mean is zero or has another size.
    """
    model = _checks.matrix("covariance", covariance)
    vector = _checks.direction("mean", mean, len(model))
    gradient = np.linalg.solve(model, vector)
    return float(vector @ gradient / np.linalg.norm(vector) / np.linalg.norm(gradient))


def worst_alignment(covariance: Matrix) -> Alignment:
    r"""The smallest `alignment` over all means, `2 sqrt(kappa) / (1 + kappa)` with kappa the condition number of S.

    The minimum is attained by the mean whose coordinates along the two extreme eigenvectors are the square roots of
    their eigenvalues.

    >>> round(worst_alignment(np.diag([0.25, 1.0, 4.0])).cosine, 6)
    0.470588

    Args:
        covariance: covariance S of the model, `[d, d]`.

    Raises:
        ValueError: the covariance is not symmetric positive definite.
    """
    variances, axes = _checks.spectrum("covariance", covariance)
    ends = [0, -1] if len(variances) > 1 else [0]
    mean = axes[:, ends] @ np.sqrt(variances[ends])
    root = math.sqrt(variances[-1] / variances[0])
    return Alignment(2 * root / (1 + root**2), mean / np.linalg.norm(mean))


def error_rate(
    direction: Vector, mean: Vector, covariance: Matrix, *, eps: float | int = 0, norm: float | int = 2
) -> float:
    """The error of the classifier `sign(a^T x)` when an adversary may move each x by eps in a norm.

        Phi((eps |a|_dual - a^T mu) / sqrt(a^T S a)),        Phi the normal distribution function.

    >>> round(error_rate(np.array([1.0]), np.array([2.0]), np.eye(1), eps=1), 4)
    0.1587

    Args:
        direction: the direction a, `[d]`; for a model it is `S^-1 mu`.
        mean: mean of the data, `[d]`.
        covariance: covariance of the data, `[d, d]`.
        eps: the radius, in the units of x.
        norm: the norm of the radius: 1, 2 or `math.inf`.

    Raises:
        ValueError: the covariance is not symmetric positive definite, the direction is zero, the shapes do not match,
            eps is negative or not finite, or the norm is another number.
    """
    margin, variance = _margin(direction, mean, covariance, eps, norm)
    return float(special.ndtr(-margin / math.sqrt(variance)))


def robust_usefulness(
    direction: Vector, mean: Vector, covariance: Matrix, *, eps: float | int = 0, norm: float | int = 2
) -> float:
    """The robust usefulness of the feature `f(x) = a^T x / sqrt(E (a^T x)^2)`.

        E[min over |delta| <= eps of y f(x + delta)] = (a^T mu - eps |a|_dual) / sqrt(a^T (S + mu mu^T) a)

    A feature is useful but not robust if the value is positive at eps = 0 but not at the radius of the adversary.

    Args:
        direction: the direction a, `[d]`.
        mean: mean of the data, `[d]`.
        covariance: covariance of the data, `[d, d]`.
        eps: the radius, in the units of x.
        norm: the norm of the radius: 1, 2 or `math.inf`.

    Raises:
        ValueError: as for `error_rate`.

    Source: Ilyas et al. 2019, section 2; Goh 2019, response 3 in the discussion in Distill, for the closed form.
    """
    margin, variance = _margin(direction, mean, covariance, eps, norm)
    return margin / math.sqrt(variance + float(np.dot(np.ravel(direction), np.ravel(mean))) ** 2)


def _margin(direction, mean, covariance, eps, norm):
    """Mean and variance of `y a^T x` under attack, which lowers the mean by `eps |a|_dual`."""
    data = _checks.matrix("covariance", covariance)
    vector, center = _checks.direction("direction", direction, len(data)), _checks.vector("mean", mean, len(data))
    _checks.check_eps(eps)
    if norm not in (1, 2, math.inf):
        raise ValueError(f"norm must be 1, 2 or math.inf; got {norm}")
    dual = np.linalg.norm(vector, {1: np.inf, 2: 2, math.inf: 1}[norm])
    return float(vector @ center - eps * dual), float(vector @ data @ vector)
