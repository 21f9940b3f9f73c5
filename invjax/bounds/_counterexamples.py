"""The search for an image of a region that the model misclassifies: projected gradient descent on margins."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from invjax._conv import fast_convs
from invjax.bounds._regions import Ball, Region, box_of
from invjax.types import ApplyFn, Params

_STEPS = 20


def misclassified(
    apply_fn: ApplyFn, params: Params, region: Region, label: jax.Array, points: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Images of the region of one example, and whether the model misclassifies them.

    Each step goes along the sign of the gradient in a box, and along the gradient in a ball, and is projected to the
    region. The first steps are half of the region's radius long, the last ones a hundredth. The start counts, too.

    Args:
        apply_fn: `(params, x) -> logits [B, K]`.
        params: parameters of the model.
        region: a box or a ball, without the axis of the batch.
        label: the class of the example.
        points: `[S, ...]`, the points from which the descent starts; those outside of the region are moved into it.
        targets: `[S]`, the class whose logit grows against that of the label.

    Returns:
        The first misclassified image of each descent, `[S, ...]`, and whether there is one, `[S]`.
    """
    model = fast_convs(partial(apply_fn, params))

    def margin(x):
        logits = model(x)
        return (logits[:, label] - logits[jnp.arange(len(x)), targets]).sum(), logits

    def step(carry, fraction):
        x, first, found = carry
        gradient, logits = jax.grad(margin, has_aux=True)(x)
        fooled = (logits.argmax(-1) != label) | jnp.isnan(logits).any(-1)
        new = (fooled & ~found).reshape(-1, *[1] * (x.ndim - 1))
        return (_moved(x, gradient, region, fraction), jnp.where(new, x, first), found | fooled), None

    fractions = jnp.asarray(np.geomspace(0.5, 0.01, _STEPS), points.dtype)
    points = _projected(points, region)
    start = (points, points, jnp.zeros(len(points), bool))
    (_, first, found), _ = lax.scan(step, start, fractions)
    return first, found


def _moved(x: jax.Array, gradient: jax.Array, region: Region, fraction: jax.Array) -> jax.Array:
    """A step against the gradient; its length is a fraction of the region's radius."""
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
    if isinstance(region, Ball):
        return _projected(x - fraction * region.radius * gradient / _length(gradient), region)
    reach = ((region.upper - region.lower) / 2)[None]
    return _projected(x - fraction * reach * jnp.sign(gradient), region)


def _projected(x: jax.Array, region: Region) -> jax.Array:
    """Points of the region: in a ball, the change is shortened to the radius and then clipped to the box."""
    box = box_of(region)
    if isinstance(region, Ball):
        change = x - region.center[None]
        x = jnp.asarray(region.center)[None] + change * jnp.minimum(1, region.radius / _length(change))
    return jnp.clip(x, box.lower[None], box.upper[None])


def _length(change: jax.Array) -> jax.Array:
    square = (change**2).sum(tuple(range(1, change.ndim)), keepdims=True)
    return jnp.sqrt(jnp.where(square > 0, square, 1))
