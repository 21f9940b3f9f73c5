r"""Two Gaussians `x ~ N(y mu*, S*)` and their linear classifiers: the direction of the gradient, errors, usefulness.

A model of mean mu and covariance S decides by `sign(x^T S^-1 mu)`, whose gradient is `S^-1 mu` everywhere. Closed forms
are float64 whatever the precision of JAX.

Source: Ilyas et al. 2019, *Adversarial Examples Are Not Bugs, They Are Features*, theorem 3 and section 2.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy import special

from invjax import _check
from invjax.theory.gaussian import _common
from invjax.theory.gaussian._common import Matrix, Vector
from invjax.types import Array, Key, LogitsFn


class Alignment(NamedTuple):
    """The mean `[d]`, of length 1, whose cosine with the gradient is the smallest there is."""

    cosine: float
    mean: np.ndarray


def sample(
    key: Key, mean: Vector, covariance: Matrix, *, count: int
) -> tuple[Float[Array, "batch d"], Int[Array, " batch"]]:
    """Points `x ~ N(y mean, covariance)` with y = 1 for label 1 and y = -1 for label 0, either with chance 1/2.

    >>> x, labels = sample(jax.random.key(0), np.array([9.0, 0.0]), np.eye(2), count=100)
    >>> bool(((x[:, 0] > 0) == (labels == 1)).all())
    True

    Args:
        key: random key.
        mean: `[d]`, of class 1.
        covariance: `[d, d]`.
        count: N.

    Returns:
        `x [N, d]` and `labels [N]`. `gaussian_attacks` takes `z = y x`, which is `signed(x, labels)`.

    Raises:
        ValueError: a count that is not positive, a covariance that is not symmetric positive definite, a mean that does
            not fit.
    """
    _check.positive(count=count)
    root = np.linalg.cholesky(_common.matrix("covariance", covariance))
    center = _common.vector("mean", mean, len(root))
    label_key, noise_key = jax.random.split(key)
    labels = jax.random.bernoulli(label_key, shape=(count,)).astype(jnp.int32)
    # drawn as one axis: random numbers of a matrix take XLA longer to compile
    noise = jax.random.normal(noise_key, (count * len(root),)).reshape(count, len(root))
    sign = (2 * labels - 1).astype(noise.dtype)
    return sign[:, None] * jnp.asarray(center, noise.dtype)[None] + noise @ jnp.asarray(root.T, noise.dtype), labels


def signed(x: Float[Array, "batch d"], labels: Int[Array, " points"]) -> Float[Array, "batch d"]:
    """`z = y x`, one Gaussian of the two: y is -1 for label 0 and 1 for label 1."""
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels must have shape [{x.shape[0]}], one for each point; got {labels.shape}")
    _check.labels(labels, 2)
    return jnp.asarray(x) * (2 * jnp.asarray(labels) - 1).astype(x.dtype)[:, None]


def classifier(mean: Vector, covariance: Matrix) -> LogitsFn:
    """The logits `[-a, a]`, `a = x^T S^-1 mean`, of the model: their softmax is its posterior of the two labels.

    Args:
        mean: the model's, `[d]`.
        covariance: the model's, `[d, d]`.

    Raises:
        ValueError: a covariance that is not symmetric positive definite, a mean that does not fit.
    """
    model = _common.matrix("covariance", covariance)
    direction = np.linalg.solve(model, _common.vector("mean", mean, len(model)))

    def logits_fn(x):
        a = x @ jnp.asarray(direction, x.dtype)
        return jnp.stack([-a, a], -1)

    return logits_fn


def alignment(mean: Vector, covariance: Matrix) -> float:
    """The cosine of the angle between the mean and `S^-1 mean`, the gradient of the classifier.

    Theorem 3 says that the smallest over all means is larger for `robust_covariance(S*)` than for S*. More holds: it
    grows with eps for every single mean, unless that is an eigenvector of S*, for which it is 1.

    Args:
        mean: `[d]`.
        covariance: S, `[d, d]`.

    Raises:
        ValueError: a covariance that is not symmetric positive definite, a mean that is zero or does not fit.
    """
    model = _common.matrix("covariance", covariance)
    vector = _common.direction("mean", mean, len(model))
    gradient = np.linalg.solve(model, vector)
    return float(vector @ gradient / np.linalg.norm(vector) / np.linalg.norm(gradient))


def worst_alignment(covariance: Matrix) -> Alignment:
    r"""The smallest `alignment` of all means: `2 sqrt(kappa) / (1 + kappa)`, kappa the condition number of S.

    It is that of the mean whose coordinates along the two extreme eigenvectors are the roots of their eigenvalues.

    >>> round(worst_alignment(np.diag([0.25, 1.0, 4.0])).cosine, 6)
    0.470588

    Raises:
        ValueError: a covariance that is not symmetric positive definite.
    """
    variances, axes = _common.spectrum("covariance", covariance)
    ends = [0, -1] if len(variances) > 1 else [0]
    mean = axes[:, ends] @ np.sqrt(variances[ends])
    root = math.sqrt(variances[-1] / variances[0])
    return Alignment(2 * root / (1 + root**2), mean / np.linalg.norm(mean))


def error_rate(
    direction: Vector, mean: Vector, covariance: Matrix, *, eps: float | int = 0, norm: float | int = 2
) -> float:
    """The error of `sign(direction^T x)` when each x may be moved by eps in this norm.

    `Phi((eps |a|_dual - a^T mu) / sqrt(a^T S a))`, Phi the normal distribution function, of the direction a.

    >>> round(error_rate(np.array([1.0]), np.array([2.0]), np.eye(1), eps=1), 4)
    0.1587

    Args:
        direction: a, `[d]`: for a model `S^-1 mu`.
        mean: the data's, `[d]`.
        covariance: the data's, `[d, d]`.
        eps: the radius, in the units of x.
        norm: in which it is measured: 1, 2 or `math.inf`.

    Raises:
        ValueError: a covariance that is not symmetric positive definite, a direction that is zero, shapes that do not
            fit, eps negative or not finite, another norm.
    """
    margin, variance = _margin(direction, mean, covariance, eps, norm)
    return float(special.ndtr(-margin / math.sqrt(variance)))


def robust_usefulness(
    direction: Vector, mean: Vector, covariance: Matrix, *, eps: float | int = 0, norm: float | int = 2
) -> float:
    """`E[min over |delta| <= eps of y f(x + delta)]` of the feature `f(x) = a^T x / sqrt(E (a^T x)^2)`.

    `(a^T mu - eps |a|_dual) / sqrt(a^T (S + mu mu^T) a)`: useful, and not robust, is a feature for which it is above
    zero at eps = 0 only.

    Args:
        direction: a, `[d]`.
        mean: the data's, `[d]`.
        covariance: the data's, `[d, d]`.
        eps: the radius, in the units of x.
        norm: in which it is measured: 1, 2 or `math.inf`.

    Raises:
        ValueError: as for `error_rate`.

    Source: Ilyas et al. 2019, section 2; Goh 2019, response 3 in Distill's discussion of it, for the closed form.
    """
    margin, variance = _margin(direction, mean, covariance, eps, norm)
    return margin / math.sqrt(variance + float(np.dot(np.ravel(direction), np.ravel(mean))) ** 2)


def _margin(direction, mean, covariance, eps, norm):
    """Mean and variance of `y a^T x`, the former less what an attack takes from it."""
    data = _common.matrix("covariance", covariance)
    vector, center = _common.direction("direction", direction, len(data)), _common.vector("mean", mean, len(data))
    _common.check_eps(eps)
    if norm not in (1, 2, math.inf):
        raise ValueError(f"norm must be 1, 2 or math.inf; got {norm}")
    dual = np.linalg.norm(vector, {1: np.inf, 2: 2, math.inf: 1}[norm])
    return float(vector @ center - eps * dual), float(vector @ data @ vector)
