"""Checks of means, covariances and radii."""

import math

import jax
import numpy as np
from jaxtyping import Float

from invjax import _check
from invjax.types import Array

Matrix = Float[Array, "_ _"]
"""A symmetric positive definite matrix, `[d, d]`."""

Vector = Float[Array, " _"]
"""A vector with one entry for each coordinate, `[d]`."""


def check_eps(eps):
    """Refuse a radius that is not one finite number of at least 0; a traced radius is not checked."""
    _check.number("eps", eps)
    if not isinstance(eps, jax.core.Tracer) and not eps < math.inf:
        raise ValueError(f"eps must be finite; got eps={eps}")


def vector(name, value, size):
    """The value as a float64 vector, after a check that it has `size` finite entries."""
    found = np.asarray(value, np.float64)
    if found.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), as the covariance is [{size}, {size}]; got {found.shape}")
    _check.finite(name, found)
    return found


def direction(name, value, size):
    """The value as a float64 vector, after a check that it is not zero."""
    found = vector(name, value, size)
    if not found.any():
        raise ValueError(f"{name} must not be zero, because zero has no direction; got {found}")
    return found


def spectrum(name, value):
    """Eigenvalues in ascending order, and eigenvectors, of a covariance."""
    return np.linalg.eigh(matrix(name, value))


def matrix(name, value, size=None):
    """The value as a float64 matrix, after a check that it is a covariance of this size."""
    found = np.asarray(value, np.float64)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or not found.size or size not in (None, len(found)):
        wanted = "[d, d]" if size is None else f"[{size}, {size}]"
        raise ValueError(
            f"{name} must have shape {wanted}; got {found.shape}; numpy.diag makes a covariance from variances"
        )
    _check.finite(name, found)
    skew = np.abs(found - found.T).max()
    if skew > 1e-6 * np.abs(found).max():
        raise ValueError(f"{name} must be symmetric; got entries {skew:.3g} apart; average it with its transpose")
    found = (found + found.T) / 2
    values = np.linalg.eigvalsh(found)
    if not values[0] > len(found) * np.finfo(np.float64).eps * abs(values[-1]):
        raise ValueError(
            f"{name} must be positive definite; got an eigenvalue of {values[0]:.3g}, the largest being "
            f"{values[-1]:.3g}; add a small multiple of the identity"
        )
    return found
