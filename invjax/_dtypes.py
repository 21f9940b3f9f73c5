"""Precision: images and parameters may have 16 bits, but sums, distances and searches use at least 32."""

from typing import Any

import jax
import jax.numpy as jnp

from invjax import _check


def wide(x: Any) -> jax.Array:
    """`x` in float32, or unchanged if it has at least 32 bits."""
    x = jnp.asarray(x)
    return x.astype(wide_dtype(x.dtype))


def wide_dtype(dtype: Any) -> Any:
    """float32, or `dtype` itself if it has at least 32 bits and JAX computes in it."""
    # `jnp.promote_types` refuses half precision under strict promotion
    wide = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32
    return jax.dtypes.canonicalize_dtype(dtype if wide else jnp.float32)


def placeholder(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """An array for tracing, of the dtype that JAX gives to host arrays: float32 for float64 unless it is enabled."""
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))


def canonical(tree: Any) -> Any:
    """A pytree of JAX arrays: numbers become arrays, and float64 becomes float32 unless JAX is in double precision."""
    return jax.tree.map(jnp.asarray, tree)


def check_noise(name: str, x: Any, sigma: float) -> None:
    """Check that the dtype of `x` does not round noise of standard deviation `sigma` away, if its values are known."""
    if not _check.known(x):
        return
    spacing = float(jnp.finfo(x.dtype).eps) * float(abs(x).max(initial=0))
    if sigma < spacing:
        raise ValueError(
            f"sigma={sigma:g} is below the spacing {spacing:g} of {x.dtype} numbers as large as {name}, which would "
            "swallow the noise; pass float32 images, or scale them to [0, 1]"
        )
