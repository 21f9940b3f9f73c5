"""Functions from which attacks are built. An attack of your own is a loop between these functions:

    def attack(threat, key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        logits_fn, x, eps = prepare(logits_fn, x, labels, eps, threat.box)
        keys = example_keys(key, ids, len(x))                    # random numbers that do not depend on the batch
        ...
        return finish(logits_fn, threat.distance, found, x, labels, value, trace)

    Attack(by_image(threat, attack), threat, targeted=False, recipe=recipe("mine", threat, steps=10))

`by_image` gives the attack its threat, which may differ between images. `climb` is the loop of every gradient attack of
this library.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from invjax import _box, _check, _logits
from invjax._conv import fast_convs
from invjax._dtypes import wide
from invjax._keys import example_keys
from invjax._sharding import varying
from invjax.attacks._attack import (
    AttackResult,
    check_attack,
    check_images,
    check_prediction,
    check_radius,
    check_result,
    recipe,
    sound,
    warn_of_gradients,
)
from invjax.attacks._by_image import by_image
from invjax.attacks._random_model import bind, judged, through
from invjax.attacks._success import fooled, succeeds, verdict
from invjax.attacks._threats import Threat, check_mask, check_threat
from invjax.types import Array, Box, Labels, LogitsFn, PerExample, Scalar

__all__ = [
    "bind",
    "by_image",
    "check_attack",
    "check_images",
    "check_mask",
    "check_prediction",
    "check_radius",
    "check_result",
    "check_threat",
    "climb",
    "example_keys",
    "finish",
    "fooled",
    "judged",
    "prepare",
    "recipe",
    "same_threat",
    "sound",
    "succeeds",
    "through",
    "value_and_gradient",
    "varying",
    "warn_of_gradients",
    "where",
]


def same_threat(a: Threat, b: Threat) -> bool:
    """Whether two threats have the same name, the same box and the same mask.

    Args:
        a: a threat, such as `linf()`.
        b: the threat to compare with `a`.

    Returns:
        True if the names, the boxes and the masks are equal. The functions of the two records are not compared.
    """
    return _box.same((a.name, a.box, a.mask), (b.name, b.box, b.mask))


def prepare(
    logits_fn: LogitsFn, x: Array, labels: Labels, eps: Scalar, box: Box
) -> tuple[LogitsFn, jax.Array, jax.Array]:
    """Check the arguments of an attack, make the model's gradients fast inside loops, and search in float32.

    Half precision would round a small step to nothing, so the attack sees float32 images and logits, and the model gets
    images of the given dtype.

    Args:
        logits_fn: the model, `x [B, ...] -> logits [B, K]`.
        x: `[B, ...]` images.
        labels: `[B]` class indices.
        eps: the radius of the ball, one number.
        box: the range of pixel values.

    Returns:
        The model, the images, and `eps` as an array, in float32 or wider.

    Raises:
        ValueError: integer or NaN images, images outside of the box, labels of another shape or out of range, an
            `eps` that is negative or an array, a model whose output is not `[B, K]`.
    """
    _check.within("x", x, box)
    _check.number("eps", eps)
    _check.labels(labels, _logits.num_classes(logits_fn, x, labels))
    of_dtype = jnp.asarray(x).dtype
    x, model = wide(x), through(logits_fn, fast_convs)
    if x.dtype != of_dtype:
        model = through(model, lambda given: lambda z: wide(given(z.astype(of_dtype))))
    return model, x, jnp.asarray(eps, x.dtype)


def where(mask: Bool[Array, " batch"], new: Any, old: Any) -> Any:
    """Choose `new` where the mask is true and `old` elsewhere, example by example, for two pytrees of `[B, ...]`.

    Args:
        mask: `[B]`, one truth value for each example.
        new: a pytree of arrays `[B, ...]`, taken where the mask is true.
        old: a pytree of the same structure, taken elsewhere.

    Returns:
        A pytree of the same structure.
    """
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), new, old)


def finish(
    logits_fn: LogitsFn,
    threat_distance: Callable,
    found: Array,
    x: Array,
    labels: Labels,
    loss: PerExample,
    trace: Array,
    finite_gradients: Bool[Array, " batch"] | None = None,
    *,
    targeted: bool = False,
) -> AttackResult:
    """Make the result of an attack, with success and distance computed from the images that it found.

    Args:
        logits_fn: the model.
        threat_distance: `Threat.distance`.
        found: `[B, ...]`, the best images.
        x: `[B, ...]`, the original images.
        labels: `[B]`, the true classes, or the targets.
        loss: `[B]`, the loss at the images found.
        trace: `[B, steps]`, the loss after each step.
        finite_gradients: `[B]`, whether all gradients were finite; None for an attack without gradients.
        targeted: whether the labels are targets.

    """
    none, success = verdict(logits_fn, jnp.asarray(found), labels, targeted)
    result = AttackResult(
        x=found,
        success=success,
        distance=jax.vmap(threat_distance)(found, x),
        loss=jnp.where(none, jnp.nan, _without_nan(loss)),
        trace=trace,
        finite_gradients=jnp.ones(len(x), bool) if finite_gradients is None else finite_gradients,
    )
    return varying(x, result)


def value_and_gradient(
    objective: Callable[[Array], tuple[PerExample, Any]], z: Array
) -> tuple[tuple[PerExample, Any], Array, Bool[Array, " batch"]]:
    """Values and gradients of an objective that treats each example by itself.

    Args:
        objective: `z [B, ...] -> (values [B], aux)`, where each value depends only on its own example, and `aux` is any
            pytree of arrays.
        z: `[B, ...]`, the points at which the objective is evaluated.

    Returns:
        `((values [B], aux), gradients [B, ...], finite [B])`. Values that are NaN are minus infinity. Entries of a
        gradient that are NaN or infinite are 0, and `finite` says which examples have none.
    """

    def total(z):
        values, aux = objective(z)
        return values.sum(), (values, aux)

    gradient, out = jax.grad(total, has_aux=True)(z)
    finite = jnp.isfinite(gradient)
    values, aux = out
    return (_without_nan(values), aux), jnp.where(finite, gradient, 0), finite.reshape(len(z), -1).all(1)


def _without_nan(values: PerExample) -> PerExample:
    """A value that is NaN is worse than any other."""
    return jnp.where(jnp.isnan(values), -jnp.inf, values)


def climb(
    objective: Callable[[Array], tuple[PerExample, Array]],
    threat: Threat,
    start: Array,
    x: Array,
    eps: Scalar,
    step_sizes: Array,
    *,
    stepwise: bool = False,
) -> tuple[Array, PerExample, Array, Bool[Array, " batch"]]:
    """Projected ascent, the loop of every gradient attack.

    Args:
        objective: `z [B, ...] -> (value to maximise [B], whether z is a success [B])`.
        threat: the threat, which defines the projection and the direction of ascent.
        start: `[B, ...]`, the first points, inside the ball.
        x: `[B, ...]`, the center of the ball.
        eps: the radius of the ball.
        step_sizes: `[steps]`, the length of each step.
        stepwise: whether the objective also takes the number of the step, `objective(z, step)`, so that a random model
            draws anew at each step (see `judged`).

    Returns:
        The best iterate of each example `[B, ...]`, its value `[B]`, the values after each step `[B, steps]`, and
        whether all gradients were finite `[B]`. A success is better than any failure, and a larger value is better
        than a smaller one. The start is no candidate.
    """
    ascent, project = jax.vmap(threat.ascent, (0, 0, None)), jax.vmap(threat.project, (0, 0, None))

    def at(i):
        return partial(objective, step=i) if stepwise else objective

    def better(best, new):
        (_, value, success), (_, new_value, new_success) = best, new
        improved = (new_success & ~success) | ((new_success == success) & (new_value > value))
        return where(improved, new, best)

    def step(carry, i_step_size):
        (i, step_size), (z, best, finite) = i_step_size, carry
        (value, success), gradient, finite_here = value_and_gradient(at(i), z)
        best = better(best, (z, jnp.where(i > 0, value, -jnp.inf), success & (i > 0)))  # the start is no candidate
        return (project(z + step_size * ascent(gradient, z, eps), x, eps), best, finite & finite_here), value

    count, steps = len(x), len(step_sizes)
    none = x, jnp.full(count, -jnp.inf, jax.eval_shape(at(0), x)[0].dtype), jnp.zeros(count, bool)
    first = varying(x, (start, none, jnp.ones(count, bool)))
    (last, best, finite), trace = jax.lax.scan(step, first, (jnp.arange(steps), step_sizes))
    value, success = at(steps)(last)
    value = _without_nan(value)
    found, best_value, _ = better(best, (last, value, success))
    return found, best_value, jnp.concatenate([trace[1:], value[None]]).T, finite


def best_of(run: Callable[[Array], AttackResult], count: int, better: Callable[[Any, Any], Array]) -> AttackResult:
    """The best of `run(0), ..., run(count - 1)` for each example; all runs but the first share one compiled loop.

    Args:
        run: `i -> AttackResult`, where i is a traced integer.
        count: the number of runs, at least 1.
        better: `(new, best) -> [B]`, where the new result replaces the best one so far.
    """
    first = run(jnp.zeros((), jnp.int32))
    if count == 1:  # with `jax.disable_jit` an empty loop is an error
        return first

    def step(best, i):
        new = run(i)
        return where(better(new, best), new, best), None

    return jax.lax.scan(step, first, jnp.arange(1, count))[0]
