r"""Bijectors of a code, `x = [x_s, x_n]`: the first K values are logits, all others are the nuisance.

x [B, D],    x_s = x[:, :K],    x_n = x[:, K:]
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax.bijectors._bijector import Bijector, no_logdet, total
from invjax.types import Net

EXACT = jax.lax.Precision.HIGHEST


def split_code(x, num_classes):
    """The logits `[B, K]` and the nuisance `[B, D - K]` of codes `[B, D]`."""
    if x.ndim != 2 or x.shape[1] < num_classes + 2:
        raise ValueError(
            f"x must be vectors [B, D] with D at least {num_classes + 2}: {num_classes} logits and a nuisance; "
            f"got {x.shape}; put flatten() first"
        )
    return x[:, :num_classes], x[:, num_classes:]


def decision_one_hot(logits):
    """The predicted class of each example as a one-hot vector `[B, K]`."""
    return jax.nn.one_hot(logits.argmax(1), logits.shape[1], dtype=logits.dtype)


def on_host(function, shapes, *arrays):
    """Call `function` with NumPy arrays.

    The call is a JAX callback only under a trace, because a large callback can stall a CPU that simulates many devices.
    """
    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        return jax.pure_callback(lambda *values: function(*map(np.asarray, values)), shapes, *arrays)
    return jax.tree.map(jnp.asarray, function(*map(np.asarray, arrays)))


def logit_coupling(conditioner_fn: Callable[[int], Net], num_classes: int) -> Bijector:
    """`z_s = x_s + net(x_n)`, `z_n = x_n`: any classifier of the nuisance gives the logits of an invertible network.

    Args:
        conditioner_fn: `outputs -> Net`, a classifier `[B, D - num_classes] -> [B, outputs]`. It is called with
            `outputs = num_classes`.
        num_classes: number of classes K.
    """
    _check.positive(num_classes=num_classes)
    net = conditioner_fn(num_classes)

    def init(key, x):
        return net.init(key, split_code(x, num_classes)[1])

    def forward(params, x):
        logits, nuisance = split_code(x, num_classes)
        return jnp.concatenate([logits + net.apply(params, nuisance), nuisance], 1), no_logdet(x)

    def inverse(params, z):
        logits, nuisance = split_code(z, num_classes)
        return jnp.concatenate([logits - net.apply(params, nuisance), nuisance], 1), no_logdet(z)

    return Bijector(init, forward, inverse)


def soft_tails(num_classes: int) -> Bijector:
    """`z_n = arcsinh(x_n)`, value by value: the identity near 0, a logarithm far from 0.

    The map helps a network that reads the code: after whitening, a pixel that is almost always black can have values
    hundreds of standard deviations from 0.

    Args:
        num_classes: number of classes K.
    """
    _check.positive(num_classes=num_classes)

    def forward(params, x):
        logits, nuisance = split_code(x, num_classes)
        return jnp.concatenate([logits, jnp.arcsinh(nuisance)], 1), -0.5 * total(jnp.log1p(nuisance**2))

    def inverse(params, z):
        logits, nuisance = split_code(z, num_classes)
        x = jnp.sinh(nuisance)
        return jnp.concatenate([logits, x], 1), 0.5 * total(jnp.log1p(x**2))

    return Bijector(lambda key, x: (), forward, inverse)
