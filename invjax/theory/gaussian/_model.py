r"""Two Gaussians and an l2 adversary: vulnerability and robust maximum likelihood in closed form.

The label y is -1 or 1 with equal chance and `x ~ N(y mu*, S*)`. A model is a mean and a covariance, its loss the
negative log-likelihood of `y x`, its decision `sign(x^T S^-1 mu)`. With `v = y x - mu`,

    Q = v^T S^-1 v,        loss = Q / 2 + log det(2 pi S) / 2,

and an adversary who changes v by delta to raise the loss has, whether it pays for length or has a budget of it,

    delta = (k S - I)^-1 v,        k > 1 / (smallest eigenvalue of S).

All that follows is read off this: theorem 1 (`vulnerability`), where k is what length costs, and theorem 2
(`robust_covariance`), where it is the multiplier of the budget. Numbers are float64 whatever the precision of JAX.
Theorem 3, samples and errors of the classifiers are in `gaussian_classifiers`; attacks on samples, and robust maximum
likelihood on them, in `gaussian_attacks`.

Source: Ilyas et al. 2019, *Adversarial Examples Are Not Bugs, They Are Features*, section 4 and appendix E. Where its
text contradicts itself (the penalty's square, the factor 1/2, eps or its square) the docstrings say what holds.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize

from invjax import _check
from invjax.theory.gaussian import _common
from invjax.theory.gaussian._common import Matrix, Vector

CONVENTIONS = {"quadratic": (1.0, 1.0), "halved": (0.5, 0.5), "literal": (0.5, 1.0)}
"""By name, what Q and what `C |delta|^2` count in the adversary's objective: see `vulnerability`."""


class Vulnerability(NamedTuple):
    """What an adversary who pays for length gains, on average over the data.

    Attributes:
        loss: how much the loss rises, the penalty not subtracted: the left side of theorem 1.
        value: the same with the penalty subtracted.
        squared_radius: `E |delta|^2`.
    """

    loss: float
    value: float
    squared_radius: float


class LinearAttack(NamedTuple):
    """The attack `delta = M v`.

    Attributes:
        matrix: M, `[d, d]`, symmetric.
        multiplier: of the budget; infinite where that is zero.
    """

    matrix: np.ndarray
    multiplier: float


class Robust(NamedTuple):
    """The robust optimum. Its mean is that of the data.

    Attributes:
        covariance: `S_r`, `[d, d]`.
        multiplier: lambda, infinite for eps = 0.
        attack: the adversary's M at the optimum, `[d, d]`: `S_r = (I + M) S* (I + M)`.
    """

    covariance: np.ndarray
    multiplier: float
    attack: np.ndarray


# Theorem 1


def vulnerability(covariance: Matrix, *, penalty: float | int, convention: str = "quadratic") -> Vulnerability:
    r"""Theorem 1: what it costs to be attacked by `max_delta objective(x + delta) - penalty`, at the true parameters.

        "quadratic"   Q - C |delta|^2             loss = tr[(I + M)^2] - d,         M = (C S* - I)^-1
        "halved"      Q / 2 - (C / 2) |delta|^2   loss = (tr[(I + M)^2] - d) / 2,   the same M: Q / 2 is the likelihood
        "literal"     Q / 2 - C |delta|^2         loss = (tr[(I + M)^2] - d) / 2,   M = (2 C S* - I)^-1

    and with the penalty subtracted `tr M`, half of it in the last two. For a given trace of S* the loss is smallest
    where S* is a multiple of the identity: the vulnerability is the misalignment of two metrics.

    >>> round(vulnerability(np.diag([0.25, 1.0, 4.0]), penalty=5).loss, 10)
    24.670533241

    Args:
        covariance: S*, `[d, d]`.
        penalty: C; above `1 / smallest eigenvalue` (half of that if literal), where the loss is infinite.
        convention: the objective, above.

    Raises:
        ValueError: a covariance that is not symmetric positive definite, a penalty that is too low.

    Source: Ilyas et al. 2019, theorem 1. The formula printed there is that of "quadratic", its loss the likelihood and
    its penalty not squared; but against `C |delta|` nothing bounds a quadratic objective.
    """
    variances, _ = _common.spectrum("covariance", covariance)
    weight, _ = _weights(convention)
    stretch = 1 / (price(variances[0], penalty=penalty, convention=convention) * variances - 1)
    return Vulnerability(
        loss=weight * float((stretch * (2 + stretch)).sum()),
        value=weight * float(stretch.sum()),
        squared_radius=float((variances * stretch**2).sum()),
    )


def price(smallest: float, *, penalty: float | int, convention: str = "quadratic") -> float:
    """The k of `delta = (k S - I)^-1 v`: what `C |delta|^2` counts over what Q counts.

    >>> price(0.25, penalty=5, convention="literal")
    10.0

    Args:
        smallest: the smallest eigenvalue of S.
        penalty: C.
        convention: as for `vulnerability`.

    Raises:
        ValueError: a penalty at or below the least there is, at which the adversary's gain is infinite.
    """
    weight, cost = _weights(convention)
    if not weight / cost / smallest < penalty < math.inf:
        raise ValueError(
            f"penalty must be finite and above {weight / cost / smallest:.6g} = {weight / cost:g} / (smallest "
            f"eigenvalue of the covariance), or the attack has no bound; got penalty={penalty}"
        )
    return float(penalty * cost / weight)


# Theorem 2


def linear_attack(covariance: Matrix, second_moment: Matrix, *, eps: float | int) -> LinearAttack:
    """The best attack `delta = M v` with `E |M v|^2 = eps^2` on a Gaussian model: `M = (lambda S - I)^-1`.

    The best of all matrices M, diagonal or not, by the argument of trust regions: lambda is above
    `1 / smallest eigenvalue`, where `E |M v|^2` falls from infinity to 0. Hence theorem 2 needs no bound on eps.

    Args:
        covariance: S, the model's, `[d, d]`.
        second_moment: `E v v^T`, `[d, d]`: the data's covariance, plus the outer product of an error of the mean.
        eps: the budget, in the units of x.

    Raises:
        ValueError: a matrix that is not symmetric positive definite or does not fit, eps negative or not finite.
    """
    variances, axes = _common.spectrum("covariance", covariance)
    moment = _common.matrix("second_moment", second_moment, len(variances))
    _common.check_eps(eps)
    if eps == 0:
        return LinearAttack(np.zeros_like(moment), math.inf)
    weights, ratio = np.diag(axes.T @ moment @ axes), variances / variances[0]
    # lambda = (1 + t) / smallest; the smallest eigenvalue alone, and all as if they were as small, bracket t
    gap = lambda t: ratio - 1 + t * ratio  # noqa: E731
    bracket = math.sqrt(weights[0]) / eps / 2, 2 * math.sqrt(weights.sum()) / eps
    t = _root(lambda t: np.log((weights / gap(t) ** 2).sum()) - 2 * math.log(eps), *bracket)
    return LinearAttack((axes / gap(t)[None]) @ axes.T, (1 + t) / float(variances[0]))


def robust_covariance(covariance: Matrix, *, eps: float | int) -> Robust:
    r"""Theorem 2: the covariance of least loss under the best linear attack of `E |delta|^2 = eps^2`.

        S_r = S* / 2 + I / lambda + sqrt(S* / lambda + S*^2 / 4),

    with the eigenvectors of S* and, for its eigenvalue sigma, the eigenvalue `sigma (1 + m)^2`, where m is

        m = sqrt(1 / (lambda sigma) + 1/4) - 1/2     and lambda the one root of     sum sigma m^2 = eps^2.

    It is S* for eps = 0 and tends to `eps^2 / d` times the identity. Attacks of `|delta| <= eps` on each x by itself
    are `l2_attack`; of those this is a relaxation, which becomes exact in high dimension.

    >>> robust_covariance(np.diag([0.25, 1.0, 4.0]), eps=1).covariance.diagonal().round(6).tolist()
    [1.511272, 2.467398, 5.650947]

    Args:
        covariance: S*, `[d, d]`.
        eps: the radius, in the units of x.

    Raises:
        ValueError: a covariance that is not symmetric positive definite, eps negative or not finite.

    Source: Ilyas et al. 2019, theorem 2; the multiplier in closed form is ours, and so is that it exists for every eps.
    """
    variances, axes = _common.spectrum("covariance", covariance)
    _common.check_eps(eps)
    size = len(variances)

    def stretch(multiplier):
        inverse = 1 / (multiplier * variances)
        return inverse / (np.sqrt(inverse + 0.25) + 0.5)

    multiplier = math.inf
    if eps > 0:
        # where the largest of the d terms is eps^2, and where it is eps^2 / d: there can be no root outside
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
    r"""Numbers between which the multiplier of theorem 2 lies: with `e = eps^2`,

        d / (2 (e + tr S*)) (1 + sqrt(d smallest / e)) <= lambda <= (1 + sqrt(d |S*|_F / e)) / smallest.

    >>> low, high = multiplier_bounds(np.eye(2), eps=1)
    >>> low < robust_covariance(np.eye(2), eps=1).multiplier < high
    True

    Args:
        covariance: S*, `[d, d]`.
        eps: above zero.

    Raises:
        ValueError: a covariance that is not symmetric positive definite, eps not positive or not finite.

    Source: Ilyas et al. 2019, theorem 2 gives the orders `(1 + e^1/2) / (e^1/2 + e^3/2)` and `(1 + e^1/2) / e^1/2`,
    which hold for the square of the radius, e, that the theorem calls eps. The constants are ours.
    """
    variances, _ = _common.spectrum("covariance", covariance)
    _check.positive(eps=eps)
    _common.check_eps(eps)
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

    Theorem 2 gives its minimum: the mean of the data, and `robust_covariance` of theirs.

    Args:
        mean: the model's, `[d]`.
        covariance: the model's, `[d, d]`.
        data_mean: `mu*`, `[d]`.
        data_covariance: `S*`, `[d, d]`.
        eps: the radius, in the units of x.

    Raises:
        ValueError: a covariance that is not symmetric positive definite, shapes that do not fit, eps negative or not
            finite.
    """
    model = _common.matrix("covariance", covariance)
    apart = _common.vector("mean", mean, len(model)) - _common.vector("data_mean", data_mean, len(model))
    moment = _common.matrix("data_covariance", data_covariance, len(model)) + np.outer(apart, apart)
    moved = np.eye(len(model)) + linear_attack(model, moment, eps=eps).matrix
    _, log_volume = np.linalg.slogdet(2 * np.pi * model)
    return float(np.trace(np.linalg.solve(model, moved @ moment @ moved)) + log_volume) / 2


def _root(function, low, high):
    return math.exp(optimize.brentq(lambda log: function(math.exp(log)), math.log(low), math.log(high), xtol=1e-15))


def _weights(convention):
    _check.one_of("convention", convention, CONVENTIONS)
    return CONVENTIONS[convention]
