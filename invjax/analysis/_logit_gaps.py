r"""How far the other classes are behind: the gaps `Delta_1j = h_(1) - h_(j)` between ordered logits.

For N logits drawn independently from a density p with cdf F,

    density of Delta_1j at d  =  C_j d^(j-2) + O(d^(j-1)),        C_j = N! / ((N-j)! (j-2)!)  integral of p^j F^(N-j),

whatever p is: small gaps to the runner-up are as likely as any (exponent 0), which is what makes adversarial error
linear in eps. For U(0, 1) the law is exact, `Delta_1j ~ Beta(j - 1, N - j + 2)`.

Closed forms are float64 whatever the precision of JAX.

Source: Cubuk et al. 2018, *Intriguing Properties of Adversarial Examples*, section on logit differences. The exact law
is ours.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from invjax import _check
from invjax.analysis._power_law import PowerLaw, power_law
from invjax.types import Array, Key, Logits

Function = Callable[[np.ndarray], np.ndarray]
"""Of one variable, on arrays."""


class GapLaw(NamedTuple):
    """The law of one gap, as functions of it: `density` and `cdf`, arrays in and out."""

    density: Function
    cdf: Function


def logit_gaps(logits: Logits) -> Float[Array, "batch others"]:
    """The largest logit minus each of the others in descending order: Delta_1j for j = 2..K, `[N, K - 1]`, ascending.

    >>> logit_gaps(jnp.array([[1.0, 5.0, 3.0]])).tolist()
    [[2.0, 4.0]]

    Raises:
        ValueError: fewer than two classes; logits that are not finite.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be [N, classes] with 2 classes or more; got {logits.shape}")
    _check.finite("logits", logits)
    ordered = jnp.sort(jnp.asarray(logits), axis=1, descending=True)
    return ordered[:, :1] - ordered[:, 1:]


def gap_power_law(
    logits: Logits,
    j: int,
    *,
    upto: float | int | None = None,
    quantile: float = 0.01,
    resolution: float | int = 0.0,
    confidence: float = 0.95,
    key: Key | None = None,
    num_resamples: int = 1000,
) -> PowerLaw:
    """The density of small Delta_1j as a power law, `C d^b`: for independent logits b is j - 2 and C is C_j.

    Hill's estimator gives the exponent of the cdf; that of the density is one less. At a finite quantile it is biased
    downward, the more the larger j is.

    Args:
        logits: `[N, K]`.
        j: which gap, 2..K.
        upto: the largest gap to look at.
        quantile: that gap as a share of N, where `upto` is not given.
        resolution: gaps at or below it, ties included, are known only to lie there.
        confidence: of the interval.
        key: for a bootstrap interval; without it the asymptotic one.
        num_resamples: of the bootstrap.

    Returns:
        A `PowerLaw` whose exponent, interval and coefficient are those of the density, and so is what `at` gives.

    Raises:
        ValueError: as `logit_gaps` and `power_law`; j that is not a rank of a class behind the first; ties without a
            resolution.
    """
    _check_rank(j, logits.shape[-1])
    gaps = np.asarray(logit_gaps(logits)[:, j - 2], np.float64)
    ties = int((gaps == 0).sum())
    if ties and resolution == 0:
        raise ValueError(
            f"{ties} of {gaps.size} gaps between logits 1 and {j} are 0: the logits are too coarse; give resolution="
        )
    cdf = power_law(
        np.maximum(gaps, resolution),
        upto=upto,
        quantile=quantile,
        resolution=resolution,
        confidence=confidence,
        key=key,
        num_resamples=num_resamples,
    )
    return cdf._replace(
        exponent=cdf.exponent - 1, coefficient=cdf.coefficient * cdf.exponent, low=cdf.low - 1, high=cdf.high - 1
    )


def uniform_gap_law(num_classes: int, j: int) -> GapLaw:
    """The exact law of Delta_1j of independent U(0, 1) logits: Beta(j - 1, N - j + 2), N the number of classes.

    >>> law = uniform_gap_law(10, 2)
    >>> float(law.density(0.0).round(6)), float(law.cdf(1.0))
    (10.0, 1.0)

    Args:
        num_classes: N.
        j: which gap, 2..N.

    Raises:
        ValueError: j that is not a rank of a class behind the first.
    """
    _check_rank(j, num_classes)
    factor = _factorials(num_classes) - _factorials(num_classes - j + 1, j - 2)

    def density(gap):
        gap = np.asarray(gap, np.float64)
        inside = (gap >= 0) & (gap <= 1)
        d = np.where(inside, gap, 0)
        return np.where(inside, np.exp(factor) * d ** (j - 2) * (1 - d) ** (num_classes - j + 1), 0)

    def cdf(gap):
        # the incomplete Beta function of whole numbers is the tail of a binomial: a sum of positive terms
        d = np.clip(np.asarray(gap, np.float64), 0, 1)
        orders = range(j - 1, num_classes + 1)
        terms = (
            np.exp(_factorials(num_classes) - _factorials(i, num_classes - i)) * d**i * (1 - d) ** (num_classes - i)
            for i in orders
        )
        return np.minimum(sum(terms), 1)

    return GapLaw(density, cdf)


def gap_coefficient(
    j: int, num_classes: int, density: Function, cdf: Function, support: tuple[float | int, float | int]
) -> float:
    """C_j of independent logits of any density: that of Delta_1j is `C_j d^(j-2)` for small d.

    >>> uniform = gap_coefficient(2, 10, np.ones_like, lambda h: h, (0, 1))
    >>> round(uniform, 9)
    10.0

    Args:
        j: which gap, 2..N.
        num_classes: N.
        density: of one logit, on arrays.
        cdf: its integral.
        support: `(low, high)`, where the density is positive; either may be infinite, the density then being centered
            near 0 with a scale near 1 (scale your logits by s and C_j falls by s^(j-1)).

    Raises:
        ValueError: j that is not a rank of a class behind the first; a support that is not an ascending pair; functions
            that are not a density on it and its cdf.
    """
    _check_rank(j, num_classes)
    low, high = support
    if not low < high:
        raise ValueError(f"support must be (low, high) with low < high; got {support}")
    h, weight = _nodes(low, high)
    with np.errstate(all="ignore"):  # far out, densities overflow on their way to 0; the check below sees the rest
        p, below = np.asarray(density(h), np.float64), np.asarray(cdf(h), np.float64)
    total, half = float((weight * p).sum()), float((weight * p * below).sum())
    if not (abs(total - 1) < 1e-6 and abs(half - 0.5) < 1e-6):
        raise ValueError(
            f"density and cdf must belong together on support={support}: the integrals of p and of p F are 1 and 1/2; "
            f"got {total:.6g} and {half:.6g}; check them, or give the finite range where the density is not negligible"
        )
    factor = math.exp(_factorials(num_classes) - _factorials(num_classes - j, j - 2))
    return factor * float((weight * p**j * below ** (num_classes - j)).sum())


def _nodes(low, high) -> tuple[np.ndarray, np.ndarray]:
    """Points strictly inside the interval and their weights: double exponential quadrature, ends may be singular."""
    t, step = np.linspace(-4, 4, 4001, retstep=True)
    u, du = np.pi / 2 * np.sinh(t), np.pi / 2 * np.cosh(t) * step
    if math.isfinite(low) and math.isfinite(high):
        share, rest = 1 / (1 + np.exp(-2 * u)), 1 / (1 + np.exp(2 * u))
        h, weight = low + (high - low) * share, (high - low) * 2 * du * share * rest
    elif math.isfinite(low):
        h, weight = low + np.exp(u), np.exp(u) * du
    elif math.isfinite(high):
        h, weight = high - np.exp(u), np.exp(u) * du
    else:
        h, weight = np.sinh(u), np.cosh(u) * du
    inside = (h > low) & (h < high)
    return h[inside], weight[inside]


def _factorials(*numbers) -> float:
    """The logarithm of the product of their factorials."""
    return sum(math.lgamma(n + 1) for n in numbers)


def _check_rank(j, num_classes):
    if not 2 <= j <= num_classes:
        raise ValueError(
            f"j must be the rank of a class behind the first, 2..{num_classes} for {num_classes} classes; got {j}"
        )
