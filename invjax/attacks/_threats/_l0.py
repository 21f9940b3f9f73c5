"""The l0 threat: a few pixels may take any value. The number of changed pixels is not a norm."""

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _box, _check
from invjax._dtypes import wide_dtype
from invjax.attacks._threats._threat import Threat, check_box, draw, movable
from invjax.types import Box


def l0(box: Box = (0.0, 1.0), *, channels: bool | None = None) -> Threat:
    """At most `eps` pixels may change, each in all of its channels.

        distance(z, x) = number of positions i where z_i differs from x_i in any channel

    In images `[H, W, C]` a pixel is a position. In examples of one or two axes, such as the features of a table `[D]`
    or a gray image `[H, W]`, every value is a pixel of its own.

    `project` clips to the box and keeps the `eps` pixels whose change brings the result nearest to `z`; this is the
    exact projection. A step of length s moves each of the `eps` pixels of largest gradient by `40 s / eps` of the
    range. The projection ranks pixels by their change, so a new pixel has to move far in a single step: short steps
    never replace the pixels of a random start.

    >>> l0().project(jnp.array([[0.9], [0.6]]), jnp.array([[0.5], [0.5]]), 1).ravel().tolist()
    [0.8999999761581421, 0.5]

    Args:
        box: the range of pixel values, which must be finite. Arrays give each feature a range of its own.
        channels: whether the last axis of an example holds the channels of one pixel; None decides as above. Give True
            for sequences `[T, C]` whose time steps change as a whole.

    Raises:
        ValueError: the box is empty or not finite, or its ends are arrays that do not fit each other.

    Source: Croce & Hein 2019, *Sparse and Imperceivable Adversarial Attacks*, section 3. The ascent step is ours.
    """
    box = check_box(box)
    if all(map(_check.concrete, box)) and not all(np.isfinite(end).all() for end in box):
        raise ValueError(
            f"l0 needs a finite box, which bounds the changed pixels; got {_box.shown(box)}; use (0.0, 1.0)"
        )

    def grouped(x):
        """Whether the last axis of an example holds channels."""
        return x.ndim >= 3 if channels is None else channels

    def in_pixels(values):
        """The sum over the channels of each pixel."""
        return values.sum(-1) if grouped(values) else values

    def top_pixels(score, eps, like):
        order = jnp.argsort(-score.ravel(), stable=True)
        rank = jnp.zeros(score.size, jnp.int32).at[order].set(jnp.arange(score.size, dtype=jnp.int32))
        # the count is an integer: a radius between two counts means the lower one, and bfloat16 cannot hold 257
        count = jnp.floor(jnp.minimum(eps, score.size)).astype(jnp.int32)
        chosen = (rank < count).reshape(score.shape) & (score > 0)
        return chosen[..., None] if grouped(like) else chosen

    def project(z, x, eps):
        inside = jnp.clip(z, *_box.ends(box, x))
        gain = in_pixels((z - x) ** 2 - (z - inside) ** 2)
        return jnp.where(top_pixels(gain, eps, x), inside, x)

    def sample(key, x, eps):
        pixel_key, value_key = jax.random.split(key)
        pixels = x.shape[:-1] if grouped(x) else x.shape
        chosen = top_pixels(draw(jax.random.uniform, pixel_key, pixels, x.dtype, 1e-3), eps, x)
        return jnp.where(chosen, draw(jax.random.uniform, value_key, x.shape, x.dtype, *_box.ends(box, x)), x)

    def ascent(gradient, z, eps):
        gradient = movable(gradient, z, box)
        low, high = _box.ends(box, z)
        moved = jnp.where(top_pixels(in_pixels(jnp.abs(gradient)), eps, z), jnp.sign(gradient), 0)
        return moved * (high - low) * 40 / jnp.maximum(eps, 1)

    def distance(z, x):
        changed = z != x
        return (changed.any(-1) if grouped(x) else changed).sum().astype(wide_dtype(x.dtype))

    name = "l0" if channels is None else f"l0-{'channels' if channels else 'features'}"
    return Threat(sample, ascent, project, distance, box, name, counts=True)
