"""What an attack is, and how to combine attacks.

An attack is a pure function of a batch,

    attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None) -> AttackResult

with everything static (threat, loss, number of steps) fixed by the factory that made it. `eps` and `step_size` are
traced numbers: one compilation serves a whole curve. Example i draws its random numbers from `fold_in(key, ids[i])`, so
with `ids` its position in the data set an image gets the same adversarial example in any batch, order or number of
devices.

None of them is jitted inside; `jit_attack` does it so that new parameters do not compile again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from invjax import _check
from invjax._conv import fast_convs
from invjax.attacks.threats import Bounds
from invjax.types import ApplyFn, Array, Key, Labels, LogitsFn, Params, PerExample, Scalar


class AttackResult(NamedTuple):
    """What an attack found, for each example.

    Attributes:
        x: `[B, ...]`, the best image found: a successful one if there is any, then the one of largest loss.
        success: `[B]`, computed again from `x`: the prediction is not the label (for a targeted attack: is the target).
        distance: `[B]`, from the original, in the units of `eps`.
        loss: `[B]`, what the attack climbs, at `x`.
        trace: `[B, steps]`, that loss after each step.
    """

    x: Float[Array, "batch ..."]
    success: Bool[Array, " batch"]
    distance: PerExample
    loss: PerExample
    trace: Float[Array, "batch steps"]


Attack = Callable[..., AttackResult]
"""`(key, logits_fn, x [B, ...], labels [B], *, eps, step_size=None, ids=None) -> AttackResult`."""


def bounded(attack: Attack, bounds: Bounds | None, targeted: bool | None = None) -> Attack:
    """Note on an attack the box in which its images lie, so that what compiles it can check them before.

    Likewise whether its labels are classes to reach; None where that is not known.
    """
    attack.bounds, attack.targeted = bounds, targeted  # type: ignore[attr-defined]
    return attack


def check_images(attack: Attack, x: Array, name: str = "x") -> None:
    """Images that the attack can take.

    Raises:
        ValueError: integer or NaN images, or outside of the attack's bounds where those are known.
    """
    bounds = getattr(attack, "bounds", None)
    _check.within(name, x, (-jnp.inf, jnp.inf) if bounds is None else bounds)


def prepare(
    logits_fn: LogitsFn, x: Array, labels: Labels, eps: Scalar, bounds: Bounds
) -> tuple[LogitsFn, jax.Array, jax.Array]:
    """Check what the user gave, and make the model's gradients fast inside loops.

    Returns:
        The model, the images and `eps` as an array of their dtype.

    Raises:
        ValueError: integer or NaN images, images outside of the bounds, labels of another shape or out of range, an
            `eps` that is negative or an array, a model whose output is not `[B, K]`.
    """
    _check.within("x", x, bounds)
    _check.number("eps", eps)
    _check.labels(labels, _check.logits_of(logits_fn, x, labels))
    x = jnp.asarray(x)
    return fast_convs(logits_fn), x, jnp.asarray(eps, x.dtype)


def example_keys(key: Key, ids: Any, count: int) -> jax.Array:
    """One key for each example, by its id: `[count]`."""
    if ids is not None and ids.shape != (count,):
        raise ValueError(f"ids must have shape [{count}], one for each image; got {ids.shape}")
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count) if ids is None else ids)


def where(mask: Bool[Array, " batch"], new: Any, old: Any) -> Any:
    """Choose between two pytrees of `[B, ...]`, example by example."""
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), new, old)


def fooled(logits: Float[Array, "batch classes"], labels: Labels, targeted: bool = False) -> Bool[Array, " batch"]:
    """Where the prediction is not the label, or is the target; never where a logit is NaN."""
    predicted = logits.argmax(-1)
    return (predicted == labels if targeted else predicted != labels) & ~jnp.isnan(logits).any(-1)


def finish(
    logits_fn: LogitsFn,
    threat_distance: Callable,
    found: Array,
    x: Array,
    labels: Labels,
    loss: PerExample,
    trace: Array,
    targeted: bool = False,
) -> AttackResult:
    """The result for the images `found`: what they do to the model is computed from them once more."""
    logits = logits_fn(jnp.asarray(found))
    _check.finite("the model's logits", logits)
    return AttackResult(found, fooled(logits, labels, targeted), jax.vmap(threat_distance)(found, x), loss, trace)


def worst_of(attacks: Sequence[Attack]) -> Attack:
    """All attacks on all examples; for each example the first success, or else the first attack's result.

    The loss is that of the attack that gave the result; the traces are joined.

    Args:
        attacks: at least one, of the same threat.
    """
    attacks = tuple(attacks)
    if not attacks:
        raise ValueError("worst_of needs at least one attack; got none")

    def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        results = [
            a(jax.random.fold_in(key, i), logits_fn, x, labels, eps=eps, step_size=step_size, ids=ids)
            for i, a in enumerate(attacks)
        ]
        best = results[0]._replace(trace=None)
        for result in results[1:]:
            best = where(~best.success & result.success, result._replace(trace=None), best)
        return best._replace(trace=jnp.concatenate([result.trace for result in results], 1))

    return bounded(attack, getattr(attacks[0], "bounds", None))


def restarts(attack: Attack, n: int) -> Attack:
    """The attack from `n` random starts; for each example a success if there is one, and then the largest loss.

    One compiled loop, whatever `n` is. The first start is that of `fold_in(key, 0)`.

    Args:
        attack: one that draws from its key.
        n: at least 1.
    """
    _check.positive(n=n)

    def repeated(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        def run(i):
            start = jax.random.fold_in(key, i)
            return attack(start, logits_fn, x, labels, eps=eps, step_size=step_size, ids=ids)

        def step(best, i):
            new = run(i)
            better = (new.success & ~best.success) | ((new.success == best.success) & (new.loss > best.loss))
            return where(better, new, best), None

        return jax.lax.scan(step, run(jnp.zeros((), jnp.int32)), jnp.arange(1, n))[0]

    return bounded(repeated, getattr(attack, "bounds", None))


def jit_attack(attack: Attack, apply_fn: ApplyFn) -> Callable[..., AttackResult]:
    """Compile an attack on a model once for each shape; new parameters, keys and radii do not compile again.

    (`jax.jit` over a closure of the parameters would: each closure is another function.)

    >>> from invjax import attacks
    >>> linear = lambda w, x: x @ w
    >>> run = jit_attack(attacks.fgsm(), linear)
    >>> x, labels = jnp.array([[0.5, 0.4]]), jnp.array([0])
    >>> run(jnp.eye(2), jax.random.key(0), x, labels, eps=0.25).x.tolist()
    [[0.25, 0.6499999761581421]]

    Args:
        attack: any attack.
        apply_fn: `(params, x) -> logits`.

    Returns:
        `(params, key, x, labels, *, eps, step_size=None, ids=None) -> AttackResult`. It checks the values that it is
        given before it compiles.
    """

    @jax.jit
    def run(params, key, x, labels, eps, step_size, ids):
        return attack(key, partial(apply_fn, params), x, labels, eps=eps, step_size=step_size, ids=ids)

    # traced for its shape once, not at every call
    shaped = jax.jit(apply_fn)

    def compiled(
        params: Params,
        key: Key,
        x: Array,
        labels: Labels,
        *,
        eps: Scalar,
        step_size: Scalar | None = None,
        ids: Any = None,
    ) -> AttackResult:
        _check.number("eps", eps)
        check_images(attack, x)
        _check.labels(labels, _check.logits_of(partial(shaped, params), x, labels))
        if step_size is not None:
            _check.number("step_size", step_size)
            step_size = jnp.asarray(step_size, x.dtype)
        return run(params, key, x, labels, jnp.asarray(eps, x.dtype), step_size, ids)

    return compiled
