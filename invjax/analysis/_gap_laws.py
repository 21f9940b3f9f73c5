r"""The theory of logit gaps: their law if all logits are independent with one density.

For N logits with continuous density p and cdf F, and a finite integral of p^j,

    density of Delta_1j at d  =  C_j d^(j-2) + O(d^(j-1)),        C_j = N! / ((N-j)! (j-2)!)  integral of p^j F^(N-j).

For U(0, 1) the law is exact: `Delta_1j ~ Beta(j - 1, N - j + 2)`. All values are float64 whatever the precision of JAX.

Source: Cubuk et al. 2018, *Intriguing Properties of Adversarial Examples*, section on logit differences. The exact law
is ours.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from invjax.analysis._logit_gaps import check_rank

Function = Callable[[np.ndarray], np.ndarray]
"""A function of one variable, elementwise on arrays."""


class GapLaw(NamedTuple):
    """The law of one logit gap.

    Attributes:
        density: the probability density, elementwise on arrays of gaps.
        cdf: the cumulative distribution function, elementwise on arrays of gaps.
    """

    density: Function
    cdf: Function


def uniform_gap_law(num_classes: int, j: int) -> GapLaw:
    """The exact law of Delta_1j for N independent U(0, 1) logits: Beta(j - 1, N - j + 2).

    >>> law = uniform_gap_law(10, 2)
    >>> float(law.density(0.0).round(6)), float(law.cdf(1.0))
    (10.0, 1.0)

    Args:
        num_classes: number of classes N.
        j: rank of the class whose gap is described, 2..N.

    Returns:
        Density and cdf of the gap.

    Raises:
        ValueError: j is not the rank of a class behind the first.
    """
    check_rank(j, num_classes)
    factor = _factorials(num_classes) - _factorials(num_classes - j + 1, j - 2)

    def density(gap):
        gap = np.asarray(gap, np.float64)
        inside = (gap >= 0) & (gap <= 1)
        d = np.where(inside, gap, 0)
        return np.where(inside, np.exp(factor) * d ** (j - 2) * (1 - d) ** (num_classes - j + 1), 0)

    def cdf(gap):
        # for integer parameters the incomplete Beta function is the tail of a binomial, a sum of positive terms
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
    """The coefficient C_j for independent logits of any density: small gaps have the density `C_j d^(j-2)`.

    >>> uniform = gap_coefficient(2, 10, np.ones_like, lambda h: h, (0, 1))
    >>> round(uniform, 9)
    10.0

    Args:
        j: rank of the class whose gap is described, 2..N.
        num_classes: number of classes N.
        density: density of one logit, elementwise on arrays.
        cdf: cdf of one logit, elementwise on arrays.
        support: `(low, high)`, the interval where the density is positive. If an end is infinite, the density must be
            centered near 0 with a scale near 1 (logits that are s times as large have a C_j that is s^(j-1) times
            smaller).

    Returns:
        The coefficient C_j.

    Raises:
        ValueError: j is not the rank of a class behind the first; the support is not an ascending pair; the functions
            are not a density on the support and its cdf.
    """
    check_rank(j, num_classes)
    low, high = support
    if not low < high:
        raise ValueError(f"support must be (low, high) with low < high; got {support}")
    h, weight = _nodes(low, high)
    with np.errstate(all="ignore"):  # densities may overflow far from the center; the check below finds real faults
        p, below = np.asarray(density(h), np.float64), np.asarray(cdf(h), np.float64)
    total, half = float((weight * p).sum()), float((weight * p * below).sum())
    if not (abs(total - 1) < 1e-6 and abs(half - 0.5) < 1e-6):
        raise ValueError(
            f"density and cdf must match on support={support}: the integrals of p and of p F must be 1 and 1/2; "
            f"got {total:.6g} and {half:.6g}; check them, or pass the finite range where the density is not negligible"
        )
    factor = math.exp(_factorials(num_classes) - _factorials(num_classes - j, j - 2))
    return factor * float((weight * p**j * below ** (num_classes - j)).sum())


def _nodes(low, high) -> tuple[np.ndarray, np.ndarray]:
    """Points inside the interval and their weights: double exponential quadrature, which allows singular ends."""
    t, step = np.linspace(-4, 4, 4001, retstep=True)
    u, du = np.pi / 2 * np.sinh(t), np.pi / 2 * np.cosh(t) * step
    if math.isfinite(low) and math.isfinite(high):
        fraction, rest = 1 / (1 + np.exp(-2 * u)), 1 / (1 + np.exp(2 * u))
        h, weight = low + (high - low) * fraction, (high - low) * 2 * du * fraction * rest
    elif math.isfinite(low):
        h, weight = low + np.exp(u), np.exp(u) * du
    elif math.isfinite(high):
        h, weight = high - np.exp(u), np.exp(u) * du
    else:
        h, weight = np.sinh(u), np.cosh(u) * du
    inside = (h > low) & (h < high)
    return h[inside], weight[inside]


def _factorials(*numbers) -> float:
    """The logarithm of the product of the factorials of these numbers."""
    return sum(math.lgamma(n + 1) for n in numbers)
