r"""The multiplier of a quadratic maximum over a ball, the trust-region problem behind the exact attacks.

Source: Moré & Sorensen 1983.
"""

import jax
import jax.numpy as jnp

HALVINGS = 40
"""The number of bisections in `multiplier`."""


def gap(t, variances):
    """The denominators `lambda sigma - 1` for `lambda = (1 + t) / min sigma`, accurate where they are near zero."""
    ratio = variances / variances[0]
    return (ratio - 1)[(None,) * t.ndim] + t[..., None] * ratio[(None,) * t.ndim]


def multiplier(lengths, variances, eps):
    """The root t `[...]` of `|lengths / gap(t)| = eps` for lengths `[..., d]`, and the t that counts as zero.

    The root lies between the smallest t that a single coordinate allows and the largest t that all coordinates allow.
    Bisection in log t narrows this interval. Because `1 / |lengths / gap(t)|` is concave in t, a Newton step from any
    point gives another lower end.
    """
    eps = jnp.where(jnp.asarray(eps) > 0, eps, 1).astype(lengths.dtype)
    ratio = (variances / variances[0])[(None,) * (lengths.ndim - 1)]
    high = jnp.maximum(jnp.linalg.norm(lengths, axis=-1) / eps, 1)
    floor = high * jnp.finfo(lengths.dtype).eps ** 2
    low = jnp.maximum(((lengths / eps - (ratio - 1)) / ratio).max(-1), floor)

    def halve(_, ends):
        low, high = ends
        t = jnp.sqrt(low * high)
        gaps = gap(t, variances)
        squares = (lengths / gaps) ** 2
        square, slope = squares.sum(-1), (squares * ratio / gaps).sum(-1)
        newton = t + (jnp.sqrt(square) / eps - 1) * square / jnp.where(slope > 0, slope, 1)
        low = jnp.where(slope > 0, jnp.maximum(low, newton), low)  # if v is zero the slope is zero
        return low, jnp.where(square < eps**2, t, high)

    low, _ = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    return low, floor
