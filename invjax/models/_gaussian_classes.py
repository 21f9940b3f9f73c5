r"""Classes as normal distributions with few directions: a generative classifier that is fitted in closed form.

In each class the leading q principal directions u_i keep their variance, and all others share one:

    log p(x | c) = -1/2 [ D log 2 pi + sum_i log v_i + (D - q) log s + |x - m|^2 / s
                          - sum_i (1/s - 1/v_i) (u_i . (x - m))^2 ],

s the mean of the variances left over. This is the likelihood's maximum for probabilistic principal components. Unlike
`generative_classifier`, which inverts, it holds q directions a class instead of D, and needs few images.

Source: Tipping & Bishop 1999, *Probabilistic Principal Component Analysis*, equations 3 to 8.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import linalg

from invjax import _check
from invjax.types import Array, Logits


class ClassDensities(NamedTuple):
    """K normal distributions of D values, of q directions each.

    Attributes:
        log_prior: `[K]`, of the classes.
        mean: `[K, D]`.
        directions: `[K, q, D]`, orthonormal in each class.
        variances: `[K, q]`, along them.
        rest: `[K]`, the variance along every other direction.
    """

    log_prior: Float[Array, " classes"]
    mean: Float[Array, "classes size"]
    directions: Float[Array, "classes components size"]
    variances: Float[Array, "classes components"]
    rest: Float[Array, " classes"]


def fit_class_densities(
    x: Shaped[Array, "count ..."],
    labels: Int[Array, " count"],
    num_classes: int,
    *,
    components: int = 40,
    min_std: float | int = 0.1,
) -> ClassDensities:
    """Fit one distribution a class; computed in float64 on the host, kept in the dtype of `x`.

    Args:
        x: `[N, ...]` training images.
        labels: `[N]` their classes; each class more than `components` times.
        num_classes: K.
        components: q, directions a class, fewer than the D values of an image.
        min_std: no direction is trusted to vary less than this, in units of `x`; a pixel that is off by 1 costs a
            class at most `1 / (2 min_std^2)` nats.

    Raises:
        ValueError: images that are not floats, or hold NaN; labels out of range; a class of too few images; numbers
            that are not positive; too many components.
    """
    _check.positive(num_classes=num_classes, components=components, min_std=min_std)
    _check.floating("x", x)
    _check.finite("x", x)
    _check.labels(labels, num_classes)
    labels = np.asarray(labels)
    flat = np.asarray(x).reshape(len(x), -1)
    size = flat.shape[1]
    if components >= size:
        raise ValueError(f"components must be fewer than the {size} values of an image; got components={components}")
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() <= components:
        raise ValueError(
            f"each class needs more than components={components} images; class {counts.argmin()} has {counts.min()}; "
            "lower components"
        )
    fitted = []
    for of_class in (flat[labels == c].astype(np.float64) for c in range(num_classes)):
        mean = of_class.mean(0)
        covariance = np.cov(of_class.T, bias=True)
        variances, vectors = linalg.eigh(covariance, subset_by_index=(size - components, size - 1))
        rest = (np.trace(covariance) - variances.sum()) / (size - components)
        fitted.append((mean, vectors.T, np.maximum(variances, min_std**2), max(rest, min_std**2)))
    parts = (np.stack(part).astype(flat.dtype) for part in zip(*fitted, strict=True))
    return ClassDensities(np.log(counts / counts.sum()).astype(flat.dtype), *parts)


def class_log_densities(params: ClassDensities, x: Float[Array, "batch ..."]) -> Logits:
    """`log p(x, c)`, in nats: logits, whose softmax is p(c | x). An `ApplyFn` like that of any network."""
    flat = jnp.reshape(x, (len(x), -1))
    size, kept = flat.shape[1], params.directions.shape[1]
    rest = params.rest
    constant = params.log_prior - 0.5 * (
        size * math.log(2 * math.pi) + jnp.log(params.variances).sum(1) + (size - kept) * jnp.log(rest)
    )
    away = flat[:, None] - params.mean[None]
    along = jnp.einsum("bkd,kqd->bkq", away, params.directions, precision="highest")
    shrunk = (1 / rest[:, None] - 1 / params.variances)[None] * along**2
    return constant[None] - 0.5 * ((away**2).sum(-1) / rest[None] - shrunk.sum(-1))
