r"""Class-conditional normal distributions of low rank: a generative classifier that is fitted in closed form.

In each class the variance is v_i along the leading q principal directions u_i, and s along all other directions:

    log p(x | c) = -1/2 [ D log 2 pi + sum_i log v_i + (D - q) log s + |x - m|^2 / s
                          - sum_i (1/s - 1/v_i) (u_i . (x - m))^2 ],

where s is the mean of the variances of all other directions. This is the maximum likelihood estimate of probabilistic
principal component analysis. Unlike `generative_classifier`, this model is not invertible. It stores q directions for
each class instead of D, and it needs few images.

Source: Tipping & Bishop 1999, *Probabilistic Principal Component Analysis*, equations 3 to 8.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import linalg

from invjax import _check
from invjax._dtypes import wide, wide_dtype
from invjax.types import Array, Logits


class GaussianClasses(NamedTuple):
    """K normal distributions of D values, with q principal directions each.

    Attributes:
        log_prior: `[K]`, log probabilities of the classes.
        mean: `[K, D]`, means of the classes.
        directions: `[K, q, D]`, principal directions, orthonormal in each class.
        variances: `[K, q]`, variances along these directions.
        rest: `[K]`, the variance along every other direction.
    """

    log_prior: Float[Array, " classes"]
    mean: Float[Array, "classes size"]
    directions: Float[Array, "classes components size"]
    variances: Float[Array, "classes components"]
    rest: Float[Array, " classes"]


def fit_gaussian_classes(
    x: Shaped[Array, "count ..."],
    labels: Int[Array, " count"],
    num_classes: int,
    *,
    components: int = 40,
    min_std: float | int = 0.1,
) -> GaussianClasses:
    """Fit one normal distribution to each class, in float64 on the host. The result has the dtype of `x`, at least
    float32.

    Args:
        x: `[N, ...]` training images.
        labels: `[N]` classes of the images. Each class needs more than `components` images.
        num_classes: number of classes K.
        components: number of principal directions q of each class, less than the D values of an image.
        min_std: lower bound of the standard deviation along any direction, in units of `x`. A change of one pixel by 1
            then changes a log density by at most `1 / (2 min_std^2)` nats.

    Returns:
        The fitted distributions, the parameters of `gaussian_class_log_densities`.

    Raises:
        ValueError: images that are not floats, or contain NaN; labels out of range; a class with too few images;
            numbers that are not positive; too many components.
    """
    _check.positive(num_classes=num_classes, components=components, min_std=min_std)
    _check.real("x", x)
    _check.one_each("labels", labels, x)
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
    dtype = wide_dtype(flat.dtype)
    parts = (np.stack(part).astype(dtype) for part in zip(*fitted, strict=True))
    return GaussianClasses(np.log(counts / counts.sum()).astype(dtype), *parts)


def gaussian_class_log_densities(params: GaussianClasses, x: Float[Array, "batch ..."]) -> Logits:
    """Logits `log p(x, c)` in nats, whose softmax is `p(c | x)`. The function is an `ApplyFn`, like that of a network.

    Args:
        params: K normal distributions of D values, as `fit_gaussian_classes` returns them.
        x: `[B, ...]`, images of D values each.

    Returns:
        The logits, `[B, K]`.
    """
    flat = wide(jnp.reshape(x, (len(x), -1)))
    size, components = flat.shape[1], params.directions.shape[1]
    rest = params.rest
    constant = params.log_prior - 0.5 * (
        size * math.log(2 * math.pi) + jnp.log(params.variances).sum(1) + (size - components) * jnp.log(rest)
    )
    away = flat[:, None] - params.mean[None]
    along = jnp.einsum("bkd,kqd->bkq", away, params.directions, precision="highest")
    shrunk = (1 / rest[:, None] - 1 / params.variances)[None] * along**2
    return constant[None] - 0.5 * ((away**2).sum(-1) / rest[None] - shrunk.sum(-1))
