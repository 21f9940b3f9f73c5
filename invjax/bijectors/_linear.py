r"""Linear bijectors: per-channel scaling, channel mixing, and the orthonormal cosine transform.

All layers act on `x [B, ..., C]`. A map of channels is the same at each of the `n` positions, so its log-determinant is
`n` times that of one position.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax._dtypes import wide, wide_dtype
from invjax.bijectors._bijector import Bijector, no_logdet, stateless

_EXACT = jax.lax.Precision.HIGHEST


def _like(channels, x):
    """A vector `[C]` with the rank of `x`, for broadcasting."""
    return jnp.expand_dims(channels, tuple(range(x.ndim - 1)))


def _positions(x):
    return math.prod(x.shape[1:-1])


def actnorm(min_std: float = 1e-2) -> Bijector:
    """`z = (x + shift) * exp(log_scale)` for each channel; after `init` each channel of the data has mean 0 and std 1.

    A channel whose standard deviation on the initial data is below `min_std` (the constant border of MNIST) is centered
    but not scaled. Division by a standard deviation near zero would amplify any later deviation from the data, and make
    the inverse ill conditioned.

    Args:
        min_std: smallest standard deviation that is normalised, in units of the input.

    Source: Kingma & Dhariwal 2018, section 3.1. The threshold `min_std` is ours.
    """

    def init(key, x):
        axes = tuple(range(x.ndim - 1))
        mean, std = wide(x).mean(axes), wide(x).std(axes)
        found = {"shift": -mean, "log_scale": -jnp.log(jnp.where(std < min_std, 1.0, std))}
        return jax.tree.map(lambda leaf: leaf.astype(jnp.asarray(x).dtype), found)

    def logdet(params, x):
        return no_logdet(x) + _positions(x) * wide(params["log_scale"]).sum()

    def forward(params, x):
        return (x + _like(params["shift"], x)) * jnp.exp(_like(params["log_scale"], x)), logdet(params, x)

    def inverse(params, z):
        return z * jnp.exp(-_like(params["log_scale"], z)) - _like(params["shift"], z), -logdet(params, z)

    return Bijector(init, forward, inverse)


def reverse() -> Bijector:
    """Reverse the order of the channels."""
    return stateless(lambda x: x[..., ::-1], lambda z: z[..., ::-1])


def permute(seed: int) -> Bijector:
    """A fixed random permutation of the channels.

    Args:
        seed: selects the permutation, which is part of the architecture, not of the parameters.

    Raises:
        ValueError: the seed is negative or no whole number.
    """
    seed = _check.seed(seed)

    def order(channels):
        return np.random.default_rng(seed).permutation(channels)

    return stateless(lambda x: x[..., order(x.shape[-1])], lambda z: z[..., np.argsort(order(z.shape[-1]))])


def conv1x1() -> Bijector:
    """Mix the channels at each position by a learned matrix: `z = x W`, `W = P L (U + diag(sign * exp(log_s)))`.

    `P` is a fixed permutation, `L` is unit lower triangular, and `U` is strictly upper triangular. `W` is invertible
    for any `log_s`, and `logdet = positions * sum(log_s)` needs no factorisation. `init` draws a random rotation.

    Source: Kingma & Dhariwal 2018, section 3.2 (their LU form).
    """

    def init(key, x):
        channels = x.shape[-1]
        rotation = jax.random.orthogonal(key, channels, dtype=wide_dtype(x.dtype))  # needs 32 bits, like all of LAPACK
        permutation, lower, upper = jax.scipy.linalg.lu(rotation)
        diagonal = jnp.diag(upper)
        found = {
            "lower": jnp.tril(lower, -1),
            "upper": jnp.triu(upper, 1),
            "log_s": jnp.log(jnp.abs(diagonal)),
            "sign": jnp.sign(diagonal),
            "permutation": permutation,
        }
        return jax.tree.map(lambda leaf: leaf.astype(jnp.asarray(x).dtype), found)

    def matrix(params):
        dtype = params["log_s"].dtype
        # argmax and sign keep these parts fixed: their gradient is zero, and they undo weight decay
        permutation = jax.nn.one_hot(params["permutation"].argmax(-1), params["log_s"].size, dtype=dtype)
        lower = jnp.tril(params["lower"], -1) + jnp.eye(params["log_s"].size, dtype=dtype)
        upper = jnp.triu(params["upper"], 1) + jnp.diag(jnp.sign(params["sign"]) * jnp.exp(params["log_s"]))
        return permutation, lower, upper

    def logdet(params, x):
        return no_logdet(x) + _positions(x) * wide(params["log_s"]).sum()

    def forward(params, x):
        p, lower, upper = matrix(params)
        w = jnp.matmul(jnp.matmul(p, lower, precision=_EXACT), upper, precision=_EXACT)
        return jnp.matmul(x, w, precision=_EXACT), logdet(params, x)

    def inverse(params, z):
        p, lower, upper = matrix(params)
        flat = wide(z).reshape(-1, z.shape[-1]).T  # z^T = U^T L^T P^T x^T
        flat = jax.scipy.linalg.solve_triangular(wide(upper), flat, trans="T")
        flat = jax.scipy.linalg.solve_triangular(wide(lower), flat, trans="T", lower=True, unit_diagonal=True)
        x = jnp.matmul(wide(p), flat, precision=_EXACT).T.reshape(z.shape)
        return x.astype(jnp.asarray(z).dtype), -logdet(params, z)

    return Bijector(init, forward, inverse)


def dct_matrix(n: int) -> np.ndarray:
    """The orthonormal DCT-II matrix `[n, n]`: row k is `sqrt(2/n) cos(pi (j + 1/2) k / n)`, row 0 divided by sqrt(2).

    >>> bool(np.allclose(dct_matrix(5) @ dct_matrix(5).T, np.eye(5)))
    True

    Args:
        n: the number of values that the matrix transforms.

    Returns:
        The matrix in float64. Its inverse is its transpose.
    """
    k, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    matrix = np.sqrt(2 / n) * np.cos(np.pi * (j + 0.5) * k / n)
    matrix[0] /= np.sqrt(2)
    return matrix


def dct2() -> Bijector:
    """The orthonormal two-dimensional DCT-II of each channel of `x [B, H, W, C]`.

    Position (0, 0) of the output is `sqrt(H W)` times the mean of the channel, so the transform is an invertible global
    average pooling.

    Source: Jacobsen et al. 2019, section 2 (the readout of the fully invertible RevNet).
    """

    def transform(x, matrices):
        x = jnp.asarray(x)
        rows, columns = (jnp.asarray(m, x.dtype) for m in matrices)
        return jnp.einsum("uh,bhwc,vw->buvc", rows, x, columns, precision=_EXACT)

    def forward(x):
        return transform(x, (dct_matrix(x.shape[1]), dct_matrix(x.shape[2])))

    def inverse(z):
        return transform(z, (dct_matrix(z.shape[1]).T, dct_matrix(z.shape[2]).T))

    return stateless(forward, inverse)
