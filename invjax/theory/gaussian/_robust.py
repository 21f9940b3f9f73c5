r"""Theorem 2: robust maximum likelihood of a Gaussian model in closed form.

An adversary with a budget for the length of a change has the same best change `delta = (k S - I)^-1 v` as one who pays
for length, but k is now the multiplier of the budget. All values are float64 whatever the precision of JAX.

Source: Ilyas et al. 2019, *Adversarial Examples Are Not Bugs, They Are Features*, theorem 2 and appendix E.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize

from invjax import _check
from invjax.theory.gaussian import _checks
from invjax.theory.gaussian._checks import Matrix, Vector


class LinearAttack(NamedTuple):
    """The attack `delta = M v`.

    Attributes:
        matrix: the matrix M, `[d, d]`, symmetric.
        multiplier: the Lagrange multiplier of the budget; infinite for a budget of 0.
    """

    matrix: np.ndarray
    multiplier: float


class Robust(NamedTuple):
    """The optimum of robust maximum likelihood. Its mean is the mean of the data.

    Attributes:
        covariance: the robust covariance `S_r`, `[d, d]`.
        multiplier: the multiplier lambda of the budget; infinite for eps = 0.
        attack: the matrix M of the adversary at the optimum, `[d, d]`: `S_r = (I + M) S* (I + M)`.
    """

    covariance: np.ndarray
    multiplier: float
    attack: np.ndarray


def linear_attack(covariance: Matrix, second_moment: Matrix, *, eps: float | int) -> LinearAttack:
    """The best attack `delta = M v` with `E |M v|^2 = eps^2` on a Gaussian model: `M = (lambda S - I)^-1`.

    This M is the best of all matrices, diagonal or not, by the argument of trust regions: lambda lies above
    `1 / smallest eigenvalue`, where `E |M v|^2` decreases from infinity to 0. Theorem 2 therefore needs no bound on
    eps.

    Args:
        covariance: the covariance S of the model, `[d, d]`.
        second_moment: `E v v^T`, `[d, d]`: the covariance of the data plus the outer product of the error of the mean.
        eps: the budget, in the units of x.

    Returns:
        The matrix M and the multiplier lambda.

    Raises:
        ValueError: a matrix is not symmetric positive definite or has another size; eps is negative or not finite.
    """
    variances, axes = _checks.spectrum("covariance", covariance)
    moment = _checks.matrix("second_moment", second_moment, len(variances))
    _checks.check_eps(eps)
    if eps == 0:
        return LinearAttack(np.zeros_like(moment), math.inf)
    weights, ratio = np.diag(axes.T @ moment @ axes), variances / variances[0]
    # lambda = (1 + t) / smallest; t is least if only the smallest eigenvalue counts, largest if all are equal to it
    gap = lambda t: ratio - 1 + t * ratio  # noqa: E731
    bracket = math.sqrt(weights[0]) / eps / 2, 2 * math.sqrt(weights.sum()) / eps
    t = _root(lambda t: np.log((weights / gap(t) ** 2).sum()) - 2 * math.log(eps), *bracket)
    return LinearAttack((axes / gap(t)[None]) @ axes.T, (1 + t) / float(variances[0]))


def robust_covariance(covariance: Matrix, *, eps: float | int) -> Robust:
    r"""Theorem 2: the covariance of least loss under the best linear attack with `E |delta|^2 = eps^2`.

        S_r = S* / 2 + I / lambda + sqrt(S* / lambda + S*^2 / 4).

    `S_r` has the eigenvectors of S* and, for each eigenvalue sigma of S*, the eigenvalue `sigma (1 + m)^2` with

        m = sqrt(1 / (lambda sigma) + 1/4) - 1/2     and lambda the only root of     sum sigma m^2 = eps^2.

    The result is S* for eps = 0 and approaches `eps^2 / d` times the identity for large eps. The linear attack is a
    relaxation of `l2_attack`, which bounds `|delta|` for each x; the relaxation becomes exact in high dimension.

    >>> robust_covariance(np.diag([0.25, 1.0, 4.0]), eps=1).covariance.diagonal().round(6).tolist()
    [1.511272, 2.467398, 5.650947]

    Args:
        covariance: the covariance S* of the data, `[d, d]`.
        eps: the radius, in the units of x.

    Returns:
        The robust covariance, its multiplier and the attack at the optimum.

    Raises:
        ValueError: the covariance is not symmetric positive definite; eps is negative or not finite.

    Source: Ilyas et al. 2019, theorem 2. The equation of the multiplier and its existence for every eps are ours.
    """
    variances, axes = _checks.spectrum("covariance", covariance)
    _checks.check_eps(eps)
    size = len(variances)

    def stretch(multiplier):
        inverse = 1 / (multiplier * variances)
        return inverse / (np.sqrt(inverse + 0.25) + 0.5)

    multiplier = math.inf
    if eps > 0:
        # the root lies where the largest of the d terms is between eps^2 / d and eps^2
        low, high = (1 / (eps**2 / n + eps * math.sqrt(variances[0] / n)) for n in (1, size))
        multiplier = _root(
            lambda multiplier: np.log((variances * stretch(multiplier) ** 2).sum()) - 2 * math.log(eps),
            low / 2,
            high * 2,
        )
    m = stretch(multiplier)
    attack, learnt = ((axes * values[None]) @ axes.T for values in (m, variances * (1 + m) ** 2))
    return Robust(learnt, multiplier, attack)


def multiplier_bounds(covariance: Matrix, *, eps: float | int) -> tuple[float, float]:
    r"""A lower and an upper bound of the multiplier of theorem 2.

    With `e = eps^2`,

        d / (2 (e + tr S*)) (1 + sqrt(d smallest / e)) <= lambda <= (1 + sqrt(d |S*|_F / e)) / smallest.

    >>> low, high = multiplier_bounds(np.eye(2), eps=1)
    >>> low < robust_covariance(np.eye(2), eps=1).multiplier < high
    True

    Args:
        covariance: the covariance S* of the data, `[d, d]`.
        eps: the radius, positive, in the units of x.

    Returns:
        The lower and the upper bound.

    Raises:
        ValueError: the covariance is not symmetric positive definite; eps is not positive or not finite.

    Source: Ilyas et al. 2019, theorem 2, which gives the orders `(1 + e^1/2) / (e^1/2 + e^3/2)` and
    `(1 + e^1/2) / e^1/2`. They hold if the eps of the theorem is the squared radius e. The constants are ours.
    """
    variances, _ = _checks.spectrum("covariance", covariance)
    _check.positive(eps=eps)
    _checks.check_eps(eps)
    size, square, smallest = len(variances), eps**2, float(variances[0])
    frobenius = float(np.sqrt((variances**2).sum()))
    return (
        size / 2 / (square + float(variances.sum())) * (1 + math.sqrt(size * smallest / square)),
        (1 + math.sqrt(size * frobenius / square)) / smallest,
    )


def risk(
    mean: Vector, covariance: Matrix, data_mean: Vector, data_covariance: Matrix, *, eps: float | int = 0
) -> float:
    """The expected loss of a model on the data, in nats, under `linear_attack` of radius eps.

        tr(S^-1 (I + M) E[v v^T] (I + M)) / 2 + log det(2 pi S) / 2

    By theorem 2 the risk is smallest for the mean of the data and `robust_covariance` of their covariance.

    Args:
        mean: mean of the model, `[d]`.
        covariance: covariance of the model, `[d, d]`.
        data_mean: mean of the data, `[d]`.
        data_covariance: covariance of the data, `[d, d]`.
        eps: the radius, in the units of x.

    Returns:
        The expected loss in nats.

    Raises:
        ValueError: a covariance is not symmetric positive definite, the shapes do not match, or eps is negative or not
            finite.
    """
    model = _checks.matrix("covariance", covariance)
    apart = _checks.vector("mean", mean, len(model)) - _checks.vector("data_mean", data_mean, len(model))
    moment = _checks.matrix("data_covariance", data_covariance, len(model)) + np.outer(apart, apart)
    moved = np.eye(len(model)) + linear_attack(model, moment, eps=eps).matrix
    _, log_volume = np.linalg.slogdet(2 * np.pi * model)
    return float(np.trace(np.linalg.solve(model, moved @ moment @ moved)) + log_volume) / 2


def _root(function, low, high):
    return math.exp(optimize.brentq(lambda log: function(math.exp(log)), math.log(low), math.log(high), xtol=1e-15))
