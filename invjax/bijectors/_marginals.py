r"""Normal marginals of the nuisance: one monotone map for each predicted class and dimension.

z_s = x_s,    z_i = g_ci(x_i),    c = argmax x_s
"""

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.bijectors._bijector import Bijector, total
from invjax.bijectors._code import on_host, split_code


def decision_marginals(num_classes: int, knots: int = 64) -> Bijector:
    """`z_i = g_ci(x_i)`: an increasing, piecewise linear map to a normal marginal for each class and dimension.

    After `init` the empirical quantiles of each class, at `knots` levels, are those of the standard normal. Beyond the
    outermost knots the map is linear with the slope of the last piece. The map is the identity for a class with fewer
    than two examples.

    Args:
        num_classes: number of classes K.
        knots: number of knots of each map, at least 2.

    Raises:
        ValueError: `num_classes` is not positive, or `knots` is less than 2.

    Source: Laparra, Camps-Valls, Malo 2011, *Iterative Gaussianization: from ICA to Random Rotations*. Alternated with
    `decision_whitening`, this is their rotation-based iterative Gaussianization, with one map for each class.
    """
    _check.positive(num_classes=num_classes)
    if knots < 2:
        raise ValueError(f"knots must be at least 2; got {knots}")
    # levels are denser in the tails: evenly spaced ones would leave the tails to extrapolation
    levels = (1 - np.cos(np.pi * (np.arange(knots) + 0.5) / knots)) / 2
    normal = np.array([NormalDist().inv_cdf(level) for level in levels])

    def quantiles(decision, nuisance):
        found = np.tile(normal, (num_classes, nuisance.shape[1], 1))
        for c in range(num_classes):
            members = nuisance[decision == c].astype(np.float64)
            if len(members) > 1:
                found[c] = np.quantile(members, levels, axis=0).T
        return found.astype(nuisance.dtype)

    def init(key, x):
        logits, nuisance = split_code(x, num_classes)
        shape = jax.ShapeDtypeStruct((num_classes, nuisance.shape[1], knots), x.dtype)
        found = on_host(quantiles, shape, logits.argmax(1), nuisance)
        return {"first": found[..., 0], "log_step": jnp.log(jnp.maximum(jnp.diff(found), 1e-4))}

    def piece(params, logits, values, of_output):
        """The piece that holds each value: its start in x, its start in z, and the logarithm of its slope."""
        c, ends = logits.argmax(1), jnp.asarray(normal, values.dtype)
        first = params["first"][..., None]
        starts = jnp.concatenate([first, first + jnp.cumsum(jnp.exp(params["log_step"]), -1)], -1)[c]
        inner = ends[None, None, 1:-1] if of_output else starts[..., 1:-1]
        index = (values[..., None] >= inner).sum(-1)
        x_start = jnp.take_along_axis(starts, index[..., None], -1)[..., 0]
        log_step = jnp.take_along_axis(params["log_step"][c], index[..., None], -1)[..., 0]
        return x_start, ends[index], jnp.log(jnp.diff(ends))[index] - log_step

    def forward(params, x):
        logits, nuisance = split_code(x, num_classes)
        x_start, z_start, log_slope = piece(params, logits, nuisance, of_output=False)
        z = z_start + (nuisance - x_start) * jnp.exp(log_slope)
        return jnp.concatenate([logits, z], 1), total(log_slope)

    def inverse(params, z):
        logits, nuisance = split_code(z, num_classes)
        x_start, z_start, log_slope = piece(params, logits, nuisance, of_output=True)
        x = x_start + (nuisance - z_start) * jnp.exp(-log_slope)
        return jnp.concatenate([logits, x], 1), -total(log_slope)

    return Bijector(init, forward, inverse)
