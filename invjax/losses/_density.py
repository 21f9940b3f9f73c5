"""The likelihood of images under an invertible network: dequantization and bits per dimension."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from invjax import _check
from invjax._dtypes import wide
from invjax._keys import example_keys
from invjax.types import Array, Code, Key, PerExample


def dequantize(
    key: Key, x: Float[Array, "batch ..."], levels: int = 256, *, ids: Any = None
) -> Float[Array, "batch ..."]:
    """Add noise to integer intensities, so that each is uniform in its bin: [0, 1] -> [0, 1).

    A density of integers needs this noise. The bins have width `1 / levels`, which `bits_per_dim` assumes.

    Args:
        key: random key.
        x: `[B, ...]`, images with values k / (levels - 1) for integers k.
        levels: the number of intensity levels.
        ids: `[B]` int, the position of each image in the data set. An image then gets the same noise in any batch, and
            the shards of `jax.shard_map` different noise. By default one draw serves the batch as a whole.

    Returns:
        The noisy images, `[B, ...]`, in float32 if `x` is narrower.

    Raises:
        ValueError: `levels` is not positive, the images are integers or outside [0, 1], or `ids` are not `[B]`.
    """
    _check.key(key)
    _check.count(levels=levels)
    _check.within("x", x, (0.0, 1.0))
    x = wide(x)  # bfloat16 has 256 numbers between 1/2 and 1: no room for noise in the bins of bytes
    # The noise stays below 1 by the largest rounding error, so that no value reaches the next bin.
    below_one = 1 - levels * jnp.finfo(x.dtype).eps

    def noise(key, shape):
        return jax.random.uniform(key, shape, x.dtype, maxval=below_one)

    if ids is None:
        drawn = noise(key, x.shape)
    else:
        drawn = jax.vmap(lambda one: noise(one, x.shape[1:]))(example_keys(key, ids, len(x)))
    return (jnp.round(x * (levels - 1)) + drawn) / levels


def bits_per_dim(code: Code, logdet: PerExample, levels: int = 256) -> PerExample:
    """`-(log N(z; 0, I) + logdet) / (D log 2) + log2(levels)`: bits for each of the D values of an image in [0, 1].

    The standard normal prior covers the logits and the nuisance. For dequantized images this number is an upper bound
    on the bits that a code of the original integers needs.

    Args:
        code: the code from `encode`, for images passed through `dequantize(levels=levels)`.
        logdet: `[B]`, the log determinant from `encode`, in nats.
        levels: the number of intensity levels of the original data; 1 gives the density of continuous data.

    Returns:
        Bits per dimension of each image, `[B]`.
    """
    z, logdet = wide(jnp.concatenate(code, -1)), wide(logdet)
    log_prior = -0.5 * (z**2).sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
    return -(log_prior + logdet) / (z.shape[-1] * math.log(2)) + math.log2(levels)
