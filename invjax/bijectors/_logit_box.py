r"""A bijector between pixel values and all real numbers, which keeps decoded images near their box.

    u = a + (1 - 2a) (x - low) / (high - low),    v = log u - log(1 - u),    a = margin
    log |dv/dx| = log((1 - 2a) / (high - low)) - log u - log(1 - u)

Any v has a pixel value: one within `a / (1 - 2a)` of the box, in units of its width. Without this layer an invertible
network decodes many codes to pixel values far outside of the box.
"""

import jax
import jax.numpy as jnp
import numpy as np

from invjax.bijectors._bijector import Bijector, total


def logit_box(margin: float = 0.05, box: tuple[float | int, float | int] = (0.0, 1.0)) -> Bijector:
    """The logit of pixel values, elementwise: the first layer of a network whose decoded images should be images.

    The larger the margin is, the better the map is conditioned at the ends of the box. A classifier that is trained
    without a likelihood term saturates the sigmoid of the inverse, and then the logits of its metamers are wrong; a
    weight of 0.1 on the bits per dimension prevents this.

    >>> bijector = logit_box(0.25)
    >>> v, logdet = bijector.forward((), jnp.array([[0.5, 1.0]]))
    >>> [round(float(value), 4) for value in v[0]]
    [0.0, 1.0986]

    Args:
        margin: a, the part of the logit's unit interval beyond each end of the box, above 0 and below 1/2.
        box: the smallest and the largest pixel value, `(low, high)`.

    Returns:
        The bijector, without parameters. Its `forward` gives NaN for values further outside of the box than the margin.

    Raises:
        ValueError: the margin is not in (0, 1/2), the box is empty or infinite, or `init` gets values outside of it.

    Source: Dinh et al. 2017, *Real NVP*, section 4.1, with a = 0.05.
    """
    low, high = box
    if not 0 < margin < 0.5:
        raise ValueError(f"margin must be above 0 and below 1/2; got margin={margin}")
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"box must be finite, and its first value the smaller one; got box={box}")
    slope = (1 - 2 * margin) / (high - low)

    def logdet(v):  # softplus(-v) = -log u and softplus(v) = -log(1 - u), finite for every v
        return total(jnp.log(slope) + jax.nn.softplus(-v) + jax.nn.softplus(v))

    def init(key, x):
        if not isinstance(x, jax.core.Tracer) and not ((x >= low) & (x <= high)).all():
            raise ValueError(
                f"logit_box needs values in [{low:g}, {high:g}]; got values from {float(jnp.min(x)):g} to "
                f"{float(jnp.max(x)):g}; scale the images, or pass their range as box"
            )
        return ()

    def forward(params, x):
        u = margin + slope * (x - low)
        v = jnp.log(u) - jnp.log1p(-u)
        return v, logdet(v)

    def inverse(params, v):
        return low + (jax.nn.sigmoid(v) - margin) / slope, -logdet(v)

    return Bijector(init, forward, inverse)
