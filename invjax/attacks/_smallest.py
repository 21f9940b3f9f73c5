r"""The distance of an image from the decision boundary, by bisection over eps or along a line.

`smallest` turns an attack into one that finds, for each example, the smallest radius at which the attack succeeds.
That radius is an upper bound of the true distance; a stronger attack gives a tighter bound.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from invjax import _box, _check, _logits
from invjax._dtypes import wide
from invjax._sharding import automatic, varying
from invjax.attacks._attack import Attack, AttackResult, check_attack, check_images
from invjax.attacks._by_image import per_example
from invjax.attacks._success import verdict
from invjax.attacks.building import fooled, prepare, where
from invjax.types import Array, Box, Labels, LogitsFn, PerExample, Scalar


def smallest(attack: Attack, *, steps: int = 10) -> Attack:
    """The smallest radius at which `attack` succeeds, by bisection between 0 and `eps`.

    If an adversarial example lies strictly inside its ball, its distance replaces the radius as the upper end of the
    bracket. A targeted attack succeeds if it reaches the target.

    Args:
        attack: the attack to run at each radius.
        steps: number of bisections, after one run at radius 0 and one at `eps`; each bisection halves the uncertainty.

    Returns:
        An `Attack` with the same threat and target. In its result `x` is the nearest adversarial example found,
        `distance` is its distance, and `success` says whether there is one within `eps`. `loss` is minus the upper end
        of the bracket, and `trace [B, steps]` is that end after each bisection. Images on which the attack succeeds at
        radius 0 have distance 0 and are returned as the attack left them: unchanged, unless it moves images first.
        Images on which it never succeeds are returned unchanged, with distance 0.

    Raises:
        ValueError: `steps` is below 1, or `attack` is not an `Attack`.
    """
    _check.count(steps=steps)
    check_attack(attack)

    def bisected(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        check_images(attack, x, ids=ids)
        _check.number("eps", eps)
        _check.labels(labels, _logits.num_classes(logits_fn, x, labels))
        run, given = per_example(attack), jnp.asarray(x)
        x = wide(given)
        eps = jnp.asarray(eps, x.dtype)
        fraction = (
            None if step_size is None else step_size / jnp.where(eps > 0, eps, 1)
        )  # the step size stays the same fraction of the radius

        def step(carry, i):
            # the first radius is 0, where a success needs no change; the second is eps; then the bracket is halved
            low, high, found, success, from_start, finite = carry
            radius = jnp.where(i == 0, 0, jnp.where(i == 1, eps, (low + high) / 2))
            size = None if fraction is None else fraction * radius
            result = run(key, logits_fn, given, labels, eps=radius, step_size=size, ids=ids)
            from_start = from_start | (result.success & (i == 0))
            nearer = result.success & ~from_start & ((result.distance < high) | ~success)
            found, high = where(nearer, (result.x, jnp.minimum(result.distance, high)), (found, high))
            # at radius 0 an attack that moves images first may succeed with another image than x
            found, high = where(result.success & (i == 0), (result.x, jnp.zeros_like(high)), (found, high))
            low = jnp.where(result.success | (i < 2), low, radius)
            state = jnp.minimum(low, high), high, found, success | result.success, from_start
            return (*state, finite & result.finite_gradients), high

        zero, none = jnp.zeros(len(x), x.dtype), jnp.zeros(len(x), bool)
        start = zero, jnp.full(len(x), eps), x, none, none, ~none
        (_, high, found, success, _, finite), trace = jax.lax.scan(step, varying(x, start), jnp.arange(steps + 2))
        none, decided = verdict(logits_fn, found.astype(given.dtype), labels, attack.targeted, attack.decision)
        success, loss = success & decided, jnp.where(none, jnp.nan, -high)
        return AttackResult(found, success, jnp.where(success, high, 0), loss, trace[2:].T, finite)

    return replace(attack, run=bisected, recipe=f"smallest({attack.recipe}, steps={steps})")


@automatic
def line_search(
    logits_fn: LogitsFn,
    x: Array,
    labels: Labels,
    direction: Array,
    *,
    eps: Scalar,
    box: Box = (-jnp.inf, jnp.inf),
    points: int = 50,
    steps: int = 20,
) -> PerExample:
    """The smallest `t` in [0, eps] at which `x + t * direction`, clipped to `box`, is misclassified; else infinity.

    A first pass over `points` equally spaced values brackets the first crossing, and bisection then finds it to
    `eps / (points 2^steps)`. The search misses a misclassified segment between two of these points.

    Args:
        logits_fn: the model, `x [B, ...] -> logits [B, K]`.
        x: `[B, ...]` images.
        labels: `[B]`, their true classes.
        direction: `[B, ...]`, the direction of the line, in the units of x.
        eps: the largest t.
        box: the range of pixel values; by default it is unlimited, because clipping would distort power laws at small
            eps.
        points: number of points of the first pass.
        steps: number of bisections.

    Returns:
        `[B]`, the t of each image: 0 where the image itself is misclassified, infinity where the model errs
            nowhere on the line.

    Raises:
        ValueError: `direction` has another shape than `x`, `points` or `steps` is below 1, or the images, the labels
            or `eps` are such that every attack refuses them.
    """
    _check.count(points=points, steps=steps)
    _check.within("x", x, box)
    _check.array("direction", direction)
    if direction.shape != x.shape:
        raise ValueError(f"direction must have the shape of x, {x.shape}; got {direction.shape}; use attack_direction")
    logits_fn, x, eps = prepare(logits_fn, x, labels, eps, box)
    direction = wide(direction)

    def wrong(t):
        steps = t.reshape(t.shape + (1,) * (x.ndim - 1))
        return fooled(logits_fn(jnp.clip(x + steps * direction, *_box.ends(box, x))), labels)

    def scan_point(first, i):
        hit = wrong(jnp.full(len(x), eps * i.astype(x.dtype) / points, x.dtype)) & (first > points)
        return jnp.where(hit, i, first), None

    none = varying(x, jnp.full(len(x), points + 1))
    first = jax.lax.scan(scan_point, none, jnp.arange(points + 1))[0]
    high = eps * first.astype(x.dtype) / points
    low = eps * jnp.maximum(first - 1, 0).astype(x.dtype) / points

    def halve(carry, _):
        low, high = carry
        middle = (low + high) / 2
        hit = wrong(middle)
        return (jnp.where(hit, low, middle), jnp.where(hit, middle, high)), None

    (_, high), _ = jax.lax.scan(halve, (low, high), None, length=steps)
    return jnp.where(first == 0, 0, jnp.where(first > points, jnp.inf, high))


def distances(result: AttackResult) -> PerExample:
    """The distance of each success, and infinity for each failure, `[B]`.

    Args:
        result: the result of an attack on B images.

    Returns:
        The distances `[B]`, in the units of `eps`.
    """
    return jnp.where(result.success, result.distance, jnp.inf)
