"""Many copies of one block as one scanned loop."""

import jax
import jax.numpy as jnp
from jax import lax

from invjax import _check
from invjax._sharding import varying
from invjax.bijectors._bijector import Bijector, Reversible, Z, no_logdet
from invjax.bijectors._chain import reversible_of


def repeat(block: Bijector, n: int) -> Bijector:
    """`n` copies of `block`, each with its own parameters, as one scanned loop.

    The parameters are those of one block with a leading axis of length `n`. Compile time does not depend on `n`.

    Args:
        block: a bijector whose output has the shape of its input.
        n: number of copies, at least 1.

    Raises:
        ValueError: `n` is not positive, or the block changes the shape (when traced).
    """
    _check.positive(n=n)

    def applied(function):
        """One step of the scan: apply `function` of one block and add its log-determinant."""

        def step(carry, params):
            value, total = carry
            new, logdet = function(params, value)
            _check_unchanged(value, new)
            return (new, total + logdet), None

        return step

    def init(key, x):
        def step(x, key):
            params = block.init(key, x)
            z, _ = block.forward(params, x)
            _check_unchanged(x, z)
            return z, params

        return lax.scan(step, x, jax.random.split(key, n))[1]

    def forward(params, x):
        return lax.scan(applied(block.forward), (x, no_logdet(x)), params, length=n)[0]

    def inverse(params, z):
        return lax.scan(applied(block.inverse), (z, no_logdet(z)), params, length=n, reverse=True)[0]

    return Bijector(init, forward, inverse, lambda anchor_every: _reversible_repeat(block, n, anchor_every))


def _reversible_repeat(block: Bijector, n: int, anchor_every: int | None) -> Reversible:
    """The rule of the block in a scan, with the output of every `anchor_every`-th block as an anchor.

    The blocks form groups of `anchor_every`. Anchor g is the output of the last block of group g. The last group needs
    no anchor, because the backward pass starts from its output. No output inside a block is an anchor.
    """
    rule = reversible_of(block, None)
    group_size = n if anchor_every is None else anchor_every
    num_anchors = (n - 1) // group_size

    def forward(params, x):
        def step(carry, inputs):
            x, total, anchors = carry
            i, p = inputs
            x, logdet, saved_by_block = rule.forward(p, x)
            if num_anchors:  # every block of a group writes the group's slot; the value of the last one remains
                anchors = lax.dynamic_update_index_in_dim(anchors, x, i // group_size, 0)
            return (x, total + logdet, anchors), saved_by_block

        anchors = varying(x, jnp.zeros((num_anchors + 1, *x.shape) if num_anchors else (0,), x.dtype))
        (z, total, anchors), saved_by_blocks = lax.scan(step, (x, no_logdet(x), anchors), (jnp.arange(n), params))
        return z, total, (anchors, saved_by_blocks)

    def pullback(params, z, saved, dz, dlogdet):
        anchors, saved_by_blocks = saved

        def step(carry, inputs):
            z, dz = carry
            i, p, saved_by_block = inputs
            if num_anchors:
                anchor = lax.dynamic_index_in_dim(anchors, i // group_size, 0, keepdims=False)
                z = jnp.where((i + 1) % group_size == 0, anchor, z)
            x, dparams, dx = rule.pullback(p, z, saved_by_block, dz, dlogdet)
            return (x, dx), dparams

        (x, dx), dparams = lax.scan(step, (z, dz), (jnp.arange(n), params, saved_by_blocks), reverse=True)
        return x, dparams, dx

    return Reversible(forward, pullback)


def _check_unchanged(x: Z, z: Z) -> None:
    """Refuse a block whose output differs from its input in shape or dtype."""
    if z.shape != x.shape:
        raise ValueError(
            f"repeat needs a block that keeps the shape; got {x.shape} -> {z.shape}; "
            "put the layer that changes it outside of repeat()"
        )
    if z.dtype != x.dtype:
        raise ValueError(
            f"repeat needs a block that keeps the dtype; got {x.dtype} -> {z.dtype}; "
            f"give x as {z.dtype}, or parameters as {x.dtype}"
        )
