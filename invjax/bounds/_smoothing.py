r"""Randomised smoothing: a certificate for any classifier, in l2, that holds with high probability.

The smoothed classifier answers what the base classifier says most often of the image under Gaussian noise of standard
deviation sigma. If it gives the answer with probability p > 1/2, it gives the same answer within

    radius = sigma * Phi^-1(p)

of the image. p is not known; a Clopper-Pearson lower bound from n noisy copies takes its place. The certificate is for
the smoothed classifier, not for the one inside.

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

from invjax import _check
from invjax.attacks.building import example_keys
from invjax.types import Array, Key, Labels, LogitsFn, PerExample, Scalar

ABSTAIN = -1
"""The label of the smoothed classifier where no class is surely the most frequent."""


class Smoothed(NamedTuple):
    """What the smoothed classifier says.

    Attributes:
        label: `[B]`, or `ABSTAIN`.
        radius: `[B]`, in l2, within which the label is the same; 0 where it abstains.
    """

    label: Labels
    radius: PerExample


def smoothing_radius(
    successes: Int[np.ndarray, "..."] | int, trials: int, *, sigma: float, alpha: float = 1e-3
) -> Float[np.ndarray, "..."] | float:
    """`sigma * Phi^-1(p)`, p the lower end of the one-sided Clopper-Pearson interval; 0 (abstain) where p <= 1/2.

    >>> smoothing_radius(1000, 1000, sigma=0.5).round(3), smoothing_radius(520, 1000, sigma=0.5)
    (np.float64(1.232), np.float64(0.0))

    Args:
        successes: how many noisy copies of an image got the class, which was chosen before on other copies.
        trials: how many there were.
        sigma: standard deviation of the noise.
        alpha: probability with which the radius may be wrong.

    Raises:
        ValueError: `sigma` or `trials` not positive, `alpha` outside of (0, 1), successes below 0 or above `trials`.
    """
    _check.positive(sigma=sigma, trials=trials)
    _check_share(alpha)
    successes = np.asarray(successes)
    if successes.size and (successes.min() < 0 or successes.max() > trials):
        raise ValueError(
            f"successes must be from 0 to trials={trials}; got {successes.min()} to {successes.max()}; "
            "count how many of the trials gave the class"
        )
    # the quantile of Beta(successes, trials - successes + 1); no success bounds nothing
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
    """The smoothed classifier's answer and its certified radius.

    The class is chosen on `selection` noisy copies of each image and counted on `trials` others, one forward pass of
    the batch a copy. With n trials no radius exceeds `sigma * Phi^-1(alpha^(1/n))`: 2.46 sigma for the defaults.

    Args:
        key: random key.
        logits_fn: `x [B, ...] -> logits [B, K]`, the base classifier, compiled here or not; for accuracy, one that was
            trained with noise.
        x: images, `[B, ...]`; their noisy copies leave [0, 1] and are not clipped.
        sigma: standard deviation of the noise, in units of `x`.
        trials: copies for the count.
        selection: copies for the choice.
        alpha: probability, for each image, with which its radius may be wrong.
        ids: `[B]`, places of the images in the data set: an image gets the same noise in any batch.

    Raises:
        ValueError: numbers that are not positive, `alpha` outside of (0, 1), integer or NaN images, a model whose
            output is not `[B, K]`.
    """
    _check.positive(sigma=sigma, trials=trials, selection=selection)
    _check_share(alpha)
    _check.floating("x", x)
    _check.finite("x", x)
    x = jnp.asarray(x)
    classes = _check.logits_of(logits_fn, x, jax.ShapeDtypeStruct(x.shape[:1], jnp.int32))
    keys = example_keys(key, ids, len(x))

    def answers(first, count):
        """How often each class was the answer, `[B, K]`."""

        def draw(i, counts):
            noise = jax.vmap(lambda k, image: jax.random.normal(jax.random.fold_in(k, i), image.shape, x.dtype))(
                keys, x
            )
            logits = logits_fn(x + sigma * noise)
            votes = jax.nn.one_hot(logits.argmax(-1), classes, dtype=jnp.int32)
            return counts + jnp.where(jnp.isfinite(logits).all(-1, keepdims=True), votes, 0)  # NaN is no answer

        return lax.fori_loop(first, first + count, draw, jnp.zeros((len(x), classes), jnp.int32))

    chosen = answers(0, selection).argmax(-1)
    counts = answers(selection, trials)[jnp.arange(len(x)), chosen]
    radius = np.asarray(smoothing_radius(np.asarray(counts), trials, sigma=sigma, alpha=alpha))
    return Smoothed(np.where(radius > 0, np.asarray(chosen), ABSTAIN).astype(np.int32), radius)


def _check_share(alpha: Scalar) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1); got alpha={alpha}; 0.001 is usual")
