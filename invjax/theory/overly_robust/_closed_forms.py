"""Accuracies of the Bayes classifier and of the overly-robust classifier in closed form, as float64 numbers."""

import math
from itertools import product

from scipy import optimize, special

from invjax import _check
from invjax.theory.overly_robust._task import READINGS, Task, check_task, weights


def bayes_accuracy(task: Task, eps: float | int = 0) -> float:
    """The accuracy of `sign L` under the strongest linf attack of radius `eps` on the weak features.

    >>> round(bayes_accuracy(Task(alpha=0.1, delta=0.01, dimension=100)), 4)
    0.9936

    Args:
        task: parameters of the task.
        eps: radius of the attack, 0 for clean accuracy. The attack lowers L by `2 eps sqrt d / k` (for y = 1).

    Returns:
        The accuracy, in [0, 1].

    Raises:
        ValueError: the parameters are out of range, or the radius is negative.
    """
    return sum(chance * _beyond(mean, task, -_drift(task, eps)) for chance, mean, _ in _cases(task))


def bayes_agreement(task: Task) -> float:
    """The probability that `sign L` is the class of the oracle.

    The probability is at least `1 - 2 delta`; the paper states `1 - delta`.

    Args:
        task: parameters of the task.

    Raises:
        ValueError: the parameters are out of range.
    """
    return sum(
        chance * (_beyond(mean, task, 0.0) if first > 0 else 1 - _beyond(mean, task, 0.0))
        for chance, mean, first in _cases(task)
    )


def bayes_flips(task: Task, eps: float | int) -> float:
    """The fraction of decisions of `sign L` that an linf attack of radius `eps` on the weak features flips.

    Args:
        task: parameters of the task.
        eps: radius of the attack.

    Raises:
        ValueError: the parameters are out of range, or the radius is negative.
    """
    drift = _drift(task, eps)
    return sum(chance * (_beyond(mean, task, drift) - _beyond(mean, task, -drift)) for chance, mean, _ in _cases(task))


def flipping_radius(task: Task, fraction: float) -> float:
    """The radius at which `bayes_flips` reaches `fraction`, which is of order `d^(-1/2)`.

    >>> one, four = (flipping_radius(Task(0.1, 0.01, d), 0.99) for d in (100, 400))
    >>> round(one / four, 6)
    2.0

    Args:
        task: parameters of the task.
        fraction: fraction of decisions that the attack flips, in (0, 1).

    Raises:
        ValueError: the parameters are out of range, or the fraction is outside (0, 1).
    """
    check_task(task)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1; got {fraction}")
    unit = (1 + task.alpha) / math.sqrt(task.dimension)
    high = unit
    while bayes_flips(task, high) < fraction:
        high *= 2
    return float(optimize.brentq(lambda eps: bayes_flips(task, eps) - fraction, 0, high, xtol=1e-14 * high))


def second_accuracy(task: Task, *, noise: str = "oracle") -> float:
    """The accuracy of the overly-robust classifier `sign x_2`, which is the same at every linf radius below 1.

    Let `a = alpha / (2 (1 + alpha))` be the probability that x_2 has the wrong sign. If the noise affects the feature
    of the oracle, the accuracy is `1 - a`, at least the `1 - alpha / 2` of the paper. If the noise affects the label,
    the accuracy is `(1 - delta)(1 - a) + delta a`, which is less.

    Args:
        task: parameters of the task.
        noise: one of `READINGS`.

    Raises:
        ValueError: the parameters are out of range, or the reading is unknown.
    """
    check_task(task)
    _check.one_of("noise", noise, READINGS)
    a = task.alpha / (2 * (1 + task.alpha))
    return 1 - a if noise == "oracle" else (1 - task.delta) * (1 - a) + task.delta * a


def _cases(task: Task) -> list[tuple[float, float, int]]:
    """For y = 1 and each pair of signs of `x_1` and `x_2`: its probability, the mean of L, and the sign of `x_1`."""
    check_task(task)
    first, second, slope = weights(task)
    right = 1 - task.alpha / (2 * (1 + task.alpha))
    return [
        (
            (1 - task.delta if s > 0 else task.delta) * (right if t > 0 else 1 - right),
            s * first + t * second + slope,
            s,
        )
        for s, t in product((1, -1), repeat=2)
    ]


def _beyond(mean: float, task: Task, shift: float) -> float:
    """The probability that `L + shift` is positive, where L is normal with this mean and variance 4 / k."""
    return float(special.ndtr((mean + shift) / (2 / math.sqrt(1 + task.alpha))))


def _drift(task: Task, eps: float | int) -> float:
    """The change of L when an linf step of `eps` moves all weak features."""
    _check.number("eps", eps)
    return 2 * eps * math.sqrt(task.dimension) / (1 + task.alpha)
