r"""Power laws of small values: `P(value < eps) = A eps^B` up to a cutoff.

The smallest radii of all images contain the same information as a curve of error against eps. Unlike the points of the
curve, the radii are independent of each other, so the law is fitted to them by maximum likelihood (Hill's estimator).
With n of N values below the cutoff c,

    B = n / sum log(c / value),        A c^B = n / N.

Values up to a resolution (of a bisection or of float32) are censored: only this upper bound is known. Each of them
enters the sum as the resolution and does not enter the numerator, as the likelihood of censored values requires.

Source: Hill 1975. Cubuk et al. 2018, *Intriguing Properties of Adversarial Examples*, use `log_log_fit` instead.
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
    """The law `P(value < eps) = coefficient * eps ** exponent` for eps up to a cutoff.

    Attributes:
        exponent: the exponent B.
        coefficient: the coefficient A.
        low: lower end of the confidence interval of the exponent.
        high: upper end of the confidence interval of the exponent.
        cutoff: the largest eps that was used.
        count: the number of values below the cutoff, from which the law was fitted.
    """

    exponent: float
    coefficient: float
    low: float
    high: float
    cutoff: float
    count: int  # type: ignore[assignment]  # hides tuple.count

    def at(self, eps: Float[Array, "..."] | float | int) -> Float[np.ndarray, "..."]:
        """The value of the law at each radius.

        Args:
            eps: radii, of any shape.

        Returns:
            The values, of the shape of `eps`.
        """
        return np.asarray(self.coefficient * np.asarray(eps, np.float64) ** self.exponent)


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
    """The law of adversarial error at small eps, `P(radius < eps) = A eps^B`, from the smallest radius of each image.

    >>> law = power_law(np.linspace(0, 1, 10_001)[1:], quantile=0.2)
    >>> round(law.exponent, 2), round(law.coefficient, 2), law.count
    (1.0, 1.0, 2000)

    Args:
        radii: `[N]`, positive; infinity where the search found none. Images that are misclassified without a change
            have no radius: remove them, or set them to infinity so that they count in N (as in the paper's adversarial
            error).
        upto: the largest eps that is used; it must be below the largest eps of the search.
        quantile: the fraction of radii that is used if `upto` is not given. Above about 0.1 the law fails.
        resolution: radii at or below this value are censored: only this upper bound is known.
        confidence: confidence level of the interval.
        key: random key for a bootstrap interval at the fitted cutoff. Without it the interval is the asymptotic one,
            `B (1 ± 1.96 / sqrt n)` at 0.95, where n counts radii above the resolution.
        num_resamples: number of bootstrap samples.

    Returns:
        The fitted `PowerLaw`.

    Raises:
        ValueError: values are zero, negative, NaN or all infinite; the cutoff is not above the resolution, or fewer
            than 2 values lie between them; the quantile lies beyond the finite values; the confidence is outside
            (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1; got {confidence}")
    _check.count(num_resamples=num_resamples)
    if key is not None:
        _check.key(key)
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


def hill(values: Float[Array, " count"], *, quantile: float = 0.1) -> float:
    """Hill's estimator of the exponent of `P(value < eps)` for small values.

    >>> round(hill(np.linspace(0, 1, 10_001)[1:] ** 0.5, quantile=0.25), 2)
    2.0

    Args:
        values: `[N]`, positive; infinity for an example without a value.
        quantile: the fraction of values that is used.

    Returns:
        The exponent B of `power_law`.

    Raises:
        ValueError: as for `power_law`.
    """
    return power_law(values, quantile=quantile).exponent


def _below(values, upto, quantile, resolution) -> tuple[np.ndarray, np.ndarray, float, int]:
    """`log(cutoff / value)` of the values below the cutoff, a mask of the resolved ones, the cutoff, and N."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values must be [N], N at least 1; got shape {values.shape}")
    bad = int((~(values >= 0)).sum())
    if bad:
        raise ValueError(f"values must not be negative or NaN; {bad} of {values.size} are; check the search")
    zeros = int((values == 0).sum())
    if zeros:
        raise ValueError(
            f"values must be positive; {zeros} of {values.size} are 0: an image that is misclassified without a change "
            "has no smallest eps; remove it, or set it to infinity so that it still counts in N"
        )
    finite = int(np.isfinite(values).sum())
    if upto is None:
        if not 0 < quantile < 1:
            raise ValueError(f"quantile must be between 0 and 1; got {quantile}")
        cutoff = float(np.sort(values)[min(math.ceil(quantile * values.size), values.size - 1)])
        if cutoff == math.inf:
            raise ValueError(
                f"quantile={quantile} lies beyond the finite values, {finite} of {values.size}; pass a smaller one, "
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
            f"{int(seen.sum())} ({finite} of {values.size} values are finite); raise the cutoff or use more examples"
        )
    return np.log(cutoff / np.maximum(small, resolution)), seen, cutoff, values.size
