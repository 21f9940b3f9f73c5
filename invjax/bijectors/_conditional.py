r"""Bijectors of a code that know its decision: the logits pass unchanged and choose how the nuisance is mapped.

    z_s = x_s,    z_n = g_c(x_n),    c = argmax x_s.

Every g_c is invertible, and the inverse reads c off the same logits, so the whole is invertible too. With an encoder
that is the same for all classes, what the nuisance says about the class can only be hidden; here it can be taken out,
because the decision holds it already: in the limit where each g_c carries the data of its class to one and the same
density, the nuisance says nothing about the class, and the code's prior is factorial, as independence cross-entropy
asks (Jacobsen et al. 2019, definition 5).

All act on vectors `x [B, D]`, whose first `num_classes` values are the logits.
"""

from collections.abc import Callable
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.bijectors._base import Bijector, no_logdet
from invjax.types import Net

_EXACT = jax.lax.Precision.HIGHEST


def _split(x, num_classes):
    if x.ndim != 2 or x.shape[1] < num_classes + 2:
        raise ValueError(
            f"x must be vectors [B, D] with D at least {num_classes + 2}: {num_classes} logits and a nuisance; "
            f"got {x.shape}; put flatten() first"
        )
    return x[:, :num_classes], x[:, num_classes:]


def _on_host(function, shapes, *arrays):
    """`function` of NumPy arrays; a callback only under a trace, as a large one can stall a CPU of many devices."""
    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        return jax.pure_callback(lambda *values: function(*map(np.asarray, values)), shapes, *arrays)
    return jax.tree.map(jnp.asarray, function(*map(np.asarray, arrays)))


def _decision(logits):
    return jax.nn.one_hot(logits.argmax(1), logits.shape[1], dtype=logits.dtype)


def logit_coupling(net_fn: Callable[[int], Net], num_classes: int) -> Bijector:
    """`z_s = x_s + net(x_n)`, `z_n = x_n`: any classifier of the nuisance becomes the logits of an invertible net.

    Args:
        net_fn: `outputs -> Net`, a classifier `[B, D - num_classes] -> [B, outputs]`; here outputs = num_classes.
        num_classes: K.
    """
    _check.positive(num_classes=num_classes)
    net = net_fn(num_classes)

    def init(key, x):
        return net.init(key, _split(x, num_classes)[1])

    def forward(params, x):
        logits, nuisance = _split(x, num_classes)
        return jnp.concatenate([logits + net.apply(params, nuisance), nuisance], 1), no_logdet(x)

    def inverse(params, z):
        logits, nuisance = _split(z, num_classes)
        return jnp.concatenate([logits - net.apply(params, nuisance), nuisance], 1), no_logdet(z)

    return Bijector(init, forward, inverse)


def decision_whitening(num_classes: int, min_std: float = 1e-3) -> Bijector:
    """`z_n = R_c (x_n - mean_c) / std_c`: after `init` the nuisance of each class has mean 0 and covariance 1.

    `R_c` turns to the principal axes of class c, widest first. No classifier that sees only means and covariances can
    then tell the classes apart. `mean` and `std` may be trained further; `rotation` is fixed.

    Args:
        num_classes: K.
        min_std: smallest standard deviation that is divided by, in units of the input. That of dequantisation noise is
            1e-3.

    Its `init` estimates D x D covariances from the decisions that it is given: it wants many times more examples of
    each class than dimensions. A class without two examples keeps its nuisance as it is.
    """
    _check.positive(num_classes=num_classes, min_std=min_std)

    def principal_axes(decision, nuisance):
        """On the host in float64: variances differ by a factor of a million."""
        size = nuisance.shape[1]
        mean, std = np.zeros((num_classes, size)), np.ones((num_classes, size))
        rotation = np.tile(np.eye(size), (num_classes, 1, 1))
        for c in range(num_classes):
            members = nuisance[decision == c].astype(np.float64)
            if len(members) < 2:
                continue
            mean[c] = members.mean(0)
            variance, axes = np.linalg.eigh(np.cov(members.T))
            std[c] = np.sqrt(np.maximum(variance[::-1], min_std**2))
            rotation[c] = axes[:, ::-1]
        return tuple(value.astype(nuisance.dtype) for value in (mean, np.log(std), rotation))

    def init(key, x):
        logits, nuisance = _split(x, num_classes)
        table = (num_classes, nuisance.shape[1])
        shapes = [jax.ShapeDtypeStruct(s, x.dtype) for s in (table, table, (*table, table[1]))]
        mean, log_std, rotation = _on_host(principal_axes, shapes, logits.argmax(1), nuisance)
        return {"mean": mean, "log_std": log_std, "rotation": rotation}

    def turn(params, c, nuisance, subscripts):
        rotation = jax.lax.stop_gradient(params["rotation"])
        return jnp.einsum(subscripts, c, nuisance, rotation, precision=_EXACT)

    def chosen(table, c):
        return jnp.matmul(c, table, precision=_EXACT)

    def forward(params, x):
        logits, nuisance = _split(x, num_classes)
        c = _decision(logits)
        log_std = chosen(params["log_std"], c)
        turned = turn(params, c, nuisance - chosen(params["mean"], c), "bk,bi,kij->bj")
        return jnp.concatenate([logits, turned * jnp.exp(-log_std)], 1), -log_std.sum(1)

    def inverse(params, z):
        logits, nuisance = _split(z, num_classes)
        c = _decision(logits)
        log_std = chosen(params["log_std"], c)
        turned = turn(params, c, nuisance * jnp.exp(log_std), "bk,bj,kij->bi")
        return jnp.concatenate([logits, turned + chosen(params["mean"], c)], 1), log_std.sum(1)

    return Bijector(init, forward, inverse)


def soft_tails(num_classes: int) -> Bijector:
    """`z_n = arcsinh(x_n)`, value by value: the identity near 0, a logarithm far out.

    For what reads the code: a pixel that is hardly ever set lies hundreds of standard deviations out.

    Args:
        num_classes: K.
    """
    _check.positive(num_classes=num_classes)

    def forward(params, x):
        logits, nuisance = _split(x, num_classes)
        return jnp.concatenate([logits, jnp.arcsinh(nuisance)], 1), -0.5 * jnp.log1p(nuisance**2).sum(1)

    def inverse(params, z):
        logits, nuisance = _split(z, num_classes)
        x = jnp.sinh(nuisance)
        return jnp.concatenate([logits, x], 1), 0.5 * jnp.log1p(x**2).sum(1)

    return Bijector(lambda key, x: (), forward, inverse)


def decision_marginals(num_classes: int, knots: int = 64) -> Bijector:
    """`z_i = g_ci(x_i)`: for each class and dimension the increasing, piecewise linear map that makes it normal.

    After `init` the empirical quantiles of each class, at `knots` levels, are those of the standard normal. Beyond the
    outermost knots the map goes on with the slope of its last piece. Alternating with `decision_whitening` it is the
    rotation-based iterative Gaussianization of Laparra et al. 2011, one for each class.

    Args:
        num_classes: K.
        knots: of each map, at least 2.

    A class without two examples keeps its nuisance as it is.
    """
    _check.positive(num_classes=num_classes)
    if knots < 2:
        raise ValueError(f"knots must be at least 2, the ends of one piece; got {knots}")
    # evenly spaced levels would leave the tails to extrapolation
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
        logits, nuisance = _split(x, num_classes)
        shape = jax.ShapeDtypeStruct((num_classes, nuisance.shape[1], knots), x.dtype)
        found = _on_host(quantiles, shape, logits.argmax(1), nuisance)
        return {"first": found[..., 0], "log_step": jnp.log(jnp.maximum(jnp.diff(found), 1e-4))}

    def piece(params, logits, values, of_output):
        """For each value its piece: where it starts in x and in z, and the logarithm of its slope."""
        c, ends = logits.argmax(1), jnp.asarray(normal, values.dtype)
        first = params["first"][..., None]
        starts = jnp.concatenate([first, first + jnp.cumsum(jnp.exp(params["log_step"]), -1)], -1)[c]
        inner = ends[None, None, 1:-1] if of_output else starts[..., 1:-1]
        index = (values[..., None] >= inner).sum(-1)
        x_start = jnp.take_along_axis(starts, index[..., None], -1)[..., 0]
        log_step = jnp.take_along_axis(params["log_step"][c], index[..., None], -1)[..., 0]
        return x_start, ends[index], jnp.log(jnp.diff(ends))[index] - log_step

    def forward(params, x):
        logits, nuisance = _split(x, num_classes)
        x_start, z_start, log_slope = piece(params, logits, nuisance, of_output=False)
        z = z_start + (nuisance - x_start) * jnp.exp(log_slope)
        return jnp.concatenate([logits, z], 1), log_slope.sum(1)

    def inverse(params, z):
        logits, nuisance = _split(z, num_classes)
        x_start, z_start, log_slope = piece(params, logits, nuisance, of_output=True)
        x = x_start + (nuisance - z_start) * jnp.exp(-log_slope)
        return jnp.concatenate([logits, x], 1), -log_slope.sum(1)

    return Bijector(init, forward, inverse)
