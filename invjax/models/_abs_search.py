r"""The search of analysis by synthesis: the latents of lowest cost for each image and each class.

    cost_c(x) = min_z [ |x - G_c(z)|^2 + |z|^2 / 2 ] / D

The search compares x with the images of many draws from the prior. The images do not depend on x, so `with_prior`
decodes them once. Gradient steps then start from the best draw.

Source: Schott, Rauber, Bethge, Brendel 2019, *Towards the first adversarially robust neural network model on MNIST*.
Their released code returns the last latents of its search; ours returns the best ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from invjax import _check
from invjax._sharding import varying
from invjax.models._class_vae import ClassVae, decode, mnist_shaped, negative_elbo
from invjax.types import Array, Images, Key

_EXACT = jax.lax.Precision.HIGHEST  # distances are differences of large numbers
_DECODED_TOGETHER = 1000  # draws of the prior


class AbsParams(NamedTuple):
    """The parameters of `analysis_by_synthesis`, as `with_prior` returns them.

    Attributes:
        vaes: the autoencoders of K classes, stacked.
        latents: `[N, L]`, draws from the prior, the same for all classes.
        images: `[K, N, D]`, the images of the draws by the decoder of each class.
    """

    vaes: ClassVae
    latents: Float[Array, "draws latent"]
    images: Float[Array, "classes draws size"]


def prior_latents(
    key: Key, count: int, latent: int = 8, discarded_fraction: float | int = 0.1
) -> Float[Array, "draws latent"]:
    """Draws `[count, latent]` from the prior N(0, I), without the least probable ones.

    Args:
        key: random key.
        count: number N of draws that are returned; 8,000 in the paper.
        latent: number of latents L.
        discarded_fraction: fraction of all draws that is discarded, in [0, 1).

    Raises:
        ValueError: `key` is no random key, `count` or `latent` is no positive whole number, or `discarded_fraction` is
            outside [0, 1).
    """
    _check.key(key)
    _check.count(count=count, latent=latent)
    if not 0 <= discarded_fraction < 1:
        raise ValueError(f"discarded_fraction must be in [0, 1); got {discarded_fraction}")
    z = jax.random.normal(key, (int(count / (1 - discarded_fraction)), latent))
    return z[jnp.argsort((z**2).sum(1))[:count]]


def with_prior(vaes: ClassVae, latents: Float[Array, "draws latent"]) -> AbsParams:
    """Decode the draws from the prior once for all queries. The images take `4 K N D` bytes.

    Args:
        vaes: autoencoders, stacked over classes by `stack_vaes`.
        latents: `[N, L]`, from `prior_latents`.

    Returns:
        The parameters of `analysis_by_synthesis`.
    """
    latents = jnp.asarray(latents)

    def of_class(vae):
        return jax.lax.map(lambda z: decode(vae, z[None]).ravel(), latents, batch_size=_DECODED_TOGETHER)

    return AbsParams(vaes, latents, jax.lax.map(of_class, vaes))


def best_latents(
    params: AbsParams,
    x: Images,
    *,
    steps: int = 50,
    step_size: float = 0.05,
    clip: float | int = 5.0,
) -> Float[Array, "batch classes latent"]:
    """The latents of lowest cost that the search finds for each image and each class: `[B, K, L]`.

    The search starts from the draw of lowest cost and takes steps of Adam. It returns the best point on its path, so no
    draw has a lower cost.

    Args:
        params: parameters from `with_prior`.
        x: images `[B, 28, 28, 1]`.
        steps: steps of Adam; 0 returns the best draw.
        step_size: step size of Adam.
        clip: largest norm of the latents after a step.
    """
    mnist_shaped(x)
    flat = x.reshape(len(x), -1)
    adam = optax.adam(step_size)
    prior_cost = 0.5 * (params.latents**2).sum(1)

    def of_class(vae_and_images):
        vae, images = vae_and_images
        # |x|^2 is omitted, because it is the same for all draws
        cost = (images**2).sum(1) + prior_cost
        cost = cost[None] - 2 * jnp.matmul(flat, images.T, precision=_EXACT)
        start = params.latents[cost.argmin(1)]

        def total(z):
            costs = negative_elbo(vae, x, z)
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

        nothing = start, jnp.full(len(x), jnp.inf, jax.eval_shape(total, start)[1].dtype)
        first = varying(x, (start, adam.init(start), nothing))
        (z, _, best), _ = jax.lax.scan(step, first, None, length=steps)
        return better(best, z, negative_elbo(vae, x, z))[0] if steps else start

    return jax.lax.map(of_class, (params.vaes, params.images)).swapaxes(0, 1)
