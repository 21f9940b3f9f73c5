r"""Networks of different sizes as one function of arrays: a mask separates the parameters of a network from padding.

A masked network takes its architecture as arrays, so `jax.vmap` runs a hundred networks at once, and one compilation
serves all of them. The padding is exactly zero and stays zero: the activation of a padded unit is zero, so the
gradients of the weights into it and out of it are zero too. The logits are those of the network without padding.

    h_l = m_l * activation(h_{l-1} W_l + b_l),    m_l = [1, ..., 1, 0, ..., 0] with `widths[l]` ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax.types import Key, Params

_STD_OF_TRUNCATED = 0.87962566103423978  # the std of a standard normal variable that is truncated at -2 and 2


class MaskedNet(NamedTuple):
    """A network whose architecture is an argument. Its functions take one network; `jax.vmap` adds a population axis.

    Attributes:
        mask: `(architecture, x) -> mask`, a pytree of the structure of `params`. It is True at the parameters of the
            network and False at its padding.
        init: `(key, architecture, x) -> params`, zero at the padding. The scale is that of flax's layers for the number
            of inputs without padding: variance `1 / inputs`, truncated at two standard deviations.
        apply: `(params, architecture, x [B, ...], key=None) -> logits [B, K]`. With a key, dropout is active.
    """

    mask: Callable[[Any, jax.Array], Params]
    init: Callable[[Key, Any, jax.Array], Params]
    apply: Callable[..., jax.Array]


def masked_size(mask: Params) -> int:
    """The number of parameters of a network, without those of its padding.

    Args:
        mask: the mask of one network, a pytree of truth values as `MaskedNet.mask` returns it.

    Returns:
        The number of True values in the mask.
    """
    return int(sum(np.sum(np.asarray(leaf)) for leaf in jax.tree.leaves(mask)))


def outer(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """True where both the row and the column belong to the network."""
    return rows[:, None] & columns[None]


def dense_mask(rows: jax.Array, columns: jax.Array) -> Params:
    """The mask of a dense layer from those of its inputs and outputs."""
    return {"kernel": outer(rows, columns), "bias": columns}


def dense(layer: Params, x: jax.Array) -> jax.Array:
    """Apply a dense layer to `x [B, inputs]`."""
    return x @ layer["kernel"] + layer["bias"][None]


def dropped(key: Key | None, layer: int, rate: jax.Array, x: jax.Array) -> jax.Array:
    """Dropout at the given rate; the identity without a key."""
    if key is None:
        return x
    present = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, x.shape)
    return jnp.where(present, x / (1 - rate), 0)


def init_of(mask_fn: Callable) -> Callable[[Key, Any, jax.Array], Params]:
    """The `init` of a `MaskedNet`: biases are zero, and kernels have variance `1 / inputs`, counted in the mask."""

    def init(key, architecture, x):
        leaves, tree = jax.tree.flatten(mask_fn(architecture, x))
        ends = np.cumsum([own.size for own in leaves])
        # one draw for all leaves, because drawing takes longer to compile than everything else
        values = jax.random.truncated_normal(key, -2, 2, (ends[-1],), x.dtype) / _STD_OF_TRUNCATED

        def scaled(own, part):
            inputs = own.sum(tuple(range(own.ndim - 1))).max()
            scale = jax.lax.rsqrt(jnp.maximum(inputs, 1).astype(x.dtype))
            return jnp.where(own, scale * part.reshape(own.shape), 0) if own.ndim > 1 else jnp.zeros(own.shape, x.dtype)

        parts = jnp.split(values, ends[:-1].tolist())
        return jax.tree.unflatten(tree, [scaled(own, part) for own, part in zip(leaves, parts, strict=True)])

    return init
