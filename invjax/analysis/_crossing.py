r"""The radius at which a prediction flips: predicted from the linear response, and measured along the same direction.

If the logits change linearly along the direction of an attack, class j overtakes the predicted class 1 at

    eps_j = Delta_1j / (Gamma_j - Gamma_1)        where Gamma_j > Gamma_1,

with Delta_1j the gap between their clean logits. `linear_epsilon` takes the smallest of these radii,
`mean_field_epsilon` replaces Gamma by its mean over a data set, and `true_epsilon` searches for the real crossing.

Source: Cubuk et al. 2018, *Intriguing Properties of Adversarial Examples*, section on linear response.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from invjax._dtypes import wide
from invjax._sharding import automatic
from invjax.analysis._linear_response import check_response
from invjax.attacks import line_search
from invjax.types import Array, Labels, Logits, LogitsFn, PerExample, Scalar


class Crossing(NamedTuple):
    """The radius at which another class overtakes, and that class.

    Attributes:
        eps: the radius, `[B]`; infinity if no class overtakes.
        label: the class that overtakes, `[B]`; -1 if none does.
    """

    eps: PerExample
    label: Labels


def linear_epsilon(logits: Logits, gamma: Logits) -> Crossing:
    """The radius at which the first class overtakes the predicted one if the logits are linear in eps.

    It is the minimum over j of `Delta_1j / (Gamma_j - Gamma_1)` among the classes with a positive denominator, and it
    is exact for linear models.

    >>> crossing = linear_epsilon(jnp.array([[3.0, 1.0, 0.0]]), jnp.array([[-1.0, 0.0, 2.0]]))
    >>> crossing.eps.tolist(), crossing.label.tolist()
    ([1.0], [2])

    Args:
        logits: logits of the clean images, `[B, K]`.
        gamma: the linear response, `[B, K]`.

    Returns:
        A `Crossing`: infinity and -1 where no class gains on the predicted one.

    Raises:
        ValueError: there are fewer than two classes, the shapes differ, or values are not finite.
    """
    check_response(logits, gamma)
    logits, gamma = wide(logits), wide(gamma)
    first = logits.argmax(-1)[:, None]
    gap = jnp.take_along_axis(logits, first, -1) - logits
    gain = gamma - jnp.take_along_axis(gamma, first, -1)
    gains = gain > 0
    eps = jnp.where(gains, gap / jnp.where(gains, gain, 1), jnp.inf)
    return Crossing(eps.min(-1), jnp.where(gains.any(-1), eps.argmin(-1), -1).astype(jnp.int32))


def rank_means(logits: Logits, gamma: Logits) -> Float[np.ndarray, " classes"]:
    """The mean of Gamma over a data set, for classes in order of their clean logits, largest first.

    >>> rank_means(np.array([[1.0, 5.0], [4.0, 2.0]]), np.array([[3.0, -1.0], [-3.0, 1.0]])).tolist()
    [-2.0, 2.0]

    Args:
        logits: logits of the whole data set, `[N, K]`, for example from `dataset_response`.
        gamma: the linear response, `[N, K]`.

    Returns:
        The means, `[K]`, largest logit first, in float64.

    Raises:
        ValueError: as for `linear_epsilon`.
    """
    check_response(logits, gamma)
    order = np.argsort(-np.asarray(logits), axis=1, kind="stable")
    return np.take_along_axis(np.asarray(gamma), order, 1).mean(0, dtype=np.float64)


def mean_field_epsilon(logits: Logits, gamma: Logits) -> Float[np.ndarray, " batch"]:
    """The radius `Delta_12 / (<Gamma_2> - <Gamma_1>)`, with the means of Gamma by rank over the data set.

    The denominator is one number for all images, so the distribution of eps is that of the logit gap Delta_12.

    Args:
        logits: logits of the whole data set, `[N, K]`.
        gamma: the linear response, `[N, K]`.

    Returns:
        The radii, `[N]`; infinity for all images if the runner-up does not gain on the first class on average.

    Raises:
        ValueError: as for `linear_epsilon`.
    """
    means = rank_means(logits, gamma)
    ordered = np.sort(np.asarray(logits, np.float64), axis=1)
    gap, gain = ordered[:, -1] - ordered[:, -2], means[1] - means[0]
    return gap / gain if gain > 0 else np.full(len(gap), np.inf)


@automatic
def true_epsilon(
    logits_fn: LogitsFn,
    x: Float[Array, "batch ..."],
    labels: Labels,
    direction: Float[Array, "batch ..."],
    *,
    eps: Scalar,
    points: int = 50,
    steps: int = 20,
) -> Crossing:
    """The radius at which the prediction leaves the label along a fixed direction, by a search on the line.

    The search does not clip pixels, because the linear response does not either.

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`.
        x: images, `[B, ...]`.
        labels: true classes, `[B]`; an image that is misclassified without a change has radius 0.
        direction: from `attack_direction` or `linear_response`, `[B, ...]`.
        eps: the largest radius to search.
        points: number of equally spaced radii in the first pass.
        steps: number of bisections after the first pass.

    Returns:
        A `Crossing`: infinity and -1 where the prediction keeps the label up to `eps`. Where the model gives NaN it
        makes no prediction, and the label is -1, too.

    Raises:
        ValueError: as for `attacks.line_search`.
    """
    found = line_search(logits_fn, x, labels, direction, eps=eps, points=points, steps=steps)
    flips = jnp.isfinite(found)
    length = jnp.where(flips, found, 0).reshape(-1, *[1] * (x.ndim - 1))
    logits = logits_fn((wide(x) + length * wide(direction)).astype(x.dtype))
    # the label is excluded, because on the boundary rounding could return it
    others = jnp.where(jnp.arange(logits.shape[1])[None] == labels[:, None], -jnp.inf, logits)
    decided = flips & ~jnp.isnan(logits).any(-1)
    return Crossing(found, jnp.where(decided, others.argmax(-1), -1).astype(jnp.int32))
