"""Robust maximum likelihood on samples, by gradient descent on the loss of attacked points."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Float

from invjax import _check
from invjax.theory.gaussian import _checks
from invjax.theory.gaussian._attacks import Points, Worst, average_attack, checked_model, negative_log_likelihood
from invjax.theory.gaussian._checks import Matrix, Vector
from invjax.types import Array, Scalar

Attack = Callable[..., Worst]
"""An attack on points of a Gaussian model, `(z, mean, covariance, *, eps) -> Worst`."""


class Fit(NamedTuple):
    """The result of robust maximum likelihood.

    Attributes:
        mean: fitted mean, `[d]`.
        covariance: fitted covariance, `[d, d]`.
        loss: mean loss under attack before each step, `[steps]`.
    """

    mean: Float[Array, " d"]
    covariance: Float[Array, "d d"]
    loss: Float[Array, " steps"]


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
    """Robust maximum likelihood: gradient descent on the loss of points that are attacked anew at each step.

    The gradient of a maximum is the gradient at the maximizer, so delta is treated as constant. The descent uses the
    natural gradient, which measures distances between models by their likelihoods and keeps S positive definite:

        mu <- mu + step_size * mean(v + delta),    S <- S + step_size * (mean((v + delta) (v + delta)^T) - S).

    With `average_attack` the descent converges to the mean of z and `robust_covariance` of the covariance of z.

    Args:
        z: points, `[N, d]`.
        mean: initial mean, `[d]`.
        covariance: initial covariance, `[d, d]`.
        eps: the radius, in the units of z; may be traced.
        steps: number of steps.
        step_size: size of a step, at most 1. For large eps it must be below `2 / (1 + 2 m)`, where m is the largest
            eigenvalue of the `attack` that `robust_covariance` returns.
        attack: the adversary, `average_attack` or `l2_attack`.

    Returns:
        The fitted model and the loss before each step.

    Raises:
        ValueError: the steps or the step size are out of range; otherwise as for `l2_attack`.
    """
    z, mean, covariance = checked_model(z, mean, covariance)
    _checks.check_eps(eps)
    _check.positive(steps=steps, step_size=step_size)
    if not isinstance(step_size, jax.core.Tracer) and step_size > 1:
        raise ValueError(f"step_size must be in (0, 1], or the covariance may become indefinite; got {step_size}")

    def step(model, _):
        mean, covariance = model
        moved = z + attack(z, mean, covariance, eps=eps).delta
        loss = negative_log_likelihood(moved, mean, covariance).mean()
        v = moved - mean[None]
        return (mean + step_size * v.mean(0), covariance + step_size * (v.T @ v / len(v) - covariance)), loss

    (mean, covariance), loss = jax.lax.scan(step, (mean, covariance), length=steps)
    return Fit(mean, covariance, loss)
