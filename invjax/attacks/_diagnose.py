"""Checks for the usual reasons why an attack fails on a model that is not robust."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _box, _check, _logits
from invjax._batching import on_host
from invjax._dtypes import wide_dtype
from invjax.attacks._attack import Attack, check_attack, check_prediction, check_radius
from invjax.attacks._checks import CHECKS, Evidence, Finding
from invjax.attacks._gradient import pgd
from invjax.attacks._square import square
from invjax.attacks._threats import Threat, check_mask, check_threat, linf
from invjax.attacks.building import value_and_gradient
from invjax.losses import cross_entropy, margin
from invjax.types import ApplyFn, Array, Box, Key, Labels, Params, Scalar


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
    """Measure the evidence for all checks; the arguments are those of `diagnose`."""
    x, labels = jnp.asarray(on_host(x)), on_host(labels)
    inside = jnp.clip(x, *_box.ends(threat.box, x))
    # Each evaluation traces the model anew, because a stateful generator may draw while the model is traced.
    logits, again = (np.asarray(jax.jit(lambda p, z: apply_fn(p, z))(params, x)) for _ in range(2))
    alone = np.asarray(jax.jit(apply_fn)(params, x[:1]))[0]

    @jax.jit
    def largest_gradients(params, x):
        of = (lambda z: cross_entropy(apply_fn(params, z), labels), lambda z: _spread(apply_fn(params, z)))
        both = (value_and_gradient(lambda z, f=f: (f(z), None), x)[1] for f in of)
        return tuple(jnp.abs(g).reshape(len(x), -1).max(1) for g in both)

    def rate(attack):
        def run(params, x, eps):
            result = attack(key, lambda z: apply_fn(params, z), x, labels, eps=eps)
            return result.success, result.finite_gradients.mean()

        compiled = jax.jit(run)
        clean = logits.argmax(1) != np.asarray(labels)

        def rates(radius):
            success, finite = compiled(params, inside, jnp.asarray(radius, wide_dtype(inside.dtype)))
            return float((np.asarray(success) | clean).mean()), float(finite)

        return rates

    low, high = _box.corners(threat.box, inside.shape[1:])
    low, high = np.where(np.isfinite(low), low, -10), np.where(np.isfinite(high), high, 10)
    box = float(threat.distance(jnp.asarray(high, inside.dtype), jnp.asarray(low, inside.dtype)))
    radii = (0.5 * float(eps), float(eps), 2 * float(eps), box)
    success, finite = zip(*map(rate(attack), radii), strict=True)
    loss_gradient, logit_gradient = (np.asarray(g) for g in largest_gradients(params, x))
    return Evidence(
        **_ranges(threat.box, np.asarray(x)),
        logits=logits,
        logits_again=again,
        loss_gradient=loss_gradient,
        logit_gradient=logit_gradient,
        radii=radii,
        success=success,
        blind=rate(square(threat, queries=queries))(eps)[0] if threat.order is not None else None,
        by_margin=rate(pgd(threat, loss=margin))(eps)[0],
        labels=np.asarray(labels),
        finite_gradients=min(finite),
        alone=alone,
        masked=threat.mask is not None,
    )


def _spread(logits: jax.Array) -> jax.Array:
    """The standard deviation of the logits of each image, without the classes that are masked by -inf."""
    masked = jnp.isneginf(logits)
    count = jnp.maximum((~masked).sum(-1), 1)
    mean = jnp.where(masked, 0, logits).sum(-1) / count
    return jnp.sqrt((jnp.where(masked, 0, logits - mean[:, None]) ** 2).sum(-1) / count)


def _ranges(box: Box, x: np.ndarray) -> dict[str, Any]:
    """The box and the extreme values of the images, in units of each feature's range if the ranges differ."""
    if not _box.is_uniform(box):
        low, high = _box.corners(box, x.shape)
        known = np.isfinite(low) & np.isfinite(high) & (low < high)
        if not known.any():
            return {"box": (-np.inf, np.inf), "low": float(np.min(x)), "high": float(np.max(x))}
        box, x = (0.0, 1.0), (x[known] - low[known]) / (high[known] - low[known])
    return {"box": box, "low": float(np.min(x)), "high": float(np.max(x))}


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
    """Look for reasons to doubt that a model is robust, on one batch of images.

    Args:
        key: random key.
        apply_fn: `(params, x [B, ...]) -> logits [B, K]`.
        params: parameters of the model.
        x: `[B, ...]`, the images; a few tens are enough.
        labels: `[B]`, class indices.
        eps: the radius to evaluate.
        threat: the distance that `eps` bounds, and the range of pixel values; `linf()` by default.
        attack: the attack to check; `pgd(threat)` by default.
        queries: the number of queries of the random search, which needs a threat that is a norm.
        show: a function that prints each finding, or one sentence if there is none; None prints nothing.

    Returns:
        The findings. An empty list does not prove that the model is robust.

    Raises:
        ValueError: the images are integers, the labels have another shape or are not class indices, `eps` is an array
            or negative or a number of pixels below 1, the attack is targeted or comes from `top_k` or `confident`, or
            the model does not return logits `[B, K]`.

    Source: Athalye et al. 2018, *Obfuscated Gradients Give a False Sense of Security*, section 3.1; Carlini et al.
    2019, *On Evaluating Adversarial Robustness*.
    """
    _check.key(key)
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    threat = check_threat(linf() if threat is None else threat)
    if attack is not None:
        check_attack(attack)
        if attack.targeted:
            raise ValueError(f"attack must be untargeted; got {attack.recipe}; make it with targeted=False")
        check_prediction(attack)
    check_radius(threat, eps)
    _check.real("x", x)
    check_mask(threat, x)
    _check.labels(labels, _logits.num_classes(lambda x: apply_fn(params, x), x, labels))
    evidence = collect(key, apply_fn, params, x, labels, eps, threat, attack or pgd(threat), queries)
    said = ((check.__name__.replace("_", " "), check(evidence)) for check in CHECKS)
    findings = [Finding(name, message) for name, message in said if message is not None]
    if show is not None:
        for finding in findings:
            show(f"{finding.name}: {finding.message}")
        if not findings:
            show("nothing suspicious was found; this is not a proof of robustness")
    return findings
