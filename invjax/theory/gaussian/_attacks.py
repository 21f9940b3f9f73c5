r"""Samples of a Gaussian, the worst that an l2 adversary can do to each, and robust maximum likelihood on them.

A point z is `y x` of the model in `gaussian`. Its loss under a mean mu and a covariance S is the negative
log-likelihood `v^T S^-1 v / 2 + log det(2 pi S) / 2`, `v = z - mu`. The maximum over a ball `|delta| <= eps` is that
of a convex quadratic, a trust-region problem whose global solution is known: with c the coordinates of v along the
eigenvectors of S and sigma the eigenvalues,

    delta_i = c_i / (lambda sigma_i - 1),     lambda >= 1 / min sigma     the one root of     |delta| = eps.

In the hard case, where c has no part along the smallest sigma and the others are too short even for the least lambda,
the rest of the budget goes along that eigenvector, to either side.

Source: Ilyas et al. 2019, section 4 and appendix E, for the model; Moré & Sorensen 1983 for the trust region.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from invjax import _check
from invjax.theory.gaussian import _common, _model
from invjax.theory.gaussian._common import Matrix, Vector
from invjax.types import Array, Scalar

Points = Float[Array, "batch dimension"]

HALVINGS = 40


class Worst(NamedTuple):
    """The attack of most loss.

    Attributes:
        delta: `[B, d]`.
        multiplier: lambda, `[B]`, or a number where all points share one; infinite for eps = 0.
    """

    delta: Points
    multiplier: Float[Array, "..."]


Attack = Callable[..., Worst]
"""`(z, mean, covariance, *, eps) -> Worst`: `l2_attack` or `average_attack`."""


class Fit(NamedTuple):
    """What robust maximum likelihood has learnt.

    Attributes:
        mean: `[d]`.
        covariance: `[d, d]`.
        loss: `[steps]`, the mean loss under attack before each step.
    """

    mean: Float[Array, " d"]
    covariance: Float[Array, "d d"]
    loss: Float[Array, " steps"]


def negative_log_likelihood(z: Points, mean: Vector, covariance: Matrix) -> Float[Array, " batch"]:
    """`v^T S^-1 v / 2 + log det(2 pi S) / 2` of each `v = z - mean`, nats.

    Args:
        z: `[B, d]`.
        mean: the model's, `[d]`.
        covariance: the model's, `[d, d]`.

    Raises:
        ValueError: a covariance that is not symmetric positive definite, shapes that do not fit, NaN.
    """
    z, mean, covariance = _checked_model(z, mean, covariance)
    root = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(root, (z - mean[None]).T, lower=True)
    return (white**2).sum(0) / 2 + jnp.log(jnp.diag(root)).sum() + z.shape[1] * jnp.log(2 * jnp.pi) / 2


def lagrangian_attack(
    z: Points, mean: Vector, covariance: Matrix, *, penalty: float | int, convention: str = "quadratic"
) -> Points:
    """`delta = (k S - I)^-1 v`, the attack of theorem 1 on each point: `vulnerability` is what it gains.

    Args:
        z: `[B, d]`.
        mean: the model's, `[d]`.
        covariance: the model's, `[d, d]`.
        penalty: C, of the squared length.
        convention: of the objective, as for `vulnerability`.

    Raises:
        ValueError: as for `negative_log_likelihood`; a penalty that is too low.
    """
    z, mean, covariance = _checked_model(z, mean, covariance)
    smallest = float(jnp.linalg.eigvalsh(covariance)[0])
    strength = _model.price(smallest, penalty=penalty, convention=convention)
    return jnp.linalg.solve(strength * covariance - jnp.eye(len(mean), dtype=z.dtype), (z - mean[None]).T).T


def l2_attack(z: Points, mean: Vector, covariance: Matrix, *, eps: Scalar) -> Worst:
    """The delta of most loss with `|delta| <= eps`, for each point by itself: exact, the hard case included.

    >>> worst = l2_attack(jnp.array([[1.0, 0.0]]), jnp.zeros(2), jnp.eye(2), eps=0.5)
    >>> worst.delta.tolist(), worst.multiplier.tolist()
    ([[0.5, 0.0]], [3.0])

    Args:
        z: `[B, d]`.
        mean: the model's, `[d]`.
        covariance: the model's, `[d, d]`.
        eps: the radius, in the units of z; may be traced.

    Raises:
        ValueError: as for `negative_log_likelihood`; eps negative or not finite.
    """
    z, mean, covariance = _checked_model(z, mean, covariance)
    _common.check_eps(eps)
    variances, axes = jnp.linalg.eigh(covariance)
    along = (z - mean[None]) @ axes
    t, floor = _multiplier(jnp.abs(along), variances, eps)
    delta = along / _gap(t, variances)
    # the hard case: the first coordinate is free
    rest = jnp.sqrt(jnp.maximum(jnp.asarray(eps, z.dtype) ** 2 - (delta[:, 1:] ** 2).sum(-1), 0))
    first = jnp.where(t <= floor, jnp.where(along[:, 0] < 0, -rest, rest), delta[:, 0])
    return _worst(delta.at[:, 0].set(first) @ axes.T, t, variances, eps)


def average_attack(z: Points, mean: Vector, covariance: Matrix, *, eps: Scalar) -> Worst:
    """The `delta = M v` of most loss, M the same for all points, with `|delta|^2` equal to `eps^2` on average.

    The adversary of theorem 2, `linear_attack`, on the second moments of these points.

    Args:
        z: `[B, d]`, more than d points, in general position.
        mean: the model's, `[d]`.
        covariance: the model's, `[d, d]`.
        eps: the radius, in the units of z; may be traced.

    Raises:
        ValueError: as for `negative_log_likelihood`; eps negative or not finite.
    """
    z, mean, covariance = _checked_model(z, mean, covariance)
    _common.check_eps(eps)
    variances, axes = jnp.linalg.eigh(covariance)
    along = (z - mean[None]) @ axes
    t, _ = _multiplier(jnp.sqrt((along**2).mean(0)), variances, eps)
    return _worst((along / _gap(t, variances)[None]) @ axes.T, t, variances, eps)


def robust_fit(
    z: Points,
    mean: Vector,
    covariance: Matrix,
    *,
    eps: Scalar,
    steps: int,
    step_size: Scalar,
    attack: Attack = average_attack,
) -> Fit:
    """Robust maximum likelihood: gradient descent on the loss of the worst points, found anew at each step.

    The gradient of a maximum is that at the maximiser, so delta counts as constant; it is the natural gradient, that of
    the metric in which models are far apart if their likelihoods are, and keeps S positive definite:

        mu <- mu + step_size * mean(v + delta),    S <- S + step_size * (mean((v + delta) (v + delta)^T) - S).

    With `average_attack` it ends at the mean of z and `robust_covariance` of their covariance.

    Args:
        z: `[N, d]`.
        mean: where to start, `[d]`.
        covariance: where to start, `[d, d]`.
        eps: the radius, in the units of z; may be traced.
        steps: how many.
        step_size: at most 1; for large eps less, below `2 / (1 + 2 m)`, m the largest eigenvalue of the `attack` that
            `robust_covariance` returns.
        attack: the adversary: this or `l2_attack`.

    Raises:
        ValueError: as for `l2_attack`; steps or a step size out of range.
    """
    z, mean, covariance = _checked_model(z, mean, covariance)
    _common.check_eps(eps)
    _check.positive(steps=steps, step_size=step_size)
    if not isinstance(step_size, jax.core.Tracer) and step_size > 1:
        raise ValueError(f"step_size must be in (0, 1], or the covariance may turn negative; got {step_size}")

    def step(model, _):
        mean, covariance = model
        moved = z + attack(z, mean, covariance, eps=eps).delta
        loss = negative_log_likelihood(moved, mean, covariance).mean()
        v = moved - mean[None]
        return (mean + step_size * v.mean(0), covariance + step_size * (v.T @ v / len(v) - covariance)), loss

    (mean, covariance), loss = jax.lax.scan(step, (mean, covariance), length=steps)
    return Fit(mean, covariance, loss)


def _gap(t, variances):
    """`lambda sigma - 1` for `lambda = (1 + t) / min sigma`, exact where it is near zero."""
    ratio = variances / variances[0]
    return (ratio - 1)[(None,) * t.ndim] + t[..., None] * ratio[(None,) * t.ndim]


def _multiplier(lengths, variances, eps):
    """The root t `[...]` of `|lengths / gap(t)| = eps` for lengths `[..., d]`, and the t that counts as zero.

    Between the smallest that a single coordinate allows and the largest that all allow, the interval is halved in its
    logarithm; as `1 / |lengths / gap(t)|` is concave in t, a Newton step from anywhere gives another lower end.
    """
    eps = jnp.where(jnp.asarray(eps) > 0, eps, 1).astype(lengths.dtype)
    ratio = (variances / variances[0])[(None,) * (lengths.ndim - 1)]
    high = jnp.maximum(jnp.linalg.norm(lengths, axis=-1) / eps, 1)
    floor = high * jnp.finfo(lengths.dtype).eps ** 2
    low = jnp.maximum(((lengths / eps - (ratio - 1)) / ratio).max(-1), floor)

    def halve(_, ends):
        low, high = ends
        t = jnp.sqrt(low * high)
        gap = _gap(t, variances)
        squares = (lengths / gap) ** 2
        square, slope = squares.sum(-1), (squares * ratio / gap).sum(-1)
        newton = t + (jnp.sqrt(square) / eps - 1) * square / jnp.where(slope > 0, slope, 1)
        low = jnp.where(slope > 0, jnp.maximum(low, newton), low)  # where v is zero there is no slope
        return low, jnp.where(square < eps**2, t, high)

    low, _ = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    return low, floor


def _worst(delta, t, variances, eps):
    some = jnp.asarray(eps) > 0
    return Worst(jnp.where(some, delta, 0), jnp.where(some, (1 + t) / variances[0], jnp.inf))


def _checked_model(z, mean, covariance):
    """All three as arrays of one dtype, if they fit."""
    if np.ndim(z) != 2 or not np.size(z):
        raise ValueError(f"points must have shape [batch, dimension], neither of them zero; got {np.shape(z)}")
    _check.floating("points", z)
    _check.finite("points", z)
    size = np.shape(z)[1]
    if np.shape(mean) != (size,) or np.shape(covariance) != (size, size):
        raise ValueError(
            f"points {np.shape(z)} need a mean ({size},) and a covariance ({size}, {size}); "
            f"got {np.shape(mean)} and {np.shape(covariance)}"
        )
    if not isinstance(mean, jax.core.Tracer):
        _common.vector("mean", mean, size)
    if not isinstance(covariance, jax.core.Tracer):
        _common.matrix("covariance", covariance, size)
    dtype = jnp.asarray(z).dtype
    return jnp.asarray(z), jnp.asarray(mean, dtype), jnp.asarray(covariance, dtype)
