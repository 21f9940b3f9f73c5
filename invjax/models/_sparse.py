r"""The l0-sparse defence: an image is its few largest frequencies, and what they do not explain at few pixels is noise.

Images are nearly sparse in the orthonormal two-dimensional DCT, and an adversary in l0 changes few pixels. So what
comes in is taken for `y = x + e`, x of k frequencies and e of t values, and both are found in turn by iterative hard
thresholding:

    x = 0;    repeat:  e <- the t largest values of y - x,    x <- the k largest frequencies of y - e.

The network behind it is trained on images of k frequencies and sees x. The paper's k and t are not known to us.

Source: Bafna, Murtagh, Vyas 2018, *Thwarting Adversarial Examples: An L0-Robust Sparse Fourier Transform*.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float

from invjax import _check
from invjax.bijectors import dct2
from invjax.types import Array, Images, Net


def keep_largest(values: Float[Array, "batch ..."], count: int) -> Float[Array, "batch ..."]:
    """All but the `count` values of largest magnitude become zero, example by example.

    The gradient is that of the values that stay. Of equal magnitudes the first ones stay.

    >>> keep_largest(jnp.array([[3.0, -4.0, 1.0, 4.0]]), 2).tolist()
    [[0.0, -4.0, 0.0, 4.0]]
    """
    flat = values.reshape(len(values), -1)
    _, index = jax.lax.top_k(jax.lax.stop_gradient(jnp.abs(flat)), min(count, flat.shape[1]))
    kept = jax.vmap(lambda i: jnp.zeros(flat.shape[1], bool).at[i].set(True))(index)
    return jnp.where(kept, flat, 0).reshape(values.shape)


def largest_frequencies(x: Array, count: int) -> Images:
    """The images `[B, H, W, C]` that have only the `count` largest coefficients of the DCT of each of `x`.

    Train on these, with the rest of the pipeline as it is.

    Args:
        x: images.
        count: k, coefficients of all channels together.
    """
    _check.positive(count=count)
    _check.floating("x", x)
    transform = dct2()
    frequencies, _ = transform.forward((), x)
    return transform.inverse((), keep_largest(frequencies, count))[0]


def without_outliers(x: Array, frequencies: int, outliers: int, iterations: int = 10) -> Images:
    """What iterative hard thresholding takes for the image behind `x [B, H, W, C]`: of `frequencies` coefficients.

    Args:
        x: images of which few values are noise.
        frequencies: k.
        outliers: t, values (of a pixel and a channel) that may be noise; 0 is `largest_frequencies`.
        iterations: of the two steps.
    """
    _check.positive(frequencies=frequencies, iterations=iterations)
    _check.number("outliers", outliers)
    _check.floating("x", x)

    def step(_, clean):
        noise = keep_largest(x - clean, outliers) if outliers else jnp.zeros_like(x)
        return largest_frequencies(x - noise, frequencies)

    return jax.lax.fori_loop(0, iterations, step, jnp.zeros_like(x))


def l0_sparse(net: Net, frequencies: int, outliers: int, iterations: int = 10) -> Net:
    """The network behind the defence: `apply(params, x [B, H, W, C])` are its logits of `without_outliers(x)`.

    The parameters are those of `net`, to be trained on `largest_frequencies(x, frequencies)`. Gradients hold the
    places of the kept values, so attacks can follow them through all iterations.

    Args:
        net: any classifier of images.
        frequencies: k.
        outliers: t.
        iterations: of the thresholding.

    Raises:
        ValueError: numbers that are not positive (t may be 0); more frequencies or outliers than values (when called).
    """
    _check.positive(frequencies=frequencies, iterations=iterations)
    _check.number("outliers", outliers)

    def apply(params, x):
        size = math.prod(x.shape[1:])
        if max(frequencies, outliers) > size:
            raise ValueError(
                f"frequencies={frequencies} and outliers={outliers} must not exceed the {size} values of an image"
            )
        return net.apply(params, without_outliers(x, frequencies, outliers, iterations))

    return Net(net.init, apply)
