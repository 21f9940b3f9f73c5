r"""Invertible functions of a batch, as records of pure functions.

A bijector maps `x` to `z` one to one and returns the log-determinant of its Jacobian, which relates the two densities:

    log p(x) = log p(z) + logdet,    z, logdet = forward(params, x),    logdet = log |det dz/dx|.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from invjax._dtypes import wide, wide_dtype
from invjax._sharding import beside, varying
from invjax.types import Array, Key, Params

Z = Float[Array, "batch ..."]
LogDet = Float[Array, " batch"]


class Reversible(NamedTuple):
    """The passes by which `memory_saving` runs a bijector; the backward pass recomputes the input by inversion.

    Attributes:
        forward: `(params, x) -> (z, logdet, saved)`. `saved` is all that the forward pass keeps for the backward pass
            besides `z`: a pytree of a few activations, or `()`.
        pullback: `(params, z, saved, dz, dlogdet) -> (x, dparams, dx)`. It computes the input `x` from the output `z`
            and pulls the cotangents `dz` and `dlogdet` of the outputs back to the parameters and to the input.
    """

    forward: Callable[[Params, Z], tuple[Z, LogDet, Any]]
    pullback: Callable[[Params, Z, Any, Z, LogDet], tuple[Z, Params, Z]]


class Bijector(NamedTuple):
    """An invertible function of a batch.

    Attributes:
        init: `(key, x) -> params`. `x [B, ...]` is real data: `actnorm` initialises from it, and `chain` passes the
            output of each layer to the `init` of the next one.
        forward: `(params, x [B, ...]) -> (z, logdet [B])`, in nats.
        inverse: `(params, z) -> (x, logdet [B])`, with the log-determinant of the inverse map.
        reversible: `anchor_every -> Reversible`, the rule by which `memory_saving(layers, anchor_every)` runs this
            bijector. With None, `memory_saving` calls `inverse` and then differentiates `forward`.
    """

    init: Callable[[Key, Z], Params]
    forward: Callable[[Params, Z], tuple[Z, LogDet]]
    inverse: Callable[[Params, Z], tuple[Z, LogDet]]
    reversible: Callable[[int | None], Reversible] | None = None


def no_logdet(x: Z) -> LogDet:
    """The log-determinant of a volume-preserving map: zeros `[B]`, in float32 or wider."""
    return varying(x, beside(x, jnp.zeros(x.shape[0], wide_dtype(x.dtype))))


def total(terms: Z) -> LogDet:
    """The sum over all axes but the first, in float32 or wider: bfloat16 would round log-determinants to 1/16 bit."""
    return wide(terms).reshape(len(terms), -1).sum(1)


def stateless(forward: Callable[[Z], Z], inverse: Callable[[Z], Z]) -> Bijector:
    """A volume-preserving bijector without parameters."""
    return Bijector(
        lambda key, x: (),
        lambda params, x: (forward(x), no_logdet(x)),
        lambda params, z: (inverse(z), no_logdet(z)),
    )
