r"""How logits answer to an attack, to first order, and where the prediction should flip.

With `J` the Jacobian of the logits `h` and `u` the attack's direction, a step of length eps moves the logits by

    h(x + eps u) = h(x) + eps Gamma + O(eps^2),        Gamma = J u,        u = J^T delta / |J^T delta|    for l2.

Of the classes in order of their clean logits, class j overtakes the first at `eps_j = Delta_1j / (Gamma_j - Gamma_1)`
where Gamma_j > Gamma_1. Gamma needs no Jacobian: `J^T delta` is one vjp and `J u` one jvp.

Gamma depends on the direction of delta alone. That of cross-entropy rounds to 0 where a model is sure of itself; here
delta is the gradient of `losses.log_odds`, which points in the same direction and never does.

Every function here takes a model whose logits of an image depend on that image alone (no batch norm in training mode).

Source: Cubuk et al. 2018, *Intriguing Properties of Adversarial Examples*, section on linear response. The paper calls
Gamma hard to compute; the vjp and jvp, and the rescaled delta, are ours.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from invjax import _check
from invjax._batching import over_batches
from invjax._conv import fast_convs
from invjax.attacks import l2, line_search, linf
from invjax.losses import log_odds
from invjax.types import ApplyFn, Array, Box, Labels, Logits, LogitsFn, Params, PerExample, Scalar

_UNITS = {"l2": l2().ascent, "sign": linf().ascent, "least_likely": linf().ascent}
DIRECTIONS = tuple(_UNITS)
"""`l2`: the gradient, of length 1. `sign`: its signs (FGSM). `least_likely`: the signs towards the class that the model
finds least likely (step l.l.)."""


class LinearResponse(NamedTuple):
    """What an attack's direction does to the logits.

    Attributes:
        logits: `[B, K]`, clean.
        direction: `[B, ...]`, what one unit of eps adds to x.
        gamma: `[B, K]`, Gamma: the change of the logits by one unit of eps.
    """

    logits: Logits
    direction: Float[Array, "batch ..."]
    gamma: Logits


class Crossing(NamedTuple):
    """Where another class takes over.

    Attributes:
        eps: `[B]`, infinite where none does.
        label: `[B]`, that class; -1 where none does.
    """

    eps: PerExample
    label: Labels


def logit_jacobian(
    logits_fn: LogitsFn, x: Float[Array, "batch ..."], *, mode: str = "rev", at_once: bool | None = None
) -> Float[Array, "batch classes ..."]:
    """The derivative of every logit by every input, `[B, K, ...]`.

    >>> logit_jacobian(lambda x: x @ jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros((1, 2))).tolist()
    [[[1.0, 3.0], [2.0, 4.0]]]

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`.
        x: images.
        mode: "rev" costs K backward passes, "fwd" one forward pass for each value of an image; "rev" is the choice
            unless logits outnumber inputs.
        at_once: map over classes ("rev") or images ("fwd") in one go instead of one after another; default: wherever
            the backend is not the CPU (see `experiments/benchmarks/gamma.py`).

    Raises:
        ValueError: another mode; integer images; a model whose output is not `[B, K]` with K of 2 or more.
        TypeError: "fwd" through a `memory_saving` net, which has a reverse mode only; use `chain`.
    """
    _check.one_of("mode", mode, ("rev", "fwd"))
    num_classes = _check_model(logits_fn, x, jax.ShapeDtypeStruct(x.shape[:1], jnp.int32))
    at_once = jax.default_backend() != "cpu" if at_once is None else at_once
    logits_fn, x = fast_convs(logits_fn), jnp.asarray(x)
    if mode == "fwd":
        one = jax.jacfwd(lambda image: logits_fn(image[None])[0])
        return jax.vmap(one)(x) if at_once else jax.lax.map(one, x)
    logits, pull = jax.vjp(logits_fn, x)

    def of_class(k):
        chosen = jax.nn.one_hot(k, num_classes, dtype=logits.dtype)
        return pull(jnp.broadcast_to(chosen[None], logits.shape))[0]

    classes = jnp.arange(num_classes)
    return (jax.vmap(of_class)(classes) if at_once else jax.lax.map(of_class, classes)).swapaxes(0, 1)


def attack_direction(
    logits_fn: LogitsFn, x: Float[Array, "batch ..."], labels: Labels, *, kind: str = "l2"
) -> Float[Array, "batch ..."]:
    """What one unit of eps of a one-step attack adds to each image; 0 where the gradient is.

    >>> attack_direction(lambda x: x, jnp.array([[4.0, 0.0]]), jnp.array([0]), kind="sign").tolist()
    [[-1.0, 1.0]]

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`.
        x: images.
        labels: `[B]`, the classes to move away from; `least_likely` does not read them.
        kind: one of `DIRECTIONS`.

    Raises:
        ValueError: another kind; integer or NaN images; labels of another shape or out of range; a model whose output
            is not `[B, K]`, K at least 2.
    """
    logits_fn, x = _prepare(logits_fn, x, labels, kind)
    return _direction(*jax.vjp(logits_fn, x), x, labels, kind)


def linear_response(
    logits_fn: LogitsFn, x: Float[Array, "batch ..."], labels: Labels, *, direction: str = "l2"
) -> LinearResponse:
    """Logits, attack direction and Gamma by one forward pass, one vjp and one jvp.

    Arguments and errors are those of `attack_direction`, whose `kind` is `direction` here.
    """
    logits_fn, x = _prepare(logits_fn, x, labels, direction)
    logits, push = jax.linearize(logits_fn, x)  # both products share this forward pass
    step = _direction(logits, jax.linear_transpose(push, x), x, labels, direction)
    return LinearResponse(logits, step, push(step))


def gamma(logits_fn: LogitsFn, x: Float[Array, "batch ..."], labels: Labels, *, direction: str = "l2") -> Logits:
    """Gamma, `[B, K]`: `linear_response` where nothing else of it is needed."""
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
    """Logits and Gamma of a whole data set, `[N, K]` each, on the host: what the functions below take.

    Args:
        apply_fn: `(params, x) -> logits`.
        params: of the model.
        images: `[N, ...]`, float.
        labels: `[N]`, the classes to move away from.
        direction: one of `DIRECTIONS`.
        batch_size: images at once.
        mesh: spread each batch over these devices.

    Raises:
        ValueError: as `attack_direction`; logits or a Gamma that are not finite, as those of NaN images.
    """

    @jax.jit
    def run(params, x, y):
        found = linear_response(partial(apply_fn, params), x, y, direction=direction)
        return found.logits, found.gamma

    _check.one_of("direction", direction, DIRECTIONS)
    _check.labels(labels, jax.eval_shape(apply_fn, params, jnp.asarray(np.asarray(images[:1]))).shape[-1])
    logits, found = over_batches(partial(run, params), [images, labels], batch_size, mesh)
    _check_response(logits, found)
    return logits, found


def linear_epsilon(logits: Logits, gamma: Logits) -> Crossing:
    """Where the first class overtakes the predicted one if the logits are linear along the attack's direction.

    `min over j of Delta_1j / (Gamma_j - Gamma_1)` where that difference is positive; infinity and -1 where no class
    gains on the predicted one. Exact for linear models.

    >>> crossing = linear_epsilon(jnp.array([[3.0, 1.0, 0.0]]), jnp.array([[-1.0, 0.0, 2.0]]))
    >>> crossing.eps.tolist(), crossing.label.tolist()
    ([1.0], [2])

    Args:
        logits: `[B, K]`, clean.
        gamma: `[B, K]`.

    Raises:
        ValueError: fewer than two classes, different shapes, values that are not finite.
    """
    _check_response(logits, gamma)
    logits, gamma = jnp.asarray(logits), jnp.asarray(gamma)
    first = logits.argmax(-1)[:, None]
    gap = jnp.take_along_axis(logits, first, -1) - logits
    gain = gamma - jnp.take_along_axis(gamma, first, -1)
    gains = gain > 0
    eps = jnp.where(gains, gap / jnp.where(gains, gain, 1), jnp.inf)
    return Crossing(eps.min(-1), jnp.where(gains.any(-1), eps.argmin(-1), -1).astype(jnp.int32))


def rank_means(logits: Logits, gamma: Logits) -> Float[np.ndarray, " classes"]:
    """The mean of Gamma over a data set, classes in order of their clean logits, largest first: `[K]`, float64.

    Args:
        logits: `[N, K]`, of the whole data set, as from `dataset_response`.
        gamma: `[N, K]`.

    Raises:
        ValueError: as `linear_epsilon`.
    """
    _check_response(logits, gamma)
    order = np.argsort(-np.asarray(logits), axis=1, kind="stable")
    return np.take_along_axis(np.asarray(gamma), order, 1).mean(0, dtype=np.float64)


def mean_field_epsilon(logits: Logits, gamma: Logits) -> Float[np.ndarray, " batch"]:
    """`Delta_12 / (<Gamma_2> - <Gamma_1>)`, `[N]`, with the means of Gamma by rank over the data set.

    One number for all images, so that the law of eps is the law of the logit gap Delta_12. Infinite for all where the
    runner-up does not gain on the first class on average. Arguments and errors are those of `rank_means`.
    """
    means = rank_means(logits, gamma)
    ordered = np.sort(np.asarray(logits, np.float64), axis=1)
    gap, gain = ordered[:, -1] - ordered[:, -2], means[1] - means[0]
    return gap / gain if gain > 0 else np.full(len(gap), np.inf)


def true_epsilon(
    logits_fn: LogitsFn,
    x: Float[Array, "batch ..."],
    labels: Labels,
    direction: Float[Array, "batch ..."],
    *,
    eps: Scalar,
    box: Box = (-jnp.inf, jnp.inf),
    points: int = 50,
    steps: int = 20,
) -> Crossing:
    """Where the prediction really leaves the label along that same fixed direction, and for which class.

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`.
        x: images.
        labels: `[B]`; an image that is misclassified as it is has eps 0.
        direction: `[B, ...]`, from `attack_direction` or `linear_response`.
        eps: how far to look.
        box: of pixel values, none by default; with `points` and `steps` those of `attacks.line_search`.
        points: equally spaced, of the first pass.
        steps: bisections.

    Returns:
        A `Crossing` `[B]`: infinity and -1 where the label holds up to `eps`.

    Raises:
        ValueError: as `attacks.line_search`.
    """
    found = line_search(logits_fn, x, labels, direction, eps=eps, box=box, points=points, steps=steps)
    flips = jnp.isfinite(found)
    length = jnp.where(flips, found, 0).reshape(-1, *[1] * (x.ndim - 1))
    logits = logits_fn(jnp.clip(x + length * direction, *box))
    # without the label: on the boundary, rounding could give it the point back
    others = jnp.where(jnp.arange(logits.shape[1])[None] == labels[:, None], -jnp.inf, logits)
    return Crossing(found, jnp.where(flips, others.argmax(-1), -1).astype(jnp.int32))


def _check_model(logits_fn, x, labels) -> int:
    _check.floating("x", x)
    _check.finite("x", x)
    return _check.logits_of(logits_fn, x, labels)


def _prepare(logits_fn, x, labels, kind) -> tuple[Callable, jax.Array]:
    _check.one_of("direction", kind, DIRECTIONS)
    _check.labels(labels, _check_model(logits_fn, x, labels))
    return fast_convs(logits_fn), jnp.asarray(x)


def _direction(logits, pull, x, labels, kind):
    sign = 1
    if kind == "least_likely":
        labels, sign = logits.argmin(-1), -1
    (gradient,) = pull(sign * jax.grad(lambda logits: log_odds(logits, labels).sum())(logits))
    return jax.vmap(_UNITS[kind], (0, 0, None))(gradient, x, 1.0)


def _check_response(logits, gamma):
    if logits.ndim != 2 or logits.shape[1] < 2 or logits.shape != gamma.shape:
        raise ValueError(
            f"logits and gamma must both be [N, classes] with 2 classes or more; got {logits.shape} and {gamma.shape}"
        )
    if not len(logits):
        raise ValueError("logits and gamma hold no images: if all are misclassified, train longer")
    _check.finite("logits", logits)
    _check.finite("gamma", gamma)
