"""The l1 threat: the sum of the absolute changes of all pixel values is bounded."""

import jax
import jax.numpy as jnp

from invjax import _box
from invjax._dtypes import wide
from invjax.attacks._roots import l1_threshold
from invjax.attacks._threats._threat import Threat, check_box, descent, draw, movable, unlimited
from invjax.types import Box


def l1(box: Box = (0.0, 1.0), fraction: float = 0.01) -> Threat:
    r"""The absolute changes sum to at most `eps`.

        distance(z, x) = sum_i |z_i - x_i|

    `project` is the exact Euclidean projection onto the intersection of ball and box. With `d = z - x` and with `c` the
    largest change of each coordinate inside the box, the projection is `x + sign(d) min(max(|d| - t, 0), c)`, where the
    threshold `t >= 0` makes the absolute values sum to `eps`. Newton's method finds `t` without sorting.

    `ascent` spreads its step evenly over the given fraction of coordinates, those with the largest gradient among the
    coordinates that stay inside the box.

    >>> free = l1(box=(-jnp.inf, jnp.inf))
    >>> free.project(jnp.array([3.0, -2.0, 1.0, 0.5]), jnp.zeros(4), 2.0).tolist()
    [1.5, -0.5, 0.0, 0.0]

    Args:
        box: the range of pixel values; `(-inf, inf)` sets no limit. Arrays give each feature a range of its own.
        fraction: fraction of the coordinates that a step moves, in (0, 1].

    Raises:
        ValueError: the box is empty, its ends are arrays that do not fit each other, or `fraction` is outside (0, 1].

    Source: Tramèr & Boneh 2019, *Adversarial Training and Robustness for Multiple Perturbations* (the sparse l1
    descent attack); Croce & Hein 2021, *Mind the Box* (the projection).
    """
    box = check_box(box)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1]; got {fraction}; the default is 0.01")

    def project(z, x, eps):
        low, high = _box.ends(box, x)
        if unlimited(eps):
            return jnp.clip(z, low, high)
        change = z - x
        size, cap = jnp.abs(change), jnp.where(change > 0, high - x, x - low)
        threshold = l1_threshold(size, cap, eps)
        moved = x + jnp.sign(change) * jnp.clip(size - threshold, 0, cap)
        return jnp.where(eps > 0, jnp.clip(moved, low, high), x)  # the clip removes rounding errors

    def sample(key, x, eps):
        direction_key, radius_key = jax.random.split(key)
        direction = draw(jax.random.laplace, direction_key, x.shape, x.dtype)
        radius = eps * jax.random.uniform(radius_key, (), x.dtype) ** (1 / x.size)
        return project(x + radius * direction / jnp.abs(direction).sum(), x, eps)

    def ascent(gradient, z, eps):
        count = max(1, round(fraction * gradient.size))
        return _top_signs(movable(gradient, z, box), count)

    def to_hyperplane(point, normal, offset):
        """The steepest coordinates move first, each of them to the edge of the box."""
        way, zero = descent(point, normal, offset, box), jnp.zeros((), point.dtype)
        order = jnp.argsort(-way.slope)
        before = jnp.concatenate([zero[None], jnp.cumsum((way.slope * way.cap)[order])[:-1]])
        spent = jnp.clip((way.missing - before) / jnp.maximum(way.slope[order], 1e-30), 0, way.cap[order])
        return way.step(jnp.zeros_like(way.cap).at[order].set(spent))

    return Threat(
        sample=sample,
        ascent=ascent,
        project=project,
        distance=lambda z, x: jnp.abs(wide(z) - wide(x)).sum(),
        box=box,
        name="l1" if fraction == 0.01 else f"l1-fraction-{fraction:g}",
        order=1,
        sparse=True,
        to_hyperplane=to_hyperplane,
    )


def _top_signs(gradient, count):
    """The signs of the `count` largest entries, divided by their number."""
    size = jnp.abs(gradient)
    smallest = jax.lax.top_k(size.ravel(), count)[0][-1]
    chosen = jnp.where((size >= smallest) & (size > 0), jnp.sign(gradient), 0)
    return chosen / jnp.maximum(jnp.abs(chosen).sum(), 1)
