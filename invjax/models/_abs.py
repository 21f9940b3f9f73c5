r"""Analysis by synthesis: an image belongs to the class whose generative model explains it best.

Each class has a variational autoencoder of its own. To classify x, each class looks for the latents z that explain x,

    cost_c(x) = min_z [ |x - G_c(z)|^2 + beta / 2 |z|^2 ] / D,    logits = -cost,

first among many draws from the prior, whose images are the same for every x and are decoded once (`with_prior`), and
from the best of them by gradient steps. (|z|^2 / 2 is the divergence of N(z, I) from the prior.)

    params = with_prior(stack_vaes([vae_0, vae_1, ...]), prior_latents(key, 8000))     # autoencoders: see class_vae.py
    logits = analysis_by_synthesis().apply(params, x)

Source: Schott, Rauber, Bethge, Brendel 2019, *Towards the first adversarially robust neural network model on MNIST*.
Their released code keeps the last of its latents, this the best of all that it has tried.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from invjax import _check
from invjax.models._class_vae import ClassVae, decode, init_class_vae, mnist_shaped, negative_elbo, stack_vaes
from invjax.types import Array, Images, Key, Net

BINARY_SCALES = (1.0, 0.96, 1.001, 1.06, 0.98, 0.96, 1.03, 1.0, 1.0, 1.0)
"""By which Binary-ABS multiplies the cost of each digit, as released."""

_EXACT = jax.lax.Precision.HIGHEST  # distances are differences of large numbers
_AT_ONCE = 1000  # draws of the prior decoded at once


class AbsParams(NamedTuple):
    """What `analysis_by_synthesis` classifies with; made by `with_prior`.

    Attributes:
        vaes: stacked over K classes.
        latents: `[N, L]`, draws from the prior, the same for all classes.
        images: `[K, N, D]`, what each class makes of them.
    """

    vaes: ClassVae
    latents: Float[Array, "draws latent"]
    images: Float[Array, "classes draws size"]


def prior_latents(key: Key, count: int, latent: int = 8, dismissed: float | int = 0.1) -> Float[Array, "draws latent"]:
    """Draws from the prior N(0, I), without the least probable ones: `[count, latent]`.

    Args:
        key: random key.
        count: N, draws that are kept; the paper keeps 8,000.
        latent: L.
        dismissed: the share of all draws that is thrown away, in [0, 1).

    Raises:
        ValueError: numbers out of range.
    """
    _check.positive(count=count, latent=latent)
    if not 0 <= dismissed < 1:
        raise ValueError(f"dismissed must be in [0, 1); got {dismissed}")
    z = jax.random.normal(key, (int(count / (1 - dismissed)), latent))
    return z[jnp.argsort((z**2).sum(1))[:count]]


def with_prior(vaes: ClassVae, latents: Float[Array, "draws latent"]) -> AbsParams:
    """Decode the prior once, so that each query only compares. The images take `4 K N D` bytes.

    Args:
        vaes: stacked over classes (`stack_vaes`).
        latents: `[N, L]`, from `prior_latents`.
    """
    latents = jnp.asarray(latents)

    def of_class(vae):
        return jax.lax.map(lambda z: decode(vae, z[None]).ravel(), latents, batch_size=_AT_ONCE)

    return AbsParams(vaes, latents, jax.lax.map(of_class, vaes))


def explained(
    params: AbsParams,
    x: Images,
    *,
    steps: int = 50,
    step_size: float = 0.05,
    clip: float | int = 5.0,
    kl_weight: float | int = 1.0,
) -> Float[Array, "batch classes latent"]:
    """The latents by which each class explains each image best, as far as the search finds them: `[B, K, L]`.

    The best of the prior's draws, then steps of Adam. What is returned is the best point met on the way, so no draw is
    better.

    Args:
        params: from `with_prior`.
        x: `[B, 28, 28, 1]` images.
        steps: of Adam; 0 keeps the best draw.
        step_size: Adam's.
        clip: steps lead to no latents of a larger norm.
        kl_weight: beta.
    """
    mnist_shaped(x)
    flat = x.reshape(len(x), -1)
    adam = optax.adam(step_size)
    prior_cost = kl_weight * 0.5 * (params.latents**2).sum(1)

    def of_class(vae_and_images):
        vae, images = vae_and_images
        # |x|^2 is left out: it is the same for all draws
        cost = (images**2).sum(1) + prior_cost
        cost = cost[None] - 2 * jnp.matmul(flat, images.T, precision=_EXACT)
        start = params.latents[cost.argmin(1)]

        def total(z):
            costs = negative_elbo(vae, x, z, kl_weight)
            return costs.sum(), costs

        def better(best, z, costs):
            best_z, best_costs = best
            lower = costs < best_costs
            return jnp.where(lower[:, None], z, best_z), jnp.where(lower, costs, best_costs)

        def step(carry, _):
            z, state, best = carry
            (_, costs), gradient = jax.value_and_grad(total, has_aux=True)(z)
            update, state = adam.update(gradient, state)
            moved = z + update
            norm = jnp.sqrt((moved**2).sum(1, keepdims=True))
            return (moved * jnp.minimum(1, clip / jnp.maximum(norm, 1e-12)), state, better(best, z, costs)), None

        first = start, jnp.full(len(x), jnp.inf, x.dtype)
        (z, _, best), _ = jax.lax.scan(step, (start, adam.init(start), first), None, length=steps)
        return better(best, z, negative_elbo(vae, x, z, kl_weight))[0] if steps else start

    return jax.lax.map(of_class, (params.vaes, params.images)).swapaxes(0, 1)


def analysis_by_synthesis(
    classes: int = 10,
    *,
    draws: int = 8000,
    latent: int = 8,
    steps: int = 50,
    step_size: float = 0.05,
    clip: float | int = 5.0,
    kl_weight: float | int = 1.0,
    binary: bool = False,
    scales: Sequence[float] | None = None,
) -> Net:
    """Analysis by synthesis as a network, `apply(params, x [B, 28, 28, 1]) -> logits [B, K]`: minus each class's cost.

    The gradient of the logits holds the latents where the search ended; where that is a minimum, this is the gradient
    of the minimum (and it costs no more than one decoding). Binary-ABS is `binary=True, scales=BINARY_SCALES`; its
    gradient is zero.

    Args:
        classes: K.
        draws: N, of the prior, for the parameters that `init` makes.
        latent: L, likewise.
        steps: of Adam in the search, 50 in the paper; see `explained` for this and the next three.
        step_size: Adam's.
        clip: steps lead to no latents of a larger norm.
        kl_weight: beta.
        binary: look at black and white: values above 1/2 become 1, all others 0.
        scales: `[K]`, the cost of each class is multiplied by them; None: by 1.

    Returns:
        `Net(init, apply)`; `init` makes untrained autoencoders, and trained ones come as `with_prior(vaes, latents)`.

    Raises:
        ValueError: numbers that are not positive; scales of another number than classes.

    Source: Schott et al. 2019; the numbers are those of the released model.
    """
    _check.positive(classes=classes, draws=draws, latent=latent, step_size=step_size, clip=clip)
    _check.number("steps", steps)
    _check.number("kl_weight", kl_weight)
    if scales is not None and len(scales) != classes:
        raise ValueError(f"scales needs one number a class, {classes}; got {len(scales)}")

    def init(key, x):
        mnist_shaped(x)
        prior_key, *keys = jax.random.split(key, classes + 1)
        vaes = stack_vaes([init_class_vae(class_key, latent) for class_key in keys])
        return with_prior(vaes, prior_latents(prior_key, draws, latent))

    def apply(params: Any, x: Array) -> jax.Array:
        x = jnp.asarray(black_and_white(x) if binary else x)
        fixed = jax.lax.stop_gradient((params, x))
        z = explained(*fixed, steps=steps, step_size=step_size, clip=clip, kl_weight=kl_weight)
        costs = jax.lax.map(lambda one: negative_elbo(one[0], x, one[1], kl_weight), (params.vaes, z.swapaxes(0, 1)))
        return -costs.T if scales is None else -costs.T * jnp.asarray(np.asarray(scales), x.dtype)[None]

    return Net(init, apply)


def black_and_white(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 where a value is above 1/2, 0 elsewhere.

    >>> black_and_white(jnp.array([0.0, 0.5, 0.51])).tolist()
    [0.0, 0.0, 1.0]
    """
    return (x > 0.5).astype(x.dtype)
