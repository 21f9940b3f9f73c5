r"""The linear response Gamma: how fast the logits change along the direction of an attack.

With J the Jacobian of the logits h and u the direction of the attack, a step of length eps moves the logits by

    h(x + eps u) = h(x) + eps Gamma + O(eps^2),        Gamma = J u,        u = J^T delta / |J^T delta|    for l2.

Gamma needs no Jacobian: `J^T delta` is one vector-Jacobian product and `J u` one Jacobian-vector product. Gamma depends
on the direction of delta alone. The gradient of cross-entropy rounds to 0 where a model is confident, so delta is the
gradient of `losses.log_odds` here, which points in the same direction and does not vanish.

All functions need a model whose logits of an image depend on that image alone (no batch norm in training mode).

Source: Cubuk et al. 2018, *Intriguing Properties of Adversarial Examples*, section on linear response. The paper calls
Gamma hard to compute; the two products and the rescaled delta are ours.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from invjax import _check, _logits
from invjax._batching import on_device, over_batches
from invjax._conv import fast_convs
from invjax._dtypes import placeholder
from invjax._sharding import automatic
from invjax.attacks import l2, linf
from invjax.losses import log_odds
from invjax.types import ApplyFn, Array, Labels, Logits, LogitsFn, Params

_UNITS = {"l2": l2().ascent, "sign": linf().ascent, "least_likely": linf().ascent}
DIRECTIONS = tuple(_UNITS)
"""`l2`: the gradient, of length 1. `sign`: the signs of the gradient (FGSM). `least_likely`: the signs of the gradient
towards the class that the model considers least likely (step l.l.)."""


class LinearResponse(NamedTuple):
    """The effect of an attack's direction on the logits.

    Attributes:
        logits: logits of the clean images, `[B, K]`.
        direction: the change of x per unit of eps, `[B, ...]`.
        gamma: the change of the logits per unit of eps, `[B, K]`.
    """

    logits: Logits
    direction: Float[Array, "batch ..."]
    gamma: Logits


@automatic
def attack_direction(
    logits_fn: LogitsFn, x: Float[Array, "batch ..."], labels: Labels, *, kind: str = "l2"
) -> Float[Array, "batch ..."]:
    """The change of each image per unit of eps in a one-step attack.

    >>> attack_direction(lambda x: x, jnp.array([[4.0, 0.0]]), jnp.array([0]), kind="sign").tolist()
    [[-1.0, 1.0]]

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`.
        x: images, `[B, ...]`.
        labels: the classes to move away from, `[B]`; the direction `least_likely` ignores them.
        kind: one of `DIRECTIONS`.

    Returns:
        The directions, `[B, ...]`; 0 where the gradient is 0.

    Raises:
        ValueError: the kind is unknown, the images are integers or contain NaN, the labels are out of range or have
            another shape, or the output of the model is not `[B, K]` with K of 2 or more.
    """
    logits_fn, x = _prepare(logits_fn, x, labels, kind)
    return _direction(*jax.vjp(logits_fn, x), x, labels, kind)


@automatic
def linear_response(
    logits_fn: LogitsFn, x: Float[Array, "batch ..."], labels: Labels, *, direction: str = "l2"
) -> LinearResponse:
    """Logits, attack direction and Gamma by one forward pass and two products with its Jacobian.

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`.
        x: images, `[B, ...]`.
        labels: the classes to move away from, `[B]`.
        direction: one of `DIRECTIONS`.

    Returns:
        Logits, attack direction and Gamma of each image.

    Raises:
        ValueError: as for `attack_direction`.
    """
    logits_fn, x = _prepare(logits_fn, x, labels, direction)
    logits, push = jax.linearize(logits_fn, x)  # both products share this forward pass
    step = _direction(logits, jax.linear_transpose(push, x), x, labels, direction)
    return LinearResponse(logits, step, push(step))


def gamma(logits_fn: LogitsFn, x: Float[Array, "batch ..."], labels: Labels, *, direction: str = "l2") -> Logits:
    """The linear response Gamma, `[B, K]`, without logits and attack direction.

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`.
        x: images, `[B, ...]`.
        labels: the classes to move away from, `[B]`.
        direction: one of `DIRECTIONS`.

    Raises:
        ValueError: as for `attack_direction`.
    """
    return linear_response(logits_fn, x, labels, direction=direction).gamma


def dataset_response(
    apply_fn: ApplyFn,
    params: Params,
    images: Any,
    labels: np.ndarray,
    *,
    direction: str = "l2",
    batch_size: int = 500,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and Gamma of a whole data set, as host arrays: the input of `rank_means` and `mean_field_epsilon`.

    Args:
        apply_fn: `(params, x) -> logits`.
        params: parameters of the model.
        images: the images of the data set, `[N, ...]`, floating point.
        labels: the classes to move away from, `[N]`.
        direction: one of `DIRECTIONS`.
        batch_size: number of images per batch.
        mesh: devices over which each batch is spread.

    Returns:
        Logits and Gamma, `[N, K]` each.

    Raises:
        ValueError: as for `attack_direction`; or logits or Gamma are not finite, for example because of NaN images.
    """

    @jax.jit
    def run(params, x, y):
        found = linear_response(partial(apply_fn, params), x, y, direction=direction)
        return found.logits, found.gamma

    _check.one_of("direction", direction, DIRECTIONS)
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    _check.examples("images", images)
    _check.floating("images", images)
    _check.one_each("labels", labels, images)
    _check.labels(
        labels,
        _logits.num_classes(partial(apply_fn, params), placeholder((1, *images.shape[1:]), images.dtype), None),
    )
    logits, found = over_batches(partial(on_device(run), params), [images, labels], batch_size, mesh)
    check_response(logits, found)
    return logits, found


def _prepare(logits_fn, x, labels, kind) -> tuple[Callable, jax.Array]:
    _check.one_of("direction", kind, DIRECTIONS)
    _check.real("x", x)
    _check.labels(labels, _logits.num_classes(logits_fn, x, labels))
    return fast_convs(logits_fn), jnp.asarray(x)


def _direction(logits, pull, x, labels, kind):
    sign = 1
    if kind == "least_likely":
        labels, sign = _logits.least_likely(logits), -1
    (gradient,) = pull(sign * jax.grad(lambda logits: log_odds(logits, labels).sum())(logits))
    return jax.vmap(_UNITS[kind], (0, 0, None))(gradient, x, 1.0)


def check_response(logits, gamma):
    """Refuse logits and a Gamma that differ in shape, hold no images, or are not finite."""
    _check.array("logits", logits)
    _check.array("gamma", gamma)
    if logits.ndim != 2 or logits.shape[1] < 2 or logits.shape != gamma.shape:
        raise ValueError(
            f"logits and gamma must both be [N, classes] with 2 classes or more; got {logits.shape} and {gamma.shape}"
        )
    if not len(logits):
        raise ValueError("logits and gamma contain no images; if the model misclassifies all of them, train it longer")
    _check.finite("logits", logits)
    _check.finite("gamma", gamma)
