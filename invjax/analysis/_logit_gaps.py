r"""Logit gaps: how far the other classes are behind the predicted one, `Delta_1j = h_(1) - h_(j)` of ordered logits.

If logits were independent draws from one continuous density, the density of small gaps would be `C_j d^(j-2)`. The
density of the gap to the runner-up would then be constant near 0 (exponent 0), and adversarial error linear in eps.
`uniform_gap_law` and `gap_coefficient` give the theory, and `gap_power_law` fits the law to measured logits.

Source: Cubuk et al. 2018, *Intriguing Properties of Adversarial Examples*, section on logit differences.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from invjax import _check, _logits
from invjax._dtypes import wide
from invjax.analysis._power_law import PowerLaw, power_law
from invjax.types import Array, Key, Logits


def logit_gaps(logits: Logits) -> Float[Array, "batch others"]:
    """The largest logit minus each of the others: Delta_1j for j = 2..K, in ascending order.

    >>> logit_gaps(jnp.array([[1.0, 5.0, 3.0]])).tolist()
    [[2.0, 4.0]]

    Args:
        logits: logits of N images, `[N, K]`.

    Returns:
        The gaps, `[N, K - 1]`.

    Raises:
        ValueError: there are fewer than two classes, or logits are not finite.
    """
    _logits.check(logits)
    _check.finite("logits", logits)
    ordered = jnp.sort(wide(logits), axis=1, descending=True)
    return ordered[:, :1] - ordered[:, 1:]


def gap_power_law(
    logits: Logits,
    j: int,
    *,
    upto: float | int | None = None,
    quantile: float = 0.01,
    resolution: float | int = 0.0,
    key: Key | None = None,
    num_resamples: int = 1000,
) -> PowerLaw:
    """The density of small gaps Delta_1j as a power law `C d^b`.

    For independent logits b is j - 2 and C is C_j. Hill's estimator gives the exponent of the cdf; the exponent of the
    density is one less. At a finite quantile the estimate is biased downward, and more so for larger j.

    Args:
        logits: logits of N images, `[N, K]`.
        j: rank of the class whose gap is fitted, 2..K.
        upto: the largest gap that is used.
        quantile: the fraction of gaps that is used if `upto` is not given.
        resolution: gaps at or below this value, including ties, are censored: only this upper bound is known.
        key: random key for a bootstrap interval; without it the interval is the asymptotic one.
        num_resamples: number of bootstrap samples.

    Returns:
        A `PowerLaw` of the density: its exponent, 95 % interval and coefficient, and the values of `at`.

    Raises:
        ValueError: j is not the rank of a class behind the first, or there are ties and no resolution; otherwise as
            for `logit_gaps` and `power_law`.
    """
    check_rank(j, logits.shape[-1])
    gaps = np.asarray(logit_gaps(logits)[:, j - 2], np.float64)
    ties = int((gaps == 0).sum())
    if ties and resolution == 0:
        raise ValueError(
            f"{ties} of {gaps.size} gaps between logits 1 and {j} are 0: the logits are too coarse; pass resolution="
        )
    cdf = power_law(
        np.maximum(gaps, resolution),
        upto=upto,
        quantile=quantile,
        resolution=resolution,
        key=key,
        num_resamples=num_resamples,
    )
    return cdf._replace(
        exponent=cdf.exponent - 1, coefficient=cdf.coefficient * cdf.exponent, low=cdf.low - 1, high=cdf.high - 1
    )


def check_rank(j, num_classes):
    """Refuse a j that is not the rank of a class behind the first."""
    if not 2 <= j <= num_classes:
        raise ValueError(
            f"j must be the rank of a class behind the first, 2..{num_classes} for {num_classes} classes; got {j}"
        )
