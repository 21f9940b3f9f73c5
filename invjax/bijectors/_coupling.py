r"""Coupling layers: half of the channels pass unchanged and parametrise an invertible map of the other half.

    additive   z1 = x1,  z2 = x2 + t(x1)                                    logdet = 0
    affine     z1 = x1,  z2 = (x2 + t(x1)) * sigmoid(r(x1) + 2)             logdet = sum log sigmoid(r + 2)

A network, the conditioner, computes `t` and `r`; no layer inverts it. `log_sigmoid` computes the logarithm of the
scale, which stays exact where the scale itself underflows.

Sources: Dinh et al. 2015 (additive); Kingma & Dhariwal 2018, *Glow*, table 1 (affine, shift before scale).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from invjax import _check
from invjax.bijectors._bijector import Bijector, Reversible, no_logdet, total
from invjax.types import Net


def _split(x):
    _check.divisible(
        f"coupling of x.shape={x.shape}",
        x.shape[-1:],
        2,
        "it halves the channels: put squeeze() or pad_channels() first",
    )
    return jnp.split(x, 2, axis=-1)


def _from_output(forward, pullback) -> Callable[[int | None], Reversible]:
    """A rule that saves nothing: one evaluation of the conditioner serves both the inversion and the gradient."""
    return lambda anchor_every: Reversible(
        lambda params, x: (*forward(params, x), ()),
        lambda params, z, saved, dz, dlogdet: pullback(params, z, dz, dlogdet),
    )


def additive_coupling(conditioner_fn: Callable[[int], Net]) -> Bijector:
    """`z2 = x2 + t(x1)`: the RevNet and NICE layer, which preserves volume.

    Args:
        conditioner_fn: `channels -> Net`, the network `t` from `[B, ..., C/2]` to `[B, ..., channels]`. It is called
            with `channels = C/2`.

    Raises:
        ValueError: the number of channels is odd.
    """

    def init(key, x):
        x1, x2 = _split(x)
        return conditioner_fn(x2.shape[-1]).init(key, x1)

    def shift(params, x1):
        return conditioner_fn(x1.shape[-1]).apply(params, x1)

    def forward(params, x):
        x1, x2 = _split(x)
        return jnp.concatenate([x1, x2 + shift(params, x1)], -1), no_logdet(x)

    def inverse(params, z):
        z1, z2 = _split(z)
        return jnp.concatenate([z1, z2 - shift(params, z1)], -1), no_logdet(z)

    def pullback(params, z, dz, dlogdet):
        del dlogdet
        (z1, z2), (dz1, dz2) = _split(z), _split(dz)
        t, vjp = jax.vjp(shift, params, z1)
        dparams, dx1 = vjp(dz2)
        return jnp.concatenate([z1, z2 - t], -1), dparams, jnp.concatenate([dz1 + dx1, dz2], -1)

    return Bijector(init, forward, inverse, _from_output(forward, pullback))


def affine_coupling(conditioner_fn: Callable[[int], Net]) -> Bijector:
    """`z2 = (x2 + t(x1)) * sigmoid(r(x1) + 2)`: the Glow layer. Scales lie in (0, 1) and start near 0.88.

    Args:
        conditioner_fn: `channels -> Net`, the network from `[B, ..., C/2]` to `[B, ..., channels]`. It is called with
            `channels = C`; the first half of its output is `t`, the second half is `r`.

    Raises:
        ValueError: the number of channels is odd.
    """

    def init(key, x):
        x1, x2 = _split(x)
        return conditioner_fn(2 * x2.shape[-1]).init(key, x1)

    def shift_and_log_scale(params, x1):
        t, r = jnp.split(conditioner_fn(2 * x1.shape[-1]).apply(params, x1), 2, axis=-1)
        return t, jax.nn.log_sigmoid(r + 2)

    def forward(params, x):
        x1, x2 = _split(x)
        t, log_scale = shift_and_log_scale(params, x1)
        return jnp.concatenate([x1, (x2 + t) * jnp.exp(log_scale)], -1), total(log_scale)

    def inverse(params, z):
        z1, z2 = _split(z)
        t, log_scale = shift_and_log_scale(params, z1)
        return jnp.concatenate([z1, z2 * jnp.exp(-log_scale) - t], -1), -total(log_scale)

    def pullback(params, z, dz, dlogdet):
        (z1, z2), (dz1, dz2) = _split(z), _split(dz)
        (t, log_scale), vjp = jax.vjp(shift_and_log_scale, params, z1)
        dx2 = dz2 * jnp.exp(log_scale)
        dlog_scale = dz2 * z2 + jnp.expand_dims(dlogdet, tuple(range(1, z2.ndim))).astype(z2.dtype)
        dparams, dx1 = vjp((dx2, dlog_scale))
        x2 = z2 * jnp.exp(-log_scale) - t
        return jnp.concatenate([z1, x2], -1), dparams, jnp.concatenate([dz1 + dx1, dx2], -1)

    return Bijector(init, forward, inverse, _from_output(forward, pullback))
