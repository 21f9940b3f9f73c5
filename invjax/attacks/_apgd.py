r"""Auto-PGD: projected ascent with momentum that finds its own step size.

At checkpoints that come ever more often, an example whose loss rose in at most three quarters of the last steps, or
whose best loss has not improved, halves its step and goes back to its best point:

    z_{i+1} = project(z_i + 0.75 (project(z_i + step ascent) - z_i) + 0.25 (z_i - z_{i-1})).

In l1 the step moves as many coordinates as the best point so far has moved, divided by 1.5, without momentum, and the
radius shrinks from 3 eps over 2 eps to eps.

Sources: Croce & Hein 2020, *Reliable Evaluation of Adversarial Robustness*, algorithm 1; Croce & Hein 2021, *Mind the
Box*, algorithm 1. The default loss has the gradient direction of cross-entropy and does not saturate.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.attacks._attack import Attack, AttackResult, recipe
from invjax.attacks._gradient import Loss
from invjax.attacks._threats import Threat, linf
from invjax.attacks.building import example_keys, finish, fooled, prepare, value_and_gradient, where
from invjax.losses import log_odds, targeted_dlr
from invjax.types import Array, PerExample, Scalar


def _l1_schedule(steps: int) -> tuple[tuple[int, int], ...]:
    """Radius, in units of eps, and steps at it: 30, 30 and 40 % of them, three at the least."""
    early = max(1, round(0.3 * steps))
    return (3, early), (2, early), (1, max(1, steps - 2 * early))


def _checkpoints(steps: int, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """For each step: whether a checkpoint follows it, and how many steps it looks back on."""
    window = max(int((0.04 if norm == "l1" else 0.22) * steps), 1)
    shortest, shrink = (window, 0) if norm == "l1" else (max(int(0.06 * steps), 1), max(int(0.03 * steps), 1))
    check, length, since = np.zeros(steps, bool), np.ones(steps, np.int32), 0
    for i in range(steps):
        since += 1
        if since == window:
            check[i], length[i], since = True, window, 0
            window = max(window - shrink, shortest)
    return check, length


def _expand(values, like):
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def _ascend(
    objective: Callable[[Array], tuple[PerExample, Array]],
    threat: Threat,
    start: Array,
    x: Array,
    eps: Scalar,
    steps: int,
    warm: bool,
) -> tuple[tuple, Array, Array]:
    """One run at one radius: `(found, value, success) of the best adversarial point, point of largest loss, trace`."""
    sparse = threat.name == "l1"
    project = jax.vmap(threat.project, (0, 0, None))
    size = x[0].size
    full_step = (1 if sparse else 2) * eps

    def moved_count(z):
        return (z != x).reshape(len(x), -1).sum(1).astype(x.dtype)

    def sparse_ascent(gradient, share):
        ordered = jnp.sort(jnp.abs(gradient).ravel())
        smallest = ordered[jnp.clip((1 - share) * size, 0, size - 1).astype(jnp.int32)]
        signs = jnp.where(jnp.abs(gradient) >= smallest, jnp.sign(gradient), 0)
        return signs / jnp.maximum(jnp.abs(signs).sum(), 1)

    def evaluate(z):
        (value, success), gradient = value_and_gradient(objective, z)
        return value, success, gradient

    value, success, gradient = evaluate(start)
    state = {
        "z": start,
        "before": start,
        "gradient": gradient,
        "value": value,
        "step": jnp.full(len(x), full_step, x.dtype),
        "best": (start, value, gradient),
        "found": (start, value, success),
        "rises": jnp.zeros(len(x), jnp.int32),
        "checked": value,  # the best loss at the last checkpoint
        "reduced": jnp.ones(len(x), bool),  # whether the step was halved there
        "share": moved_count(start) / size / 1.5 if warm else jnp.full(len(x), 0.2, x.dtype),
        "moved": moved_count(start) if warm else jnp.full(len(x), size, x.dtype),
    }

    def move(s, momentum):
        if sparse:
            return project(s["z"] + _expand(s["step"], x) * jax.vmap(sparse_ascent)(s["gradient"], s["share"]), x, eps)
        ascent = jax.vmap(threat.ascent, (0, 0, None))(s["gradient"], s["z"], eps)
        proposed = project(s["z"] + _expand(s["step"], x) * ascent, x, eps)
        return project(s["z"] + (1 - momentum) * (proposed - s["z"]) + momentum * (s["z"] - s["before"]), x, eps)

    def checkpoint(s, window):
        best, best_value, best_gradient = s["best"]
        if sparse:
            moved = moved_count(best)
            back = moved < 0.95 * s["moved"]
            step = jnp.clip(jnp.where(back, full_step, s["step"] / 1.5), full_step / 10, full_step)
            s = s | {"share": moved / size / 1.5, "moved": moved, "step": step}
        else:
            back = (s["rises"] <= 0.75 * window) | (~s["reduced"] & (s["checked"] >= best_value))
            s = s | {"step": jnp.where(back, s["step"] / 2, s["step"]), "reduced": back, "checked": best_value}
        z, gradient = where(back, (best, best_gradient), (s["z"], s["gradient"]))
        return s | {"z": z, "gradient": gradient, "rises": jnp.zeros_like(s["rises"])}

    def step(s, i):
        index, check, window = i
        z = move(s, jnp.where(index > 0, 0.25, 0.0).astype(x.dtype))
        value, success, gradient = evaluate(z)
        _, found_value, found_success = s["found"]
        better = (success & ~found_success) | ((success == found_success) & (value > found_value))
        s = s | {
            "before": s["z"],
            "z": z,
            "gradient": gradient,
            "rises": s["rises"] + (value > s["value"]),
            "value": value,
            "best": where(value > s["best"][1], (z, value, gradient), s["best"]),
            "found": where(better, (z, value, success), s["found"]),
        }
        return jax.lax.cond(check, lambda s: checkpoint(s, window), lambda s: s, s), value

    check, window = _checkpoints(steps, threat.name)
    state, trace = jax.lax.scan(step, state, (jnp.arange(steps), check, window))
    return state["found"], state["best"][0], trace.T


def _attack(said: str, threat: Threat, steps: int, objective_for: Callable) -> Attack:
    """The attack whose objective is `objective_for(logits_fn, x, labels)`."""
    _check.positive(steps=steps)
    _check.one_of("the threat of apgd", threat.name, ("linf", "l2", "l1"))

    def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        del step_size  # it finds its own
        logits_fn, x, eps = prepare(logits_fn, x, labels, eps, threat.box)
        objective = objective_for(logits_fn, x, labels)
        sample = jax.vmap(threat.sample, (0, 0, None))
        keys = example_keys(key, ids, len(x))
        project = jax.vmap(threat.project, (0, 0, None))
        if threat.name != "l1":
            # on the sphere of the ball, as far as the box allows
            start = _outermost(threat, sample(keys, x, eps), x, eps)
            (found, value, _), _, trace = _ascend(objective, threat, start, x, eps, steps, False)
        else:
            start, traces = sample(keys, x, 3 * eps), []
            for i, (radius, count) in enumerate(_l1_schedule(steps)):
                run = partial(_ascend, objective, threat, eps=radius * eps, steps=count)
                start = project(start, x, radius * eps)
                (found, value, _), start, part = run(start=start, x=x, warm=i > 0)
                traces.append(part)
            trace = jnp.concatenate(traces, 1)
        return finish(logits_fn, threat.distance, found, x, labels, value, trace)

    return Attack(attack, threat, False, said)


def _outermost(threat, z, x, eps):
    """The point of the ball's surface in the direction of z."""
    distance = _expand(jax.vmap(threat.distance)(z, x), x)
    return jax.vmap(threat.project, (0, 0, None))(x + (z - x) * eps / jnp.where(distance > 0, distance, 1), x, eps)


def apgd(threat: Threat | None = None, *, steps: int = 100, loss: Loss = log_odds) -> Attack:
    """Auto-PGD on a loss.

    Args:
        threat: `linf()` (the default), `l2()` or `l1()`.
        steps: gradients taken.
        loss: what to climb: `losses.log_odds` is the "CE" form of the standard ensemble, `losses.dlr` its "DLR" form.

    Returns:
        An `Attack`; it takes no `step_size`.
    """

    def objective_for(logits_fn, x, labels):
        def objective(z):
            logits = logits_fn(z)
            return loss(logits, labels), fooled(logits, labels)

        return objective

    threat = linf() if threat is None else threat
    return _attack(recipe("apgd", threat, steps=steps, loss=loss), threat, steps, objective_for)


def apgd_toward(rank: Any, threat: Threat | None = None, *, steps: int = 100) -> Attack:
    """Auto-PGD towards one class: the `rank`-th most likely of the wrong ones, by the targeted DLR loss.

    Success is any wrong prediction.

    Args:
        rank: 0 is the most likely wrong class; may be a traced integer.
        threat: `linf()` (the default), `l2()` or `l1()`.
        steps: gradients taken.
    """

    def objective_for(logits_fn, x, labels):
        targets = wrong_class(logits_fn(x), labels, rank)

        def objective(z):
            logits = logits_fn(z)
            return targeted_dlr(logits, labels, targets), fooled(logits, labels)

        return objective

    threat = linf() if threat is None else threat
    return _attack(recipe("apgd_toward", threat, rank=rank, steps=steps), threat, steps, objective_for)


def wrong_class(logits: Array, labels: Array, rank: Any) -> Array:
    """The `rank`-th most likely class among those that are not the label, `[B]`."""
    is_label = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    order = jnp.argsort(jnp.where(is_label, jnp.inf, -logits), axis=-1)
    return jnp.take(order, jnp.asarray(rank), axis=1).astype(labels.dtype)


def over_ranks(toward: Callable[[Any], Attack], ranks: int, name: str, **settings: Any) -> Attack:
    """One attack towards each of the first `ranks` wrong classes; the best result of each example.

    Args:
        toward: `rank -> Attack`, traced.
        ranks: how many.
        name: of the attack, for its recipe.
        **settings: of the attack, for its recipe.
    """
    _check.positive(ranks=ranks)

    def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        classes = _check.logits_of(logits_fn, x, labels)
        if ranks >= classes:
            raise ValueError(f"targets must be less than the {classes} classes of the model; got {ranks}")

        def run(rank) -> AttackResult:
            return toward(rank)(jax.random.fold_in(key, rank), logits_fn, x, labels, eps=eps, ids=ids)

        def step(best, rank):
            new = run(rank)
            nearer = (new.success & ~best.success) | (new.success & best.success & (new.distance < best.distance))
            return where(nearer, new, best), None

        return jax.lax.scan(step, run(jnp.zeros((), jnp.int32)), jnp.arange(1, ranks))[0]

    first = toward(0)
    return first._replace(run=attack, recipe=recipe(name, first.threat, **settings))


def apgd_targeted(threat: Threat | None = None, *, steps: int = 100, targets: int = 9) -> Attack:
    """Auto-PGD towards each of the `targets` most likely wrong classes in turn.

    Args:
        threat: `linf()` (the default), `l2()` or `l1()`.
        steps: gradients taken for each class.
        targets: less than the number of classes.
    """
    return over_ranks(
        lambda rank: apgd_toward(rank, threat, steps=steps), targets, "apgd_targeted", steps=steps, targets=targets
    )
