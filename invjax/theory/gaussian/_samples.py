"""Samples of the two Gaussians, and the logits of a Gaussian model."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from invjax import _check
from invjax.theory.gaussian import _checks
from invjax.theory.gaussian._checks import Matrix, Vector
from invjax.types import Array, Key, LogitsFn


def sample(
    key: Key, mean: Vector, covariance: Matrix, *, count: int
) -> tuple[Float[Array, "batch d"], Int[Array, " batch"]]:
    """Draw points `x ~ N(y mean, covariance)` with y = 1 for label 1 and y = -1 for label 0, each with probability 1/2.

    >>> x, labels = sample(jax.random.key(0), np.array([9.0, 0.0]), np.eye(2), count=100)
    >>> bool(((x[:, 0] > 0) == (labels == 1)).all())
    True

    Args:
        key: random key.
        mean: mean of class 1, `[d]`.
        covariance: covariance of both classes, `[d, d]`.
        count: number N of points.

    Returns:
        `x [N, d]` and `labels [N]`. The attacks need `z = y x`, which is `signed(x, labels)`.

    Raises:
        ValueError: the count is not positive, the covariance is not symmetric positive definite, or the mean has
            another size.
    """
    _check.key(key)
    _check.count(count=count)
    root = np.linalg.cholesky(_checks.matrix("covariance", covariance))
    center = _checks.vector("mean", mean, len(root))
    label_key, noise_key = jax.random.split(key)
    labels = jax.random.bernoulli(label_key, shape=(count,)).astype(jnp.int32)
    # drawn along one axis, because XLA compiles random numbers of a matrix more slowly
    noise = jax.random.normal(noise_key, (count * len(root),)).reshape(count, len(root))
    sign = (2 * labels - 1).astype(noise.dtype)
    return sign[:, None] * jnp.asarray(center, noise.dtype)[None] + noise @ jnp.asarray(root.T, noise.dtype), labels


def signed(x: Float[Array, "batch d"], labels: Int[Array, " points"]) -> Float[Array, "batch d"]:
    """The points `z = y x`, which follow one Gaussian: y is -1 for label 0 and 1 for label 1.

    Args:
        x: points, `[B, d]`.
        labels: 0 or 1, `[B]`.

    Returns:
        The points z, `[B, d]`.

    Raises:
        ValueError: the labels have another shape or are not 0 or 1.
    """
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels must have shape [{x.shape[0]}], one for each point; got {labels.shape}")
    _check.labels(labels, 2)
    return jnp.asarray(x) * (2 * jnp.asarray(labels) - 1).astype(x.dtype)[:, None]


def classifier(mean: Vector, covariance: Matrix) -> LogitsFn:
    """The logits `[-a, a]`, `a = x^T S^-1 mean`, of a model; their softmax is its posterior of the two labels.

    Args:
        mean: mean of the model, `[d]`.
        covariance: covariance of the model, `[d, d]`.

    Returns:
        `x [B, d] -> logits [B, 2]`.

    Raises:
        ValueError: the covariance is not symmetric positive definite, or the mean has another size.
    """
    model = _checks.matrix("covariance", covariance)
    direction = np.linalg.solve(model, _checks.vector("mean", mean, len(model)))

    def logits_fn(x):
        a = x @ jnp.asarray(direction, x.dtype)
        return jnp.stack([-a, a], -1)

    return logits_fn
