"""Bijectors that move values between positions and channels without changing the values."""

from collections.abc import Sequence

import jax.numpy as jnp

from invjax import _check
from invjax.bijectors._bijector import Bijector, stateless


def _to_channels(x, factor):
    batch, height, width, channels = x.shape
    _check.divisible(
        f"squeeze({factor}) of x.shape={x.shape}",
        (height, width),
        factor,
        "crop or pad the images, or squeeze less often",
    )
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // factor, width // factor, factor * factor * channels)


def _to_space(z, factor):
    batch, height, width, channels = z.shape
    _check.divisible(
        f"the inverse of squeeze({factor}) at z.shape={z.shape}", (channels,), factor**2, "pass an output of squeeze"
    )
    z = z.reshape(batch, height, width, factor, factor, channels // factor**2).transpose(0, 1, 3, 2, 4, 5)
    return z.reshape(batch, height * factor, width * factor, channels // factor**2)


def squeeze(factor: int = 2) -> Bijector:
    """Space to depth: `[B, H, W, C] -> [B, H/f, W/f, f*f*C]`, channel order (dy, dx, c) as in i-RevNet.

    Args:
        factor: f, the side of the square of positions that becomes one position, in pixels.

    Raises:
        ValueError: H or W is not divisible by the factor.
    """
    _check.positive(factor=factor)
    return stateless(lambda x: _to_channels(x, factor), lambda z: _to_space(z, factor))


def pad_channels(extra: int) -> Bijector:
    """Append `extra` channels of zeros: `[B, ..., C] -> [B, ..., C + extra]`; the inverse drops them.

    The map is injective but not onto: `inverse(forward(x)) = x` always holds, and `forward(inverse(z)) = z` holds only
    where the padding of `z` is zero. The log-determinant is 0, that of the map onto its image.

    Args:
        extra: the number of channels to append, at least 1.

    Source: Jacobsen et al. 2018, *i-RevNet* (the injective variant).
    """
    _check.positive(extra=extra)

    def forward(x):
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, extra)])

    return stateless(forward, lambda z: z[..., :-extra])


def factor_out(inner: Bijector) -> Bijector:
    """Apply `inner` to the first half of the channels and pass the second half unchanged.

    `z = [inner(x1), x2]` along the channels. If `inner` squeezes space, `x2` is squeezed by the same factor, so `z` is
    one array with as many values as `x`. Nested calls build the multi-scale architecture of RealNVP and Glow.

    Args:
        inner: a bijector of `[B, H, W, C/2]` (or `[B, C/2]`) that keeps the rank.

    Raises:
        ValueError: the number of channels is odd, or `inner` pads or unsqueezes.
    """

    def split(x):
        _check.divisible(
            f"factor_out of x.shape={x.shape}", x.shape[-1:], 2, "it halves the channels: put squeeze() first"
        )
        return jnp.split(x, 2, axis=-1)

    def init(key, x):
        return inner.init(key, split(x)[0])

    def forward(params, x):
        x1, x2 = split(x)
        z1, logdet = inner.forward(params, x1)
        if z1.size != x1.size or z1.shape[1:-1] > x1.shape[1:-1]:
            raise ValueError(
                f"factor_out needs an inner bijector that keeps the number of values and does not unsqueeze; "
                f"got {x1.shape} -> {z1.shape}; pad or unsqueeze outside of factor_out()"
            )
        if z1.ndim == 4:
            x2 = _to_channels(x2, x1.shape[1] // z1.shape[1])
        return jnp.concatenate([z1, x2], -1), logdet

    def inverse(params, z):
        z1, z2 = split(z)
        x1, logdet = inner.inverse(params, z1)
        if z1.ndim == 4:
            z2 = _to_space(z2, x1.shape[1] // z1.shape[1])
        return jnp.concatenate([x1, z2], -1), logdet

    return Bijector(init, forward, inverse)


def roll(offset: tuple[int, int]) -> Bijector:
    """Move position `offset` of `x [B, H, W, C]` to the front, (0, 0), by a cyclic shift.

    Args:
        offset: (row, column) of the position, in pixels.
    """
    return stateless(
        lambda x: jnp.roll(x, (-offset[0], -offset[1]), (1, 2)), lambda z: jnp.roll(z, (offset[0], offset[1]), (1, 2))
    )


def flatten(shape: Sequence[int]) -> Bijector:
    """Flatten each example to a vector: `[B, *shape] -> [B, D]`.

    Args:
        shape: shape of one example.
    """
    shape = tuple(shape)

    def forward(x):
        if x.shape[1:] != shape:
            raise ValueError(
                f"flatten(shape={shape}) needs x of shape [batch, *{shape}]; got {x.shape}; build it with {x.shape[1:]}"
            )
        return x.reshape(x.shape[0], -1)

    return stateless(forward, lambda z: z.reshape(z.shape[0], *shape))
