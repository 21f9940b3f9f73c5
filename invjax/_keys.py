"""Random keys, one for each example."""

from typing import Any

import jax
import jax.numpy as jnp

from invjax import _check
from invjax.types import Key


def mappable(key: Key) -> Key:
    """The key, as a threefry key that holds the same words if it is of another generator.

    A `jax.vmap` over several keys of "rbg" or "unsafe_rbg" draws all numbers from the first of them, so the numbers of
    an example would depend on its batch.

    Args:
        key: one random key, typed or raw.
    """
    if jax.random.key_impl(key) == "threefry2x32":
        return key
    first, second, *others = jax.random.key_data(key)
    mapped = jax.random.wrap_key_data(jnp.stack([first, second]), impl="threefry2x32")
    for word in others:
        mapped = jax.random.fold_in(mapped, word)
    return mapped


def example_keys(key: Key, ids: Any, count: int) -> jax.Array:
    """Make one random key for each example: `fold_in(key, id)`.

    Args:
        key: the random key of the whole batch.
        ids: `[count]`, one integer for each example, or None for its position in the batch.
        count: the number of examples in the batch.

    Returns:
        The keys, `[count]`. An example with the same id gets the same random numbers in any batch.

    Raises:
        ValueError: `ids` has another shape than `[count]`.
    """
    _check.key(key)
    if ids is not None:
        _check.ids(ids, count)
    return jax.vmap(jax.random.fold_in, (None, 0))(mappable(key), jnp.arange(count) if ids is None else ids)
