r"""Analysis by synthesis: the predicted class is the one whose generative model explains the image best.

Each class has its own variational autoencoder with decoder G_c. For each class a search finds the latents z that
explain the image x at the lowest cost,

    cost_c(x) = min_z [ |x - G_c(z)|^2 + |z|^2 / 2 ] / D,    logits = -cost.

D is the number of values of an image, and `|z|^2 / 2` is the divergence of N(z, I) from the prior.

    params = with_prior(stack_vaes([vae_0, vae_1, ...]), prior_latents(key, 8000))
    logits = analysis_by_synthesis().apply(params, x)

Source: Schott, Rauber, Bethge, Brendel 2019, *Towards the first adversarially robust neural network model on MNIST*.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from invjax import _check
from invjax.models._abs_search import best_latents, prior_latents, with_prior
from invjax.models._class_vae import init_class_vae, mnist_shaped, negative_elbo, stack_vaes
from invjax.types import Array, Net

BINARY_SCALES = (1.0, 0.96, 1.001, 1.06, 0.98, 0.96, 1.03, 1.0, 1.0, 1.0)
"""The factors of the released Binary-ABS model on the cost of each digit."""


def analysis_by_synthesis(
    num_classes: int = 10,
    *,
    draws: int = 8000,
    latent: int = 8,
    steps: int = 50,
    clip: float | int = 5.0,
    binary: bool = False,
    scales: Sequence[float] | None = None,
) -> Net:
    """Analysis by synthesis as a network: `apply(params, x [B, 28, 28, 1]) -> logits [B, K]`, the negative costs.

    The gradient of the logits treats the latents that the search found as constants. At a minimum this is the exact
    gradient of the cost, and it needs one decoding only. Binary-ABS is `binary=True, scales=BINARY_SCALES`; its
    gradient is zero.

    Args:
        num_classes: number of classes K.
        draws: number N of draws from the prior in the parameters of `init`.
        latent: number of latents L in the parameters of `init`.
        steps: steps of Adam in the search, 50 in the paper.
        clip: largest norm of the latents in the search.
        binary: classify binarised images: values above 1/2 become 1, all others 0.
        scales: `[K]`, factors on the costs of the classes, or None for factors of 1.

    Returns:
        `Net(init, apply)`. `init` returns untrained autoencoders; `with_prior(vaes, latents)` returns the parameters
        for trained ones.

    Raises:
        ValueError: a number is not positive, or `scales` does not hold one number for each class.

    Source: Schott et al. 2019. The defaults are those of the released model.
    """
    _check.positive(num_classes=num_classes, draws=draws, latent=latent, clip=clip)
    _check.number("steps", steps)
    if scales is not None and len(scales) != num_classes:
        raise ValueError(f"scales needs one number for each of {num_classes} classes; got {len(scales)}")

    def init(key, x):
        mnist_shaped(x)
        prior_key, *keys = jax.random.split(key, num_classes + 1)
        vaes = stack_vaes([init_class_vae(class_key, latent) for class_key in keys])
        return with_prior(vaes, prior_latents(prior_key, draws, latent))

    def apply(params: Any, x: Array) -> jax.Array:
        x = jnp.asarray(black_and_white(x) if binary else x)
        fixed = jax.lax.stop_gradient((params, x))
        z = best_latents(*fixed, steps=steps, clip=clip)
        costs = jax.lax.map(lambda one: negative_elbo(one[0], x, one[1]), (params.vaes, z.swapaxes(0, 1)))
        return -costs.T if scales is None else -costs.T * jnp.asarray(np.asarray(scales), x.dtype)[None]

    return Net(init, apply)


def black_and_white(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Binarised values: 1 where a value is above 1/2, and 0 elsewhere.

    >>> black_and_white(jnp.array([0.0, 0.5, 0.51])).tolist()
    [0.0, 0.0, 1.0]

    Args:
        x: `[...]`, values of any shape, such as images in [0, 1].

    Returns:
        The values 0 and 1, in the shape and dtype of `x`.
    """
    return (x > 0.5).astype(x.dtype)
