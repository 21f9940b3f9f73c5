"""A toy data set without non-robust features, on which networks nevertheless have adversarial examples.

Source: Nakkiran 2019, *A Discussion of ...: Adversarial Examples Are Just Bugs, Too*, appendix.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from invjax import _check
from invjax.types import Array, Key


def adversarial_squares(
    key: Key, *, count: int, side: int = 32, spread: float | int = 0.1, flip: float | int = 0.1
) -> tuple[Float[Array, "count side side 1"], Int[Array, " count"]]:
    """Squares that are white or black up to noise, some of them with the wrong label.

        x = (2 c - 1) + U[-spread, spread]^d,    y = c, or 1 - c with probability flip

    The sign of the mean predicts a fraction 1 - flip of the labels, also under an linf attack of radius 1 - spread. Far
    smaller changes fool a network that memorises the wrong labels.

    >>> images, labels = adversarial_squares(jax.random.key(0), count=3, side=4, flip=0)
    >>> images.shape, bool(((images.mean((1, 2, 3)) > 0) == (labels == 1)).all())
    ((3, 4, 4, 1), True)

    Args:
        key: random key.
        count: number of squares (published: 10,000).
        side: side of a square in pixels, so that d is its square. Images have one channel.
        spread: half the width of the noise, in [0, 1).
        flip: fraction of wrong labels, in [0, 1/2).

    Returns:
        Images in `[-1 - spread, 1 + spread]`, and labels 0 or 1. Threats on them need `box=(-inf, inf)`.

    Raises:
        ValueError: a number is outside of its range.
    """
    _check.key(key)
    _check.count(count=count, side=side)
    if not 0 <= spread < 1:
        raise ValueError(f"spread must be in [0, 1), or the two colors overlap; got spread={spread}")
    if not 0 <= flip < 0.5:
        raise ValueError(f"flip must be in [0, 1/2); got flip={flip}")
    color_key, noise_key, flip_key = jax.random.split(key, 3)
    color = jax.random.bernoulli(color_key, jnp.float32(0.5), (count,))
    noise = spread * jax.random.uniform(noise_key, (count, side * side), jnp.float32, minval=-1, maxval=1)
    wrong = jax.random.bernoulli(flip_key, jnp.float32(flip), (count,))
    images = jnp.where(color, 1.0, -1.0)[:, None] + noise
    return images.reshape(count, side, side, 1), (color ^ wrong).astype(jnp.int32)
