r"""Power laws of small values: `P(value < eps) = A eps^B` up to a cutoff.

The smallest eps that flips each image says all that a curve of error against eps does, and its points are independent
where those of the curve are not. So the law is fitted to them by maximum likelihood (Hill's estimator): with n of N
values below the cutoff c,

    B = n / sum log(c / value),        A c^B = n / N.

Values below a resolution (of a bisection, of float32) are known only to lie there. They count, with the resolution in
their place in the sum and not in the numerator: the likelihood of what was seen.

Source: Hill 1975; Cubuk et al. 2018, *Intriguing Properties of Adversarial Examples*, fits `log_log_fit`.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from invjax import _check
from invjax.types import Array, Key


class PowerLaw(NamedTuple):
    """`P(value < eps) = coefficient * eps ** exponent` for eps up to the cutoff.

    Attributes:
        exponent: B.
        coefficient: A.
        low: of the interval of the exponent.
        high: of the interval.
        cutoff: the largest eps that was looked at.
        count: how many values lie below it: those of which the law was made.
    """

    exponent: float
    coefficient: float
    low: float
    high: float
    cutoff: float
    count: int  # type: ignore[assignment]  # nobody needs tuple.count here

    def at(self, eps: Float[Array, "..."] | float | int) -> Float[np.ndarray, "..."]:
        """The law at `eps`, any shape."""
        return np.asarray(self.coefficient * np.asarray(eps, np.float64) ** self.exponent)


class LogLogFit(NamedTuple):
    """`coefficient * eps ** exponent`."""

    exponent: float
    coefficient: float


def hill(
    values: Float[Array, " count"],
    *,
    upto: float | int | None = None,
    quantile: float = 0.1,
    resolution: float | int = 0.0,
) -> float:
    """The exponent of the cdf of small `values`, by maximum likelihood.

    >>> round(hill(np.linspace(0, 1, 10_001)[1:] ** 0.5, upto=0.5), 2)
    2.0

    Args:
        values: `[N]`, positive; infinity where there is none.
        upto: the cutoff; only values below it are used.
        quantile: the cutoff as a share of all N, where `upto` is not given.
        resolution: values at or below it are known only to lie there.

    Raises:
        ValueError: values that are zero, negative, NaN or all infinite; a cutoff that is not above the resolution, or
            with fewer than 2 values between them; a quantile beyond the finite values.
    """
    logs, seen, _, _ = _below(values, upto, quantile, resolution)
    return float(seen.sum() / logs.sum())


def power_law(
    radii: Float[Array, " count"],
    *,
    upto: float | int | None = None,
    quantile: float = 0.1,
    resolution: float | int = 0.0,
    confidence: float = 0.95,
    key: Key | None = None,
    num_resamples: int = 1000,
) -> PowerLaw:
    """The law of adversarial error at small eps, `P(radius < eps) = A eps^B`, from the smallest eps of each image.

    >>> law = power_law(np.linspace(0, 1, 10_001)[1:], quantile=0.2)
    >>> round(law.exponent, 2), round(law.coefficient, 2), law.count
    (1.0, 1.0, 2000)

    Args:
        radii: `[N]`, positive, infinity where no eps was found. Images that are misclassified as they are have no such
            law: leave them out, or give them infinity, so that they count in N (as in the paper's adversarial error).
        upto: the largest eps to look at; below the largest at which radii were searched for.
        quantile: that eps as the error that it brings, where `upto` is not given. Beyond 0.1 or so the law bends.
        resolution: radii at or below it are known only to lie there.
        confidence: of the interval.
        key: for a bootstrap interval, at the fitted cutoff; without it the asymptotic one, `B (1 ± 1.96 / sqrt n)` at
            0.95 (n counts radii above the resolution).
        num_resamples: of the bootstrap.

    Raises:
        ValueError: as `hill`; a confidence outside of (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1; got {confidence}")
    _check.positive(num_resamples=num_resamples)
    logs, seen, cutoff, total = _below(radii, upto, quantile, resolution)
    exponent, count = float(seen.sum() / logs.sum()), len(logs)
    if key is None:
        half = NormalDist().inv_cdf((1 + confidence) / 2) / math.sqrt(seen.sum())
        low, high = exponent * (1 - half), exponent * (1 + half)
    else:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        draws = (rng.integers(count, size=count) for _ in range(num_resamples))
        exponents = [seen[chosen].sum() / logs[chosen].sum() for chosen in draws]
        low, high = map(float, np.quantile(exponents, [(1 - confidence) / 2, (1 + confidence) / 2]))
    return PowerLaw(exponent, count / total / cutoff**exponent, low, high, cutoff, count)


def log_log_fit(epsilons: Float[Array, " points"], errors: Float[Array, " points"]) -> LogLogFit:
    """A straight line by least squares through log error against log eps: how such laws are usually fitted.

    For comparison. The points share their images, so the residuals say nothing of the error of the exponent, and few
    images at small eps weigh as much as many at large eps.

    >>> log_log_fit(np.array([0.1, 0.2, 0.4]), np.array([0.02, 0.04, 0.08])).exponent.__round__(6)
    1.0

    Args:
        epsilons: `[M]`, positive and increasing.
        errors: `[M]`, the share of images that are misclassified at each, in (0, 1].

    Raises:
        ValueError: fewer than two points; epsilons that are not positive, finite and increasing; errors outside of
            (0, 1], which have no place on this scale.
    """
    eps, error = np.asarray(epsilons, np.float64), np.asarray(errors, np.float64)
    if eps.ndim != 1 or eps.size < 2 or eps.shape != error.shape:
        raise ValueError(
            f"epsilons and errors must be [points] of one length, 2 or more; got {eps.shape} and {error.shape}"
        )
    if not (np.isfinite(eps).all() and (eps > 0).all() and (np.diff(eps) > 0).all()):
        raise ValueError(f"epsilons must be positive and increasing; got {eps.tolist()}; sort them and leave 0 out")
    if not ((error > 0) & (error <= 1)).all():
        raise ValueError(f"errors must lie in (0, 1]; got {error.tolist()}; start the grid where there are errors")
    exponent, logarithm = np.polyfit(np.log(eps), np.log(error), 1)
    return LogLogFit(float(exponent), float(np.exp(logarithm)))


def _below(values, upto, quantile, resolution) -> tuple[np.ndarray, np.ndarray, float, int]:
    """`log(cutoff / value)` of the values below the cutoff; which of them are resolved; the cutoff; N."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values must be [N], N at least 1; got shape {values.shape}")
    bad = int((~(values >= 0)).sum())
    if bad:
        raise ValueError(f"values must not be negative or NaN; {bad} of {values.size} are; look for their origin first")
    zeros = int((values == 0).sum())
    if zeros:
        raise ValueError(
            f"values must be positive; {zeros} of {values.size} are 0: an image that is misclassified as it is has no "
            "smallest eps; leave it out, or set it to infinity so that it still counts in N"
        )
    finite = int(np.isfinite(values).sum())
    if upto is None:
        if not 0 < quantile < 1:
            raise ValueError(f"quantile must be between 0 and 1; got {quantile}")
        cutoff = float(np.sort(values)[min(math.ceil(quantile * values.size), values.size - 1)])
        if cutoff == math.inf:
            raise ValueError(
                f"quantile={quantile} lies beyond the finite values, {finite} of {values.size}; give a smaller one, "
                "or upto="
            )
    else:
        cutoff = float(upto)
    if not 0 <= resolution < cutoff < math.inf:
        raise ValueError(f"the cutoff must be finite and above the resolution; got {cutoff:.4g} and {resolution:.4g}")
    small = values[values < cutoff]
    seen = small > resolution
    if seen.sum() < 2:
        raise ValueError(
            f"a power law needs 2 values or more between resolution={resolution:.4g} and the cutoff {cutoff:.4g}; got "
            f"{int(seen.sum())}, of {finite} finite ones among {values.size}; raise the cutoff or take more examples"
        )
    return np.log(cutoff / np.maximum(small, resolution)), seen, cutoff, values.size
