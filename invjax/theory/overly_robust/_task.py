"""The task of overly-robust features: its data, its augmentation, and the log odds of its classes."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from invjax import _check
from invjax.types import Array, Key, PerExample

READINGS = ("oracle", "label")
"""The two readings of the label noise: it affects the feature of the oracle, or the label."""

Inputs = Float[Array, "batch features"]
Signs = Int[Array, " batch"]


class Task(NamedTuple):
    """The parameters of the task.

    Attributes:
        alpha: a positive number; k = 1 + alpha is the variance of the weak features in the cleaned data.
        delta: probability of label noise, in (0, 1/2).
        dimension: the number d of weak features.
    """

    alpha: float
    delta: float
    dimension: int


class Drawn(NamedTuple):
    """Inputs with their labels and the classes of the oracle.

    Attributes:
        x: inputs, `[N, d + 2]`.
        y: labels of the data set, -1 or 1, `[N]`.
        oracle: true classes, the signs of `x_1`, -1 or 1, `[N]`.
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
        task: parameters of the task.
        count: number N of inputs.
        noise: one of `READINGS`: whether label noise affects the feature of the oracle or the label.

    Returns:
        Inputs, labels and classes of the oracle.

    Raises:
        ValueError: the parameters are out of range, the count is not positive, or the reading is unknown.
    """
    _check.key(key)
    check_task(task)
    _check.count(count=count)
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
    """Replace all features except that of the oracle by those of a random class.

    A model should not depend on these features. The Bayes classifier of the augmented data is `sign x_1`.

    Args:
        key: random key.
        task: parameters of the task.
        x: inputs, `[N, d + 2]`.

    Returns:
        The augmented inputs, `[N, d + 2]`.

    Raises:
        ValueError: the parameters are out of range, or the inputs have another width.
    """
    _check.key(key)
    _check_inputs(task, x)
    others = sample(key, task, len(x)).x
    return jnp.concatenate([x[:, :1], others[:, 1:].astype(x.dtype)], 1)


def log_odds(task: Task, x: Inputs) -> PerExample:
    """The log odds `L(x) = log P(y = 1 | x) / P(y = -1 | x)` if the noise affects the feature of the oracle.

    Args:
        task: parameters of the task.
        x: inputs, `[N, d + 2]`. Outside the support of the data `x_1` counts by its sign and `x_2` by its value.

    Returns:
        The log odds, `[N]`.

    Raises:
        ValueError: the parameters are out of range, or the inputs have another width.
    """
    check_task(task)
    _check_inputs(task, x)
    first, second, slope = weights(task)
    return first * jnp.sign(x[:, 0]) + second * x[:, 1] + slope * x[:, 2:].sum(1) / math.sqrt(task.dimension)


def weights(task: Task) -> tuple[float, float, float]:
    """The weights in L of `sign x_1`, of `x_2`, and of the sum of the weak features over `sqrt d`."""
    return math.log((1 - task.delta) / task.delta), math.log((2 + task.alpha) / task.alpha), 2 / (1 + task.alpha)


def check_task(task: Task) -> None:
    """Refuse parameters that are out of range."""
    if not (math.isfinite(task.alpha) and task.alpha > 0):
        raise ValueError(f"alpha must be positive and finite; got {task.alpha}")
    if not 0 < task.delta < 0.5:
        raise ValueError(f"delta must lie between 0 and 1/2; got {task.delta}")
    _check.positive(dimension=task.dimension)


def _check_inputs(task: Task, x: Inputs) -> None:
    if x.shape[1] != task.dimension + 2:
        raise ValueError(f"x must be [N, {task.dimension + 2}] for dimension={task.dimension}; got {x.shape}")
