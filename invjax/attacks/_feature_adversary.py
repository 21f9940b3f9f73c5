"""Approximate metamers: images near one image with the features of another, for any differentiable model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from invjax import _check
from invjax._conv import fast_convs
from invjax._dtypes import wide
from invjax._sharding import automatic
from invjax.attacks._attack import AttackResult, check_radius, warn_of_gradients
from invjax.attacks._by_image import over_images
from invjax.attacks._threats import Threat, check_mask, check_threat, l2
from invjax.attacks.building import climb
from invjax.types import Array, Scalar


@automatic
def feature_adversary(
    features_fn: Callable[[jax.Array], jax.Array],
    x: Array,
    targets: Array,
    *,
    eps: Scalar,
    threat: Threat | None = None,
    steps: int = 200,
    step_size: Scalar | None = None,
    tolerance: Scalar = 1e-2,
) -> AttackResult:
    """Search near `x` for images with given features: approximate metamers of any differentiable model.

    The attack minimises `|features(z) - targets|^2` by projected gradient descent from `x`, with step sizes that
    decrease linearly to zero.

    Args:
        features_fn: `x [B, ...] -> features [B, ...]`, such as a model's logits.
        x: `[B, ...]`, the images to start from.
        targets: `[B, ...]`, the features to reach, such as those of other images.
        eps: the largest distance from x.
        threat: the distance that `eps` bounds, and the range of pixel values; `l2()` by default. Masks of single images
            are those of the images of x, in their order.
        steps: the number of gradient steps.
        step_size: the size of the first step; `5 * eps / steps` by default, so that the steps add up to `2.5 * eps`.
        tolerance: the largest absolute difference of a feature that counts as success.

    Returns:
        An `AttackResult`; `loss` is minus the Euclidean distance of the features from their targets.

    Raises:
        ValueError: the targets have another shape than the features, or the images are not finite floats inside the
            box, or the mask of the threat does not fit them.

    Source: Sabour et al. 2016, *Adversarial Manipulation of Deep Representations*. They use L-BFGS in an linf ball.
    """
    _check.function("features_fn", features_fn, "x -> features")
    threat = check_threat(l2() if threat is None else threat)
    _check.count(steps=steps)
    _check.within("x", x, threat.box)
    check_mask(threat, x)
    check_radius(threat, eps, x)
    _check.array("targets", targets)
    found = getattr(jax.eval_shape(features_fn, x), "shape", None)
    if found != targets.shape:
        raise ValueError(
            f"targets must have the shape of the features, {found}; got {targets.shape}; compute them with features_fn"
        )
    given, model = jnp.asarray(x), fast_convs(features_fn)
    x = wide(given)
    eps = jnp.asarray(eps, x.dtype)

    def rest(z, targets):
        return (wide(model(z.astype(given.dtype))) - wide(targets)).reshape(len(z), -1)

    def search(threat, x, targets, _=None):
        def objective(z):
            # The square is differentiable at zero. No point counts as a success, so that `climb` returns the nearest.
            return -(rest(z, targets) ** 2).sum(1), jnp.zeros(len(x), bool)

        return climb(objective, threat, x, x, eps, sizes)

    first = 5 * eps / steps if step_size is None else step_size
    sizes = (first * (1 - jnp.arange(steps) / steps)).astype(x.dtype)
    same = threat.for_image is None
    climbed = search(threat, x, targets) if same else over_images(threat, search, x, targets)
    found, value, trace, finite = climbed
    reached, length = jnp.abs(rest(found, targets)).max(1) <= tolerance, jax.vmap(threat.distance)(found, x)
    if _check.known(finite):
        warn_of_gradients("feature_adversary", finite)
    return AttackResult(found, reached, length, -jnp.sqrt(-value), -jnp.sqrt(-trace), finite)
