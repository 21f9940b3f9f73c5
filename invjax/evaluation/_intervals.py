"""How sure a share is that was counted."""

import numpy as np

from invjax import _check


def wilson(successes: float | int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share: where the true one lies with 95 % confidence (`z = 1.96`).

    >>> low, high = wilson(0, 10)
    >>> low, round(high, 3)
    (0.0, 0.278)

    Args:
        successes: how many of `total`.
        total: at least 1.
        z: quantile of the standard normal distribution.
    """
    _check.positive(total=total)
    share = successes / total
    center = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # the interval holds the share itself, also after rounding
    return min(share, max(0.0, float(center - half))), max(share, min(1.0, float(center + half)))
