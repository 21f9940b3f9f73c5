r"""Overly-robust features: a task on which the most robust model is the one that looks at the wrong thing.

The oracle's class is the sign of one feature. All others hardly go with it in the world (large k), but do in a cleaned
data set (k = 1 + alpha): one is large and binary, `x_2`, the others weak and many. With class y and label noise delta,

    x_1 = y/2 with probability 1 - delta, else -y/2;    x_2 = y with probability (1 + 1/k) / 2, else -y;
    x_3, ..., x_(d+2) independent N(y / sqrt d, k);     oracle(x) = sign x_1.

The Bayes classifier is `sign L`,

    L(x) = log((1-delta)/delta) sign x_1 + log((k+1)/(k-1)) x_2 + (2/k) sum_(i>2) x_i / sqrt d,

which agrees with the oracle and breaks at an linf radius of order `d^(-1/2)`; `sign x_2` withstands any radius below 1,
and with it misses every change of class, which takes 1/2.

Here the noise falls on `x_1` (`noise="oracle"`). Read literally, the paper flips the label after all features were
drawn (`noise="label"`); the Bayes classifier is then `sign x_1`, as robust as the oracle, and neither of the paper's
claims follows.

Closed forms are Python floats, computed in float64 whatever the precision of JAX.

Source: Tramèr et al. 2020, *Fundamental Tradeoffs between Invariance and Sensitivity to Adversarial Perturbations*,
section 5 and appendix E. The closed forms and the reading of the noise are ours.
"""

import math
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int
from scipy import optimize, special

from invjax import _check
from invjax.types import Array, Key, PerExample

READINGS = ("oracle", "label")
"""Where the label noise falls: on the oracle's feature, or on the label."""

Inputs = Float[Array, "batch features"]
Signs = Int[Array, " batch"]


class Task(NamedTuple):
    """The parameters of the task.

    Attributes:
        alpha: how little the spurious features vary in the cleaned data, k = 1 + alpha; positive.
        delta: label noise, in (0, 1/2).
        dimension: d, of the weak features.
    """

    alpha: float
    delta: float
    dimension: int


class Drawn(NamedTuple):
    """Inputs with their labels and their oracle's classes.

    Attributes:
        x: `[N, d + 2]`.
        y: `[N]`, -1 or 1, what the data set says.
        oracle: `[N]`, -1 or 1, what is so: the sign of `x_1`.
    """

    x: Inputs
    y: Signs
    oracle: Signs


def sample(key: Key, task: Task, count: int, *, noise: str = "oracle") -> Drawn:
    """Draw a labelled data set.

    >>> drawn = sample(jax.random.key(0), Task(alpha=0.1, delta=0.01, dimension=20), 5)
    >>> drawn.x.shape, bool((drawn.oracle == jnp.sign(drawn.x[:, 0])).all())
    ((5, 22), True)

    Args:
        key: random key.
        task: parameters.
        count: N.
        noise: one of `READINGS`.

    Raises:
        ValueError: parameters out of range, a count that is not positive, another reading.
    """
    _check_task(task)
    _check.positive(count=count)
    _check.one_of("noise", noise, READINGS)
    k, d = 1 + task.alpha, task.dimension
    keys = jax.random.split(key, 4)
    z = jax.random.rademacher(keys[0], (count,))
    flipped = 1 - 2 * jax.random.bernoulli(keys[1], task.delta, (count,)).astype(z.dtype)
    oracle, y = (z * flipped, z) if noise == "oracle" else (z, z * flipped)
    second = z * (2 * jax.random.bernoulli(keys[2], (1 + 1 / k) / 2, (count,)).astype(z.dtype) - 1)
    weak = jax.random.normal(keys[3], (count * d,)).reshape(count, d) * math.sqrt(k) + z[:, None] / math.sqrt(d)
    x = jnp.concatenate([jnp.stack([oracle / 2, second], 1).astype(weak.dtype), weak], 1)
    return Drawn(x, y, oracle)


def augment(key: Key, task: Task, x: Inputs) -> Inputs:
    """All features but the oracle's drawn anew, of a random class: what a model must not depend on.

    On augmented data the Bayes classifier is `sign x_1`.

    Args:
        key: random key.
        task: parameters.
        x: `[N, d + 2]`.

    Raises:
        ValueError: parameters out of range, inputs of another width.
    """
    _check_inputs(task, x)
    others = sample(key, task, len(x)).x
    return jnp.concatenate([x[:, :1], others[:, 1:].astype(x.dtype)], 1)


def log_odds(task: Task, x: Inputs) -> PerExample:
    """`L(x) = log P(y = 1 | x) / P(y = -1 | x)` where the noise falls on the oracle's feature, `[N]`.

    Args:
        task: parameters.
        x: `[N, d + 2]`; off the support `x_1` counts by its sign and `x_2` by its value.
    """
    _check_task(task)
    _check_inputs(task, x)
    first, second, slope = _weights(task)
    return first * jnp.sign(x[:, 0]) + second * x[:, 1] + slope * x[:, 2:].sum(1) / math.sqrt(task.dimension)


def bayes_accuracy(task: Task, eps: float | int = 0) -> float:
    """Accuracy of `sign L`, also under the strongest linf attack of radius `eps` on the weak features.

    >>> round(bayes_accuracy(Task(alpha=0.1, delta=0.01, dimension=100)), 4)
    0.9936

    Args:
        task: parameters.
        eps: radius; the attack lowers L by `2 eps sqrt d / k` (for y = 1).

    Raises:
        ValueError: parameters out of range, a negative radius.
    """
    return sum(chance * _beyond(mean, task, -_drift(task, eps)) for chance, mean, _ in _cases(task))


def bayes_agreement(task: Task) -> float:
    """How often `sign L` is the oracle's class: at least `1 - 2 delta`. The paper states `1 - delta`."""
    return sum(
        chance * (_beyond(mean, task, 0.0) if first > 0 else 1 - _beyond(mean, task, 0.0))
        for chance, mean, first in _cases(task)
    )


def bayes_flips(task: Task, eps: float | int) -> float:
    """The share of decisions of `sign L` that an linf attack of radius `eps` on the weak features flips."""
    drift = _drift(task, eps)
    return sum(chance * (_beyond(mean, task, drift) - _beyond(mean, task, -drift)) for chance, mean, _ in _cases(task))


def flipping_radius(task: Task, share: float) -> float:
    """The radius at which `bayes_flips` reaches `share`: of order `d^(-1/2)`.

    >>> one, four = (flipping_radius(Task(0.1, 0.01, d), 0.99) for d in (100, 400))
    >>> round(one / four, 6)
    2.0

    Raises:
        ValueError: parameters out of range, a share outside of (0, 1).
    """
    _check_task(task)
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1; got {share}")
    unit = (1 + task.alpha) / math.sqrt(task.dimension)
    high = unit
    while bayes_flips(task, high) < share:
        high *= 2
    return float(optimize.brentq(lambda eps: bayes_flips(task, eps) - share, 0, high, xtol=1e-14 * high))


def second_accuracy(task: Task, *, noise: str = "oracle") -> float:
    """Accuracy of the overly-robust classifier `sign x_2`, clean and for any linf radius below 1.

    With the noise on the oracle's feature `1 - alpha / (2 (1 + alpha))`, at least the paper's `1 - alpha/2`; with the
    noise on the label less than that, `(1 - delta)(1 - a) + delta a`.

    Raises:
        ValueError: parameters out of range, another reading.
    """
    _check_task(task)
    _check.one_of("noise", noise, READINGS)
    a = task.alpha / (2 * (1 + task.alpha))
    return 1 - a if noise == "oracle" else (1 - task.delta) * (1 - a) + task.delta * a


def _weights(task: Task) -> tuple[float, float, float]:
    """Of sign x_1, of x_2 and of the sum of the weak features over sqrt d."""
    return math.log((1 - task.delta) / task.delta), math.log((2 + task.alpha) / task.alpha), 2 / (1 + task.alpha)


def _cases(task: Task) -> list[tuple[float, float, int]]:
    """For y = 1: the chance of each pair of signs of `x_1` and `x_2`, the mean of L there, and the former sign."""
    _check_task(task)
    first, second, slope = _weights(task)
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
    """The probability that L plus `shift` is positive; given the signs, L is normal of variance 4 / k."""
    return float(special.ndtr((mean + shift) / (2 / math.sqrt(1 + task.alpha))))


def _drift(task: Task, eps: float | int) -> float:
    """How far an linf step of `eps` in all weak features moves L."""
    _check.number("eps", eps)
    return 2 * eps * math.sqrt(task.dimension) / (1 + task.alpha)


def _check_task(task: Task) -> None:
    if not (math.isfinite(task.alpha) and task.alpha > 0):
        raise ValueError(f"alpha must be positive and finite; got {task.alpha}")
    if not 0 < task.delta < 0.5:
        raise ValueError(f"delta must lie between 0 and 1/2; got {task.delta}")
    _check.positive(dimension=task.dimension)


def _check_inputs(task: Task, x: Inputs) -> None:
    if x.shape[1] != task.dimension + 2:
        raise ValueError(f"x must be [N, {task.dimension + 2}] for dimension={task.dimension}; got {x.shape}")
