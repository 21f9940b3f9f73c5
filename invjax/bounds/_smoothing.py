r"""Randomized smoothing: an l2 certificate for any classifier that holds with high probability.

The smoothed classifier predicts the class that the base classifier predicts most often under Gaussian noise of standard
deviation sigma. If the base classifier predicts this class with probability p > 1/2, the smoothed classifier predicts
it for every image within the l2 distance

    radius = sigma * Phi^-1(p).

The probability p is unknown, so a Clopper-Pearson lower bound from n noisy copies takes its place. The certificate
concerns the smoothed classifier, not the base classifier.

Source: Cohen, Rosenfeld, Kolter 2019, *Certified Adversarial Robustness via Randomized Smoothing*, theorem 1 (in its
two-class form) and algorithm CERTIFY.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int
from scipy import special

from invjax import _check, _logits
from invjax._dtypes import check_noise, wide
from invjax._sharding import automatic, varying
from invjax.attacks.building import example_keys
from invjax.types import Array, Key, Labels, LogitsFn, PerExample, Scalar

ABSTAIN = -1
"""The label of the smoothed classifier if no class is certain to be the most frequent."""


class Smoothed(NamedTuple):
    """The predictions of the smoothed classifier and their certificates.

    Attributes:
        label: `[B]`, the predicted class or `ABSTAIN`.
        radius: `[B]`, the l2 distance within which the label does not change, rounded down; 0 where the classifier
            abstains.
    """

    label: Labels
    radius: PerExample


def smoothing_radius(
    successes: Int[np.ndarray, "..."] | int, trials: int, *, sigma: float, alpha: float = 1e-3
) -> Float[np.ndarray, "..."] | float:
    """The certified radius `sigma * Phi^-1(p)`, or 0 (abstain) if p <= 1/2.

    Here p is the lower end of the one-sided Clopper-Pearson interval.

    >>> smoothing_radius(1000, 1000, sigma=0.5).round(3), smoothing_radius(520, 1000, sigma=0.5)
    (np.float64(1.232), np.float64(0.0))

    Args:
        successes: the number of noisy copies of an image that got the class. The class must have been chosen on other
            copies.
        trials: the number of noisy copies.
        sigma: standard deviation of the noise, in units of the image.
        alpha: probability that the radius is wrong.

    Returns:
        The radius in l2, of the shape of `successes`.

    Raises:
        ValueError: `sigma` or `trials` is not positive, `alpha` is outside (0, 1), or successes are below 0 or above
            `trials`.
    """
    _check.positive(sigma=sigma, trials=trials)
    _check_probability(alpha)
    successes = np.asarray(successes)
    if successes.size and (successes.min() < 0 or successes.max() > trials):
        raise ValueError(
            f"successes must be from 0 to trials={trials}; got {successes.min()} to {successes.max()}; "
            "count the trials that gave the class"
        )
    # the quantile of Beta(successes, trials - successes + 1); without a success the bound is 0
    lower = np.where(successes > 0, special.betaincinv(np.maximum(successes, 1), trials - successes + 1.0, alpha), 0.0)
    return np.where(lower > 0.5, sigma * special.ndtri(np.maximum(lower, 0.5)), 0.0)[()]


def smoothed(
    key: Key,
    logits_fn: LogitsFn,
    x: Array,
    *,
    sigma: float,
    trials: int = 1000,
    selection: int = 100,
    alpha: float = 1e-3,
    ids: Any = None,
) -> Smoothed:
    """The predictions of the smoothed classifier and their certified radii; `jax.jit` can compile the function.

    The class is chosen on `selection` noisy copies of each image and counted on `trials` other copies. Each copy costs
    one forward pass of the batch. With n trials no radius exceeds `sigma * Phi^-1(alpha^(1/n))`, which is 2.46 sigma
    for the defaults.

    Args:
        key: random key.
        logits_fn: `x [B, ...] -> logits [B, K]`, the base classifier, which needs training with noise.
        x: images, `[B, ...]`; their noisy copies leave [0, 1] and are not clipped.
        sigma: standard deviation of the noise, in units of `x`.
        trials: number of copies for the count.
        selection: number of copies for the choice of the class.
        alpha: probability, for each image, that its radius is wrong.
        ids: `[B]`, positions of the images in the data set, so that an image gets the same noise in any batch.

    Returns:
        Labels and radii, `[B]` each.

    Raises:
        ValueError: `sigma` or a count is not positive, `alpha` is outside (0, 1), the images are integers or contain
            NaN or are too coarse for the noise, or the output of the model is not `[B, K]`.
    """
    _check.key(key)
    _check.function("logits_fn", logits_fn, "x -> logits")
    _check.positive(sigma=sigma)
    _check.count(trials=trials, selection=selection)
    _check_probability(alpha)
    _check.real("x", x)
    given = jnp.asarray(x)
    check_noise("x", given, sigma)
    num_classes = _logits.num_classes(logits_fn, given, None)
    radii = _radii_below(trials, sigma, alpha)

    @automatic
    def certificates(logits_fn, given, key, ids):
        x, keys = wide(given), example_keys(key, ids, len(given))

        def answers(first, count):
            """The number of copies for which each class was predicted, `[B, K]`."""

            def draw(i, counts):
                noise = jax.vmap(lambda k, image: jax.random.normal(jax.random.fold_in(k, i), image.shape, x.dtype))(
                    keys, x
                )
                logits = logits_fn((x + sigma * noise).astype(given.dtype))
                votes = jax.nn.one_hot(logits.argmax(-1), num_classes, dtype=jnp.int32)
                # no vote for NaN, and none if the largest logit is infinite; a class that is masked by -inf only loses
                return counts + jnp.where(jnp.isfinite(logits.max(-1, keepdims=True)), votes, 0)

            none = varying(x, jnp.zeros((len(x), num_classes), jnp.int32))
            return lax.fori_loop(first, first + count, draw, none)

        chosen = answers(0, selection).argmax(-1)
        radius = jnp.asarray(radii)[answers(selection, trials)[jnp.arange(len(x)), chosen]]
        return Smoothed(jnp.where(radius > 0, chosen, ABSTAIN).astype(jnp.int32), radius)

    return certificates(logits_fn, given, key, ids)


def _radii_below(trials: int, sigma: float, alpha: float) -> np.ndarray:
    """The radius for each number of successes, 0, ..., trials, rounded down to float32."""
    exact = np.asarray(smoothing_radius(np.arange(trials + 1), trials, sigma=sigma, alpha=alpha))
    near = exact.astype(np.float32)
    return np.where(near > exact, np.nextafter(near, np.float32(0)), near)


def _check_probability(alpha: Scalar) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1); got alpha={alpha}; a usual value is 0.001")
