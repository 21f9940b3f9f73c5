r"""Whitening of the nuisance, one affine map for each predicted class.

    z_s = x_s,    z_n = g_c(x_n),    c = argmax x_s

The logits pass unchanged and select the map, so the inverse selects the same map. One map for all classes can hide the
information of the nuisance about the class, but cannot remove it. A map for each class can remove this information,
because the logits contain the decision: if each g_c maps the data of its class to the same density, then the nuisance
is independent of the class. The density of the code is then factorial, which is the goal of independence cross-entropy
(Jacobsen et al. 2019, definition 5).
"""

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.bijectors._bijector import Bijector
from invjax.bijectors._code import EXACT, decision_one_hot, on_host, split_code


def decision_whitening(num_classes: int, min_std: float = 1e-3) -> Bijector:
    """`z_n = R_c (x_n - mean_c) / std_c`: after `init` the nuisance of each class has mean 0 and covariance 1.

    `R_c` rotates to the principal axes of class c, the axis of largest variance first. A classifier that uses only
    means and covariances then cannot tell the classes apart. `mean` and `log_std` may be trained further; `rotation`
    is fixed.

    `init` estimates D x D covariances from the examples that the logits assign to each class, so it needs many times
    more examples of each class than dimensions. The map is the identity for a class with fewer than two examples.

    Args:
        num_classes: number of classes K.
        min_std: lower bound of the standard deviations `std_c`, in units of the input. Dequantisation noise has a
            standard deviation of 1e-3.
    """
    _check.positive(num_classes=num_classes, min_std=min_std)

    def principal_axes(decision, nuisance):
        """Mean, log std and rotation of each class, in float64 because variances differ by a factor of a million."""
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
        logits, nuisance = split_code(x, num_classes)
        table = (num_classes, nuisance.shape[1])
        shapes = [jax.ShapeDtypeStruct(s, x.dtype) for s in (table, table, (*table, table[1]))]
        mean, log_std, rotation = on_host(principal_axes, shapes, logits.argmax(1), nuisance)
        return {"mean": mean, "log_std": log_std, "rotation": rotation}

    def turn(params, c, nuisance, subscripts):
        rotation = jax.lax.stop_gradient(params["rotation"])
        return jnp.einsum(subscripts, c, nuisance, rotation, precision=EXACT)

    def chosen(table, c):
        return jnp.matmul(c, table, precision=EXACT)

    def forward(params, x):
        logits, nuisance = split_code(x, num_classes)
        c = decision_one_hot(logits)
        log_std = chosen(params["log_std"], c)
        turned = turn(params, c, nuisance - chosen(params["mean"], c), "bk,bi,kij->bj")
        return jnp.concatenate([logits, turned * jnp.exp(-log_std)], 1), -log_std.sum(1)

    def inverse(params, z):
        logits, nuisance = split_code(z, num_classes)
        c = decision_one_hot(logits)
        log_std = chosen(params["log_std"], c)
        turned = turn(params, c, nuisance * jnp.exp(log_std), "bk,bj,kij->bi")
        return jnp.concatenate([logits, turned + chosen(params["mean"], c)], 1), log_std.sum(1)

    return Bijector(init, forward, inverse)
