"""Confidence intervals for proportions."""

import numpy as np

from invjax import _check


def wilson(successes: float | int | np.number, total: int | np.number, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a proportion `p = successes / total`.

        center = (p + z^2 / 2n) / (1 + z^2 / n),   half width = z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n)

    >>> low, high = wilson(0, 10)
    >>> low, round(high, 3)
    (0.0, 0.278)

    Args:
        successes: number of successes, from 0 to `total`; a mean over several runs may be fractional.
        total: number of trials n, at least 1.
        z: quantile of the standard normal distribution; 1.96 gives a 95 % interval.

    Returns:
        The lower and the upper end, both in [0, 1].

    Raises:
        ValueError: `total` or `z` is not positive, or the successes are below 0, above `total` or NaN.

    Source: Wilson 1927, *Probable Inference, the Law of Succession, and Statistical Inference*.
    """
    _check.positive(total=total, z=z)
    hits, n = float(successes), float(total)  # the squares of NumPy's small integers overflow
    if not 0 <= hits <= n:
        raise ValueError(f"successes must be from 0 to total={n:g}; got successes={hits:g}; count them again")
    p = hits / n
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # rounding must not move an end past the proportion itself
    return min(p, max(0.0, float(center - half))), max(p, min(1.0, float(center + half)))
