r"""Logit metamers: images that a classifier cannot tell from another image, down to the last logit.

With an exact inverse there is nothing to search for. Take the logits of one image and everything else from another:

    x* = decode(z_s(a), z_n(b))    so that    logits(x*) = logits(a)

while x* looks like b, as far as the nuisance is what one sees.

Without one there is: `feature_adversary` walks from b until the model's logits, or any features of it, are nearly
those of a. What it leaves over is the difference between exact and approximate.

Source: Jacobsen et al. 2019, section 2.1, metameric sampling; Sabour et al. 2016, *Adversarial Manipulation of Deep
Representations*, for the search.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from invjax import _check
from invjax._conv import fast_convs
from invjax.attacks._attack import AttackResult
from invjax.attacks._threats import Threat, l2
from invjax.attacks.building import climb
from invjax.models._fi_revnet import Code, InvertibleClassifier
from invjax.types import Array, Images, Params, Scalar


def metamers(model: InvertibleClassifier, params: Params, logits_from: Images, nuisance_from: Images) -> Images:
    """One image for each pair: the logits of `logits_from`, all else from `nuisance_from`.

    Values may leave [0, 1]; clipping them breaks the equality of the logits. In float32 the logits agree to about 1e-5,
    in float64 to about 1e-12.

    Args:
        model: an invertible classifier.
        params: its parameters.
        logits_from: `[B, H, W, C]`.
        nuisance_from: `[B, H, W, C]`.

    Returns:
        `[B, H, W, C]`.

    Raises:
        ValueError: the two batches differ in shape; images with NaN, of another shape or dtype.
    """
    if logits_from.shape != nuisance_from.shape:
        raise ValueError(
            f"metamers pairs images one to one; got logits_from {logits_from.shape} and "
            f"nuisance_from {nuisance_from.shape}; repeat the smaller batch"
        )
    logits, _ = model.encode(params, logits_from)
    nuisance, _ = model.encode(params, nuisance_from)
    return model.decode(params, Code(logits.logits, nuisance.nuisance))


def interpolate(
    model: InvertibleClassifier, params: Params, first: Images, second: Images, weights: Float[Array, " weights"]
) -> Float[Array, "weights batch height width channel"]:
    """From each of `first` to its metamer with the nuisance of `second`, at constant logits.

        x(t) = decode(z_s(a), (1 - t) z_n(a) + t z_n(b))

    so that x(0) is a itself and x(1) is `metamers(a, b)`. Nothing but the rounding of the number format tells the
    classifier where on the way it is.

    Args:
        model: an invertible classifier.
        params: its parameters.
        first: a, `[B, H, W, C]`, where the logits come from.
        second: b, `[B, H, W, C]`.
        weights: t, `[T]`; outside [0, 1] the line goes on.

    Returns:
        `[T, B, H, W, C]`; values may leave [0, 1], as those of metamers do.

    Raises:
        ValueError: the two batches differ in shape; weights that are not a list of finite numbers; images with NaN, of
            another shape or dtype.

    Source: Jacobsen et al. 2019, figure 7.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"interpolate pairs images one to one; got first {first.shape} and second {second.shape}; "
            "repeat the smaller batch"
        )
    if weights.ndim != 1:
        raise ValueError(f"weights must be a list of numbers, [T]; got shape {weights.shape}; ravel it")
    _check.finite("weights", weights)
    start, _ = model.encode(params, first)
    end, _ = model.encode(params, second)
    t = jnp.asarray(weights, first.dtype)[:, None, None]
    nuisance = (1 - t) * start.nuisance[None] + t * end.nuisance[None]
    logits = jnp.broadcast_to(start.logits[None], (len(t), *start.logits.shape))
    # all at once: one batch of T * B images, whose shape is put back at the end
    flat = Code(*(part.reshape(-1, part.shape[-1]) for part in (logits, nuisance)))
    return model.decode(params, flat).reshape(len(t), *first.shape)


def feature_adversary(
    features_fn: Callable[[jax.Array], jax.Array],
    x: Array,
    targets: Array,
    *,
    eps: Scalar,
    threat: Threat | None = None,
    steps: int = 200,
    step_size: Scalar | None = None,
    tolerance: float = 1e-2,
) -> AttackResult:
    """Images near `x` whose features are nearly `targets`: approximate metamers of any differentiable model.

    Projected descent of `|features - targets|^2` from `x` on, with steps that shrink linearly to zero.

    Args:
        features_fn: `x [B, ...] -> [B, ...]`, such as a model's logits.
        x: `[B, ...]`, where all that the model does not see comes from.
        targets: `[B, ...]`, the features to reach, such as those of other images.
        eps: how far to go at most.
        threat: the geometry; default `l2()`.
        steps: gradients taken.
        step_size: of the first step; `5 * eps / steps` unless given, so that the steps add up to `2.5 * eps`.
        tolerance: the largest absolute difference of a feature that counts as success.

    Returns:
        An `AttackResult`; `loss` is minus the Euclidean distance of the features from their targets.

    Raises:
        ValueError: targets of another shape than the features; images that are not finite floats inside the box.
    """
    threat = l2() if threat is None else threat
    _check.positive(steps=steps)
    _check.within("x", x, threat.box)
    _check.number("eps", eps)
    found = jax.eval_shape(features_fn, x).shape
    if found != targets.shape:
        raise ValueError(f"targets must have the shape of the features, {found}; got {targets.shape}")
    x, features_fn = jnp.asarray(x), fast_convs(features_fn)
    eps = jnp.asarray(eps, x.dtype)

    def rest(z):
        return (features_fn(z) - targets).reshape(len(x), -1)

    def objective(z):
        # the squared distance, so that the gradient exists where it is zero; no success, so that the nearest is kept
        return -(rest(z) ** 2).sum(1), jnp.zeros(len(x), bool)

    first = 5 * eps / steps if step_size is None else step_size
    sizes = (first * (1 - jnp.arange(steps) / steps)).astype(x.dtype)
    found, value, trace = climb(objective, threat, x, x, eps, sizes)
    reached = jnp.abs(rest(found)).max(1) <= tolerance
    return AttackResult(found, reached, jax.vmap(threat.distance)(found, x), -jnp.sqrt(-value), -jnp.sqrt(-trace))
