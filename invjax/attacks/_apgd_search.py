r"""The search of Auto-PGD: projected ascent whose step size adapts to the rise of the loss.

`search` is the loop, and `ascend` is its form for linf and l2:

    z_{i+1} = project(z_i + 0.75 (project(z_i + step ascent) - z_i) + 0.25 (z_i - z_{i-1})).

The intervals between checkpoints shrink. At a checkpoint, the search halves the step of an example and returns to its
best point if the loss rose in at most three quarters of the last steps, or if the best loss has not improved.

Source: Croce & Hein 2020, *Reliable Evaluation of Adversarial Robustness*, algorithm 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax._sharding import varying
from invjax.attacks._threats import Threat
from invjax.attacks.building import value_and_gradient, where
from invjax.types import Array, PerExample, Scalar

Objective = Callable[[Array, Scalar], tuple[PerExample, Array]]
"""`(z [B, ...], step) -> (value to maximise [B], whether z is a success [B])`; a random model draws for each step."""


class Search(NamedTuple):
    """The state of one run of Auto-PGD on a batch.

    Attributes:
        z: `[B, ...]`, the current point.
        before: `[B, ...]`, the point before it.
        gradient: `[B, ...]`, the gradient at the current point.
        value: `[B]`, the loss at the current point.
        step: `[B]`, the step size.
        best: the point of largest loss, its loss, its gradient.
        found: the best adversarial point (a success if there is one, then the largest loss), its loss, its success.
        rises: `[B]`, the number of steps since the last checkpoint that raised the loss.
        memory: the memory of the step-size rule from the last checkpoint, `Halving` or `Support`.
        finite: `[B]`, whether all gradients so far were finite.
    """

    z: Array
    before: Array
    gradient: Array
    value: Array
    step: Array
    best: tuple[Array, Array, Array]
    found: tuple[Array, Array, Array]
    rises: Array
    memory: Any
    finite: Array


class Halving(NamedTuple):
    """The memory of the step-size rule for linf and l2.

    Attributes:
        checked: `[B]`, the best loss at the last checkpoint.
        reduced: `[B]`, whether the step was halved at that checkpoint.
    """

    checked: Array
    reduced: Array


class Run(NamedTuple):
    """The result of one search.

    Attributes:
        found: the best adversarial point, its loss, its success.
        best: `[B, ...]`, the point of largest loss.
        trace: `[B, steps]`, the loss after each step.
        finite: `[B]`, whether all gradients were finite.
    """

    found: tuple[Array, Array, Array]
    best: Array
    trace: Array
    finite: Array


def schedule(steps: int, window: float, shortest: float, shrink: float) -> tuple[np.ndarray, np.ndarray]:
    """The checkpoints of a run.

    Args:
        steps: number of steps of the run.
        window: number of steps before the first checkpoint, as a fraction of the run.
        shortest: smallest number of steps between two checkpoints, as a fraction of the run.
        shrink: number of steps by which each window is shorter than the one before it, as a fraction of the run.

    Returns:
        For each step, whether a checkpoint follows it, and the number of steps in the window of that checkpoint.
    """
    length = max(int(window * steps), 1)
    least, less = max(int(shortest * steps), 1), max(int(shrink * steps), 1) if shrink else 0
    check, looks_back, since = np.zeros(steps, bool), np.ones(steps, np.int32), 0
    for i in range(steps):
        since += 1
        if since == length:
            check[i], looks_back[i], since = True, length, 0
            length = max(length - less, least)
    return check, looks_back


def expand(values: Array, like: Array) -> Array:
    """Reshape one number for each example, `[B]`, so that it broadcasts against `like`."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def search(
    objective: Objective,
    start: Array,
    step: Array,
    remember: Callable[[PerExample], Any],
    checkpoints: tuple[np.ndarray, np.ndarray],
    move: Callable[[Search, Scalar], Array],
    check: Callable[[Search, Scalar], tuple[Array, Array, Any]],
) -> Run:
    """The loop of Auto-PGD at one radius.

    Args:
        objective: the function to maximise.
        start: `[B, ...]`, the first points, inside the ball.
        step: `[B]`, the first step size.
        remember: `loss of the start [B] -> memory`, the first memory of the step-size rule.
        checkpoints: the checkpoints, as `schedule` returns them.
        move: `(state, momentum) -> z`, the next point.
        check: `(state, window) -> (back [B], step [B], memory)`, the step-size rule: whether each example returns
            to its best point, and its next step size.
    """

    def evaluate(z, step):
        (value, success), gradient, finite = value_and_gradient(lambda z: objective(z, step), z)
        return value, success, gradient, finite

    def checkpoint(s, window):
        back, step, memory = check(s, window)
        best, _, best_gradient = s.best
        z, gradient = where(back, (best, best_gradient), (s.z, s.gradient))
        return s._replace(z=z, gradient=gradient, step=step, rises=jnp.zeros_like(s.rises), memory=memory)

    def advance(s, i):
        index, at_checkpoint, window = i
        z = move(s, jnp.where(index > 0, 0.25, 0.0).astype(start.dtype))
        value, success, gradient, finite = evaluate(z, index)
        _, found_value, found_success = s.found
        better = (success & ~found_success) | ((success == found_success) & (value > found_value))
        s = s._replace(
            z=z,
            before=s.z,
            gradient=gradient,
            value=value,
            best=where(value > s.best[1], (z, value, gradient), s.best),
            found=where(better, (z, value, success), s.found),
            rises=s.rises + (value > s.value).astype(s.rises.dtype),
            finite=s.finite & finite,
        )
        return jax.lax.cond(at_checkpoint, lambda s: checkpoint(s, window), lambda s: s, s), value

    value, success, gradient, finite = evaluate(start, len(checkpoints[0]))
    state = Search(
        z=start,
        before=start,
        gradient=gradient,
        value=value,
        step=step,
        best=(start, value, gradient),
        found=(start, value, success),
        rises=jnp.zeros(len(start), jnp.int32),
        memory=remember(value),
        finite=finite,
    )
    state, trace = jax.lax.scan(advance, varying(start, state), (jnp.arange(len(checkpoints[0])), *checkpoints))
    return Run(state.found, state.best[0], trace.T, state.finite)


def ascend(objective: Objective, threat: Threat, start: Array, x: Array, eps: Scalar, steps: int) -> Run:
    """Auto-PGD in linf or l2: momentum, and steps that are halved where the loss stops rising.

    Args:
        objective: the function to maximise.
        threat: the linf or l2 threat.
        start: `[B, ...]`, the first points, inside the ball.
        x: `[B, ...]`, the center of the ball.
        eps: the radius of the ball; the first step is twice as long.
        steps: number of gradient steps.
    """
    project, ascent = jax.vmap(threat.project, (0, 0, None)), jax.vmap(threat.ascent, (0, 0, None))

    def move(s, momentum):
        proposed = project(s.z + expand(s.step, x) * ascent(s.gradient, s.z, eps), x, eps)
        return project(s.z + (1 - momentum) * (proposed - s.z) + momentum * (s.z - s.before), x, eps)

    def check(s, window):
        best_value = s.best[1]
        few_rises = s.rises.astype(x.dtype) <= 0.75 * window.astype(x.dtype)
        back = few_rises | (~s.memory.reduced & (s.memory.checked >= best_value))
        return back, jnp.where(back, s.step / 2, s.step), Halving(best_value, back)

    first = jnp.full(len(x), 2 * eps, x.dtype)
    remember = lambda value: Halving(value, jnp.ones(len(x), bool))  # noqa: E731
    return search(objective, start, first, remember, schedule(steps, 0.22, 0.06, 0.03), move, check)
