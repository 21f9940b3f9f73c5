r"""Invertible functions as triples of pure functions, and how to compose them.

A bijector maps `x` to `z` one to one and knows its volume change, so that densities carry over:

    log p(x) = log p(z) + logdet,    z, logdet = forward(params, x),    logdet = log |det dz/dx|.

`memory_saving` trades memory for arithmetic: the backward pass rebuilds each activation from the output by inversion
instead of keeping it. Source: Gomez et al. 2017, *The Reversible Residual Network*, generalised to any chain and to
log-determinants.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from invjax import _check
from invjax.types import Array, Key, Params

Z = Float[Array, "batch ..."]
LogDet = Float[Array, " batch"]


class Reversible(NamedTuple):
    """How `memory_saving` runs a bijector.

    `forward` also returns what it keeps for the backward pass: its anchors, or `()`. `pullback` starts from the output
    alone: it rebuilds the input and pulls the cotangents of `(z, logdet)` back to the parameters and to the input.
    """

    forward: Callable[[Params, Z], tuple[Z, LogDet, Any]]
    pullback: Callable[[Params, Z, Any, Z, LogDet], tuple[Z, Params, Z]]


class Bijector(NamedTuple):
    """An invertible function of a batch.

    Attributes:
        init: `(key, x) -> params`. `x [B, ...]` is real data: actnorm initialises from it and `chain` threads it
            through.
        forward: `(params, x [B, ...]) -> (z, logdet [B])`, in nats.
        inverse: `(params, z) -> (x, logdet [B])`, the log-determinant of the inverse map.
        reversible: `anchor_every -> Reversible` where a cheaper way than inverse-then-differentiate is known.
    """

    init: Callable[[Key, Z], Params]
    forward: Callable[[Params, Z], tuple[Z, LogDet]]
    inverse: Callable[[Params, Z], tuple[Z, LogDet]]
    reversible: Callable[[int | None], Reversible] | None = None


def no_logdet(x: Z) -> LogDet:
    """The log-determinant of a volume-preserving map."""
    return jnp.zeros(x.shape[0], x.dtype)


def stateless(forward: Callable[[Z], Z], inverse: Callable[[Z], Z]) -> Bijector:
    """A volume-preserving bijector without parameters."""
    return Bijector(
        lambda key, x: (),
        lambda params, x: (forward(x), no_logdet(x)),
        lambda params, z: (inverse(z), no_logdet(z)),
    )


def chain(layers: Sequence[Bijector]) -> Bijector:
    """Apply `layers` in order: `z = f_L(... f_1(x))`; log-determinants add.

    Args:
        layers: bijectors; the parameters are a list with one entry a layer.
    """
    layers = tuple(layers)

    def init(key, x):
        params = []
        for layer, layer_key in zip(layers, jax.random.split(key, len(layers)), strict=True):
            params.append(layer.init(layer_key, x))
            x, _ = layer.forward(params[-1], x)
        return params

    def forward(params, x):
        total = no_logdet(x)
        for layer, p in zip(layers, params, strict=True):
            x, logdet = layer.forward(p, x)
            total = total + logdet
        return x, total

    def inverse(params, z):
        total = no_logdet(z)
        for layer, p in zip(reversed(layers), reversed(params), strict=True):
            z, logdet = layer.inverse(p, z)
            total = total + logdet
        return z, total

    def reversible(anchor_every):
        parts = [_reversible(layer, anchor_every) for layer in layers]
        last = len(layers) - 1

        def anchored(i):
            return anchor_every is not None and i != last and (i + 1) % anchor_every == 0

        def keeping_forward(params, x):
            total, kept = no_logdet(x), []
            for i, (part, p) in enumerate(zip(parts, params, strict=True)):
                x, logdet, inner = part.forward(p, x)
                total = total + logdet
                kept.append((inner, x if anchored(i) else ()))
            return x, total, kept

        def pullback(params, z, kept, dz, dlogdet):
            gradients = []
            for i in reversed(range(len(layers))):
                inner, anchor = kept[i]
                z, dparams, dz = parts[i].pullback(params[i], anchor if anchored(i) else z, inner, dz, dlogdet)
                gradients.append(dparams)
            return z, gradients[::-1], dz

        return Reversible(keeping_forward, pullback)

    return Bijector(init, forward, inverse, reversible)


def invert(bijector: Bijector) -> Bijector:
    """The inverse function: `forward` and `inverse` change places.

    Parameters that depend on the data (actnorm's) are those of `bijector` on `x`, not of its inverse.

    Raises:
        ValueError: `bijector` has parameters and changes the shape: they would be those of another shape (at `init`).
    """

    def init(key, x):
        params = bijector.init(key, x)
        if jax.tree.leaves(params):
            z, _ = jax.eval_shape(bijector.forward, params, x)
            if z.shape != x.shape:
                raise ValueError(
                    f"invert cannot initialise a bijector that maps {x.shape} to {z.shape}; "
                    "invert its layers one by one: chain([invert(last), ..., invert(first)])"
                )
        return params

    return Bijector(init, bijector.inverse, bijector.forward)


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

    def run(function):
        def step(carry, params):
            value, total = carry
            new, logdet = function(params, value)
            _check_kept(value, new)
            return (new, total + logdet), None

        return step

    def init(key, x):
        def step(x, key):
            params = block.init(key, x)
            z, _ = block.forward(params, x)
            _check_kept(x, z)
            return z, params

        return lax.scan(step, x, jax.random.split(key, n))[1]

    def forward(params, x):
        return lax.scan(run(block.forward), (x, no_logdet(x)), params)[0]

    def inverse(params, z):
        return lax.scan(run(block.inverse), (z, no_logdet(z)), params, reverse=True)[0]

    def reversible(anchor_every):
        part = _reversible(block, None)  # anchors count blocks, not the layers inside them
        every = n if anchor_every is None else anchor_every
        count = (n - 1) // every  # anchor g is the output of block (g + 1) * every - 1; the last output is z itself

        def keeping_forward(params, x):
            def step(carry, i_params):
                x, total, anchors = carry
                i, p = i_params
                x, logdet, kept = part.forward(p, x)
                if count:  # each block writes its group's slot, the group's last one stays
                    anchors = lax.dynamic_update_index_in_dim(anchors, x, i // every, 0)
                return (x, total + logdet, anchors), kept

            anchors = jnp.zeros((count + 1, *x.shape) if count else (0,), x.dtype)
            (z, total, anchors), kept = lax.scan(step, (x, no_logdet(x), anchors), (jnp.arange(n), params))
            return z, total, (anchors, kept)

        def pullback(params, z, saved, dz, dlogdet):
            anchors, kept = saved

            def step(carry, i_params_kept):
                z, dz = carry
                i, p, inner = i_params_kept
                if count:
                    anchor = lax.dynamic_index_in_dim(anchors, i // every, 0, keepdims=False)
                    z = jnp.where((i + 1) % every == 0, anchor, z)
                x, dparams, dx = part.pullback(p, z, inner, dz, dlogdet)
                return (x, dx), dparams

            (x, dx), dparams = lax.scan(step, (z, dz), (jnp.arange(n), params, kept), reverse=True)
            return x, dparams, dx

        return Reversible(keeping_forward, pullback)

    return Bijector(init, forward, inverse, reversible)


def memory_saving(layers: Sequence[Bijector], anchor_every: int | None = 8) -> Bijector:
    """The same parameters, values and gradients as `chain(layers)`, without keeping the activations.

    The backward pass rebuilds them from the output by inversion, so the memory of a gradient step does not grow with
    depth. Rounding errors of the inversion grow with depth and with the conditioning of the layers. Anchors stop the
    drift: the activation after every `anchor_every` layers (and after every `anchor_every` blocks inside `repeat`) is
    kept, and the backward pass starts afresh from it. `None` keeps nothing but the output: right for well-conditioned
    nets.

    Reverse mode only: `jax.jvp` and `jax.jacfwd` raise TypeError; use `chain(layers)` with the same parameters there.

    Args:
        layers: bijectors, as for `chain`.
        anchor_every: layers between two kept activations, or None.

    Raises:
        ValueError: `anchor_every` is not positive.
    """
    if anchor_every is not None:
        _check.positive(anchor_every=anchor_every)
    plain = chain(layers)
    rebuilt = _reversible(plain, anchor_every)

    @jax.custom_vjp
    def forward(params, x):
        return plain.forward(params, x)

    def forward_keeping(params, x):
        z, logdet, kept = rebuilt.forward(params, x)
        return (z, logdet), (params, z, kept)

    def backward(residual, cotangents):
        params, z, kept = residual
        _, dparams, dx = rebuilt.pullback(params, z, kept, *cotangents)
        return dparams, dx

    forward.defvjp(forward_keeping, backward)
    return plain._replace(forward=forward)


def _check_kept(x: Z, z: Z) -> None:
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


def _reversible(bijector: Bijector, anchor_every: int | None) -> Reversible:
    """The bijector's own rule, or: invert, then differentiate `forward` at the rebuilt input."""
    if bijector.reversible is not None:
        return bijector.reversible(anchor_every)

    def pullback(params, z, kept, dz, dlogdet):
        x, _ = bijector.inverse(params, z)
        _, vjp = jax.vjp(bijector.forward, params, x)
        return x, *vjp((dz, dlogdet))

    return Reversible(lambda params, x: (*bijector.forward(params, x), ()), pullback)
