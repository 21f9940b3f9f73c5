"""Is this robustness real? Checks of a model and of an attack on it, for what makes attacks fail for the wrong reason.

Each check reads the same evidence and returns a sentence or nothing. The list is that of Athalye et al. 2018,
*Obfuscated Gradients Give a False Sense of Security*, section 3.1, and Carlini et al. 2019, *On Evaluating Adversarial
Robustness*.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.attacks._attack import Attack
from invjax.attacks._gradient import pgd
from invjax.attacks._square import square
from invjax.attacks._threats import Threat, linf
from invjax.attacks.building import value_and_gradient
from invjax.losses import cross_entropy, margin
from invjax.types import ApplyFn, Array, Box, Key, Labels, Params, Scalar


class Finding(NamedTuple):
    """Something that makes an evaluation doubtful: the check's name, what was seen and what to do."""

    name: str
    message: str


class Evidence(NamedTuple):
    """What the checks look at, host arrays.

    Attributes:
        box: the range of pixel values.
        low: smallest pixel value.
        high: largest pixel value.
        logits: `[B, K]`.
        logits_again: the same, computed a second time.
        loss_gradient: `[B]`, largest entry of the gradient of the cross-entropy.
        logit_gradient: `[B]`, largest entry of the gradient of the spread of the logits.
        radii: half of eps, eps, twice eps, and the whole box.
        success: the attack's rate at each of them.
        blind: the rate of a random search at eps; None where it was not run.
        by_margin: the rate at eps of PGD that climbs the margin.
        alone: `[K]`, the logits of the first image in a batch of its own.
    """

    box: Box
    low: float
    high: float
    logits: np.ndarray
    logits_again: np.ndarray
    loss_gradient: np.ndarray
    logit_gradient: np.ndarray
    radii: tuple[float, ...]
    success: tuple[float, ...]
    blind: float | None
    by_margin: float
    alone: np.ndarray | None = None


def image_range(e: Evidence) -> str | None:
    """Images outside of the box, or in a small part of them."""
    low, high = e.box
    if e.low < low or e.high > high:
        return (
            f"images range from {e.low:.4g} to {e.high:.4g}, outside of the box {e.box}: give the model's own "
            "range as box= of the threat, or scale the images"
        )
    if np.isfinite(high - low) and e.high - e.low < 0.5 * (high - low):
        return f"images span only {e.low:.4g} to {e.high:.4g} of the box {e.box}: are these the model's?"
    return None


def finite_logits(e: Evidence) -> str | None:
    """NaN or infinite logits."""
    if np.isfinite(e.logits).all():
        return None
    return "logits are NaN or infinite: attacks never count them as success, so the model would look robust"


def probabilities(e: Evidence) -> str | None:
    """Outputs that add up to one."""
    if (e.logits >= 0).all() and np.allclose(e.logits.sum(1), 1, atol=1e-3):
        return "the outputs are probabilities: their gradients vanish where the softmax saturates; give the logits"
    return None


def randomness(e: Evidence) -> str | None:
    """Other logits the second time."""
    if np.array_equal(e.logits, e.logits_again, equal_nan=True):
        return None
    largest = np.abs(e.logits - e.logits_again).max()
    return f"the same images give logits that differ by {largest:.3g}: attack their mean over the randomness"


def batch_dependence(e: Evidence) -> str | None:
    """Other logits in other company."""
    if e.alone is None or np.allclose(e.alone, e.logits[0], rtol=1e-2, atol=1e-3, equal_nan=True):
        return None
    largest = np.abs(e.alone - e.logits[0]).max()
    return f"an image's logits change by {largest:.3g} with the other images of its batch: use the evaluation mode"


def gradients(e: Evidence) -> str | None:
    """Gradients of exactly zero: of the logits themselves, or of a saturated cross-entropy."""
    masked, saturated = (e.logit_gradient == 0).mean(), (e.loss_gradient == 0).mean()
    if masked:
        return (
            f"the logits have a gradient of exactly zero on {masked:.0%} of the images: something rounds or cuts off; "
            "use a random search (square) or a smooth stand-in"
        )
    if saturated:
        return (
            f"cross-entropy has a gradient of exactly zero on {saturated:.0%} of the images: it saturates; climb "
            "losses.log_odds (the default), margin or dlr"
        )
    return None


def _resolution(e: Evidence) -> float:
    """Differences of success rates that one image could make count for nothing."""
    return 1.5 / len(e.logits)


def monotone(e: Evidence) -> str | None:
    """Fewer successes with a larger radius."""
    if all(after >= before - _resolution(e) for before, after in itertools.pairwise(e.success)):
        return None
    rates = ", ".join(f"{rate:.0%} at {radius:.3g}" for radius, rate in zip(e.radii, e.success, strict=True))
    return f"the attack wins less with a larger radius ({rates}): give it more steps, restarts, or use the ensemble"


def unbounded(e: Evidence) -> str | None:
    """Failure with the whole box to choose from."""
    if e.success[-1] >= 1 - _resolution(e):
        return None
    return f"free to change every pixel, the attack wins only {e.success[-1]:.0%}: its gradients lead nowhere"


def blind_search(e: Evidence) -> str | None:
    """A random search that beats the gradient, whatever that climbs."""
    if e.blind is None or e.blind <= max(e.success[1], e.by_margin) + _resolution(e):
        return None
    return f"a search without gradients wins {e.blind:.0%}, the attack {e.success[1]:.0%}: the gradients are masked"


def other_loss(e: Evidence) -> str | None:
    """The margin that does better: where the softmax is flat, cross-entropy pulls towards all classes at once."""
    if e.by_margin <= e.success[1] + _resolution(e):
        return None
    return f"PGD on the margin wins {e.by_margin:.0%}, the attack {e.success[1]:.0%}: climb losses.margin or dlr"


CHECKS: tuple[Callable[[Evidence], str | None], ...] = (
    image_range,
    finite_logits,
    probabilities,
    randomness,
    batch_dependence,
    gradients,
    monotone,
    unbounded,
    blind_search,
    other_loss,
)


def collect(
    key: Key,
    apply_fn: ApplyFn,
    params: Params,
    x: Array,
    labels: Labels,
    eps: Scalar,
    threat: Threat,
    attack: Attack,
    queries: int,
) -> Evidence:
    """Run the model and the attacks once for all checks; the arguments are those of `diagnose`."""
    inside = jnp.clip(jnp.asarray(x), *threat.box)
    # traced anew each time: what a stateful generator draws while tracing would be frozen otherwise
    logits, again = (np.asarray(jax.jit(lambda p, z: apply_fn(p, z))(params, x)) for _ in range(2))
    alone = np.asarray(jax.jit(apply_fn)(params, x[:1]))[0]

    @jax.jit
    def largest_gradients(params, x):
        of = (lambda z: cross_entropy(apply_fn(params, z), labels), lambda z: apply_fn(params, z).std(-1))
        both = (value_and_gradient(lambda z, f=f: (f(z), None), x)[1] for f in of)
        return tuple(jnp.abs(g).reshape(len(x), -1).max(1) for g in both)

    def rate(attack):
        def run(params, x, eps):
            return attack(key, lambda z: apply_fn(params, z), x, labels, eps=eps).success

        compiled = jax.jit(run)
        clean = logits.argmax(1) != np.asarray(labels)
        return lambda radius: float(
            (np.asarray(compiled(params, inside, jnp.asarray(radius, inside.dtype))) | clean).mean()
        )

    low, high = (edge if np.isfinite(edge) else far for edge, far in zip(threat.box, (-10, 10), strict=True))
    box = float(threat.distance(jnp.full_like(inside[0], high), jnp.full_like(inside[0], low)))
    radii = (0.5 * float(eps), float(eps), 2 * float(eps), box)
    searchable = x.ndim == 4 and min(x.shape[1:3]) >= 4 and threat.name in ("linf", "l2", "l1")
    loss_gradient, logit_gradient = (np.asarray(g) for g in largest_gradients(params, x))
    return Evidence(
        box=threat.box,
        low=float(jnp.min(x)),
        high=float(jnp.max(x)),
        logits=logits,
        logits_again=again,
        loss_gradient=loss_gradient,
        logit_gradient=logit_gradient,
        radii=radii,
        success=tuple(map(rate(attack), radii)),
        blind=rate(square(threat, queries=queries))(eps) if searchable else None,
        by_margin=rate(pgd(threat, loss=margin))(eps),
        alone=alone,
    )


def diagnose(
    key: Key,
    apply_fn: ApplyFn,
    params: Params,
    x: Array,
    labels: Labels,
    *,
    eps: Scalar,
    threat: Threat | None = None,
    attack: Attack | None = None,
    queries: int = 300,
    show: Callable[[str], Any] | None = print,
) -> list[Finding]:
    """Look for reasons to distrust the robustness of a model, on one batch.

    Args:
        key: random key.
        apply_fn: `(params, x) -> logits`.
        params: of the model.
        x: `[B, ...]` images; some tens are enough.
        labels: `[B]`.
        eps: the radius to evaluate.
        threat: the geometry; default `linf()`.
        attack: the one under suspicion; default `pgd(threat)`.
        queries: of the random search that is set against it (for images `[B, H, W, C]`).
        show: prints each finding, or that there is none; None is silent.

    Returns:
        The findings. None found is no proof of anything.

    Raises:
        ValueError: integer images, labels of another shape or out of range, an `eps` that is an array or negative, a
            model that does not return `[B, K]`.
    """
    threat = linf() if threat is None else threat
    _check.number("eps", eps)
    _check.floating("x", x)
    _check.labels(labels, _check.logits_of(lambda x: apply_fn(params, x), x, labels))
    evidence = collect(key, apply_fn, params, x, labels, eps, threat, attack or pgd(threat), queries)
    said = ((check.__name__.replace("_", " "), check(evidence)) for check in CHECKS)
    findings = [Finding(name, message) for name, message in said if message is not None]
    if show is not None:
        for finding in findings:
            show(f"{finding.name}: {finding.message}")
        if not findings:
            show("nothing suspicious; that is no proof")
    return findings
