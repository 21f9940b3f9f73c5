"""Random keys of one example each."""

import jax

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
    mapped = jax.random.wrap_key_data(jax.numpy.stack([first, second]), impl="threefry2x32")
    for word in others:
        mapped = jax.random.fold_in(mapped, word)
    return mapped
