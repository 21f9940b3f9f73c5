"""Precision: images and parameters may have 16 bits, but sums, distances and searches use at least 32."""

from typing import Any

import jax
import jax.numpy as jnp


def wide(x: Any) -> jax.Array:
    """`x` in float32, or unchanged if it has at least 32 bits."""
    x = jnp.asarray(x)
    return x.astype(wide_dtype(x.dtype))


def wide_dtype(dtype: Any) -> Any:
    """float32, or `dtype` itself if it has at least 32 bits and JAX computes in it."""
    # `jnp.promote_types` refuses half precision under strict promotion
    wide = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32
    return jax.dtypes.canonicalize_dtype(dtype if wide else jnp.float32)


def canonical(tree: Any) -> Any:
    """A pytree of JAX arrays: numbers become arrays, and float64 becomes float32 unless JAX is in double precision."""
    return jax.tree.map(jnp.asarray, tree)
