r"""Attacks on samples of a Gaussian: exact maxima of the loss for several kinds of budget.

A point is `z = y x`, with x and y as in `gaussian`. Its loss under a mean mu and a covariance S is the negative
log-likelihood `v^T S^-1 v / 2 + log det(2 pi S) / 2` with `v = z - mu`. The maximum over a ball `|delta| <= eps` is
that of a convex quadratic, a trust-region problem with a known global solution: with c the coordinates of v along the
eigenvectors of S and sigma the eigenvalues,

    delta_i = c_i / (lambda sigma_i - 1),     lambda >= 1 / min sigma     the only root of     |delta| = eps.

In the hard case c has no component along the smallest sigma, and the other components are too short even for the
smallest lambda. The rest of the budget then goes along that eigenvector, in either direction.

Source: Ilyas et al. 2019, section 4 and appendix E, for the model; Moré & Sorensen 1983 for the trust region.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from invjax import _check
from invjax.theory.gaussian import _checks, _trust_region, _vulnerability
from invjax.theory.gaussian._checks import Matrix, Vector
from invjax.types import Array, Scalar

Points = Float[Array, "batch dimension"]


class Worst(NamedTuple):
    """The attack with the largest loss.

    Attributes:
        delta: the change of each point, `[B, d]`.
        multiplier: lambda, `[B]`, or one number if all points share it; infinite for eps = 0.
    """

    delta: Points
    multiplier: Float[Array, "..."]


def negative_log_likelihood(z: Points, mean: Vector, covariance: Matrix) -> Float[Array, " batch"]:
    """The loss `v^T S^-1 v / 2 + log det(2 pi S) / 2` of each `v = z - mean`, in nats.

    Args:
        z: points, `[B, d]`.
        mean: mean of the model, `[d]`.
        covariance: covariance of the model, `[d, d]`.

    Returns:
        The losses, `[B]`.

    Raises:
        ValueError: the covariance is not symmetric positive definite, the shapes do not match, or values are NaN.
    """
    z, mean, covariance = checked_model(z, mean, covariance)
    root = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(root, (z - mean[None]).T, lower=True)
    return (white**2).sum(0) / 2 + jnp.log(jnp.diag(root)).sum() + z.shape[1] * jnp.log(2 * jnp.pi) / 2


def lagrangian_attack(
    z: Points, mean: Vector, covariance: Matrix, *, penalty: float | int, convention: str = "quadratic"
) -> Points:
    """The attack of theorem 1 on each point, `delta = (k S - I)^-1 v`, whose mean gain is `vulnerability`.

    Args:
        z: points, `[B, d]`.
        mean: mean of the model, `[d]`.
        covariance: covariance of the model, `[d, d]`.
        penalty: factor C of the squared length.
        convention: the objective, a key of `CONVENTIONS`.

    Returns:
        The change of each point, `[B, d]`.

    Raises:
        ValueError: the penalty is too low; otherwise as for `negative_log_likelihood`.
    """
    z, mean, covariance = checked_model(z, mean, covariance)
    smallest = float(jnp.linalg.eigvalsh(covariance)[0])
    strength = _vulnerability.price(smallest, penalty=penalty, convention=convention)
    return jnp.linalg.solve(strength * covariance - jnp.eye(len(mean), dtype=z.dtype), (z - mean[None]).T).T


def l2_attack(z: Points, mean: Vector, covariance: Matrix, *, eps: Scalar) -> Worst:
    """The exact change of each point with the largest loss among all changes with `|delta| <= eps`.

    >>> attack = jax.jit(lambda z, covariance: l2_attack(z, np.zeros(2), covariance, eps=0.5))
    >>> worst = attack(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> worst.delta.tolist(), worst.multiplier.tolist()
    ([[0.5, 0.0]], [3.0])

    Args:
        z: points, `[B, d]`.
        mean: mean of the model, `[d]`.
        covariance: covariance of the model, `[d, d]`.
        eps: the radius, in the units of z; may be traced.

    Returns:
        The change of each point and its multiplier.

    Raises:
        ValueError: eps is negative or not finite; otherwise as for `negative_log_likelihood`.
    """
    z, mean, covariance = checked_model(z, mean, covariance)
    _checks.check_eps(eps)
    variances, axes = jnp.linalg.eigh(covariance)
    along = (z - mean[None]) @ axes
    t, floor = _trust_region.multiplier(jnp.abs(along), variances, eps)
    delta = along / _trust_region.gap(t, variances)
    # in the hard case the first coordinate takes the rest of the budget
    rest = jnp.sqrt(jnp.maximum(jnp.asarray(eps, z.dtype) ** 2 - (delta[:, 1:] ** 2).sum(-1), 0))
    first = jnp.where(t <= floor, jnp.where(along[:, 0] < 0, -rest, rest), delta[:, 0])
    return _worst(delta.at[:, 0].set(first) @ axes.T, t, variances, eps)


def average_attack(z: Points, mean: Vector, covariance: Matrix, *, eps: Scalar) -> Worst:
    """The change `delta = M v` with the largest loss, with one matrix M for all points and `E |delta|^2 = eps^2`.

    This is the adversary of theorem 2, `linear_attack`, on the second moments of these points.

    Args:
        z: points in general position, more than d of them, `[B, d]`.
        mean: mean of the model, `[d]`.
        covariance: covariance of the model, `[d, d]`.
        eps: the radius, in the units of z; may be traced.

    Returns:
        The change of each point and the multiplier that all points share.

    Raises:
        ValueError: eps is negative or not finite; otherwise as for `negative_log_likelihood`.
    """
    z, mean, covariance = checked_model(z, mean, covariance)
    _checks.check_eps(eps)
    variances, axes = jnp.linalg.eigh(covariance)
    along = (z - mean[None]) @ axes
    t, _ = _trust_region.multiplier(jnp.sqrt((along**2).mean(0)), variances, eps)
    return _worst((along / _trust_region.gap(t, variances)[None]) @ axes.T, t, variances, eps)


def _worst(delta, t, variances, eps):
    some = jnp.asarray(eps) > 0
    return Worst(jnp.where(some, delta, 0), jnp.where(some, (1 + t) / variances[0], jnp.inf))


def checked_model(z, mean, covariance):
    """Points, mean and covariance as arrays of one dtype, after a check that they match."""
    if np.ndim(z) != 2 or not np.size(z):
        raise ValueError(f"points must have shape [batch, dimension], neither of the two zero; got {np.shape(z)}")
    _check.floating("points", z)
    _check.finite("points", z)
    size = np.shape(z)[1]
    if np.shape(mean) != (size,) or np.shape(covariance) != (size, size):
        raise ValueError(
            f"points {np.shape(z)} need a mean ({size},) and a covariance ({size}, {size}); "
            f"got {np.shape(mean)} and {np.shape(covariance)}"
        )
    if not isinstance(mean, jax.core.Tracer):
        _checks.vector("mean", mean, size)
    if not isinstance(covariance, jax.core.Tracer):
        _checks.matrix("covariance", covariance, size)
    dtype = jnp.asarray(z).dtype
    return jnp.asarray(z), jnp.asarray(mean, dtype), jnp.asarray(covariance, dtype)
