r"""The l0-sparse defence: it separates an image of few frequencies from noise at few pixels.

Images are nearly sparse in the orthonormal two-dimensional DCT, and an l0 adversary changes few pixels. The defence
models its input as `y = x + e`, where x has k frequencies and e has t values that are not zero. Iterative hard
thresholding estimates both in turn:

    x = 0;    repeat:  e <- the t largest values of y - x,    x <- the k largest frequencies of y - e.

The network behind the defence classifies x, and is trained on images of k frequencies. We do not know the values of k
and t in the paper.

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
    """Set all but the `count` values of largest magnitude of each example to zero.

    Only the remaining values have a gradient. Among equal magnitudes the first ones remain.

    >>> keep_largest(jnp.array([[3.0, -4.0, 1.0, 4.0]]), 2).tolist()
    [[0.0, -4.0, 0.0, 4.0]]
    """
    flat = values.reshape(len(values), -1)
    _, index = jax.lax.top_k(jax.lax.stop_gradient(jnp.abs(flat)), min(count, flat.shape[1]))
    is_largest = jax.vmap(lambda i: jnp.zeros(flat.shape[1], bool).at[i].set(True))(index)
    return jnp.where(is_largest, flat, 0).reshape(values.shape)


def largest_frequencies(x: Array, count: int) -> Images:
    """The images `[B, H, W, C]` with only the `count` largest DCT coefficients of each image.

    The network behind `l0_sparse` is trained on these images.

    Args:
        x: images `[B, H, W, C]`.
        count: number k of coefficients, of all channels together.
    """
    _check.positive(count=count)
    _check.floating("x", x)
    transform = dct2()
    frequencies, _ = transform.forward((), x)
    return transform.inverse((), keep_largest(frequencies, count))[0]


def without_outliers(x: Array, frequencies: int, outliers: int, iterations: int = 10) -> Images:
    """The images `[B, H, W, C]` that iterative hard thresholding recovers from images with noise at few values.

    Args:
        x: images `[B, H, W, C]`, few values of which are noise.
        frequencies: number k of DCT coefficients of the recovered image.
        outliers: number t of values (of one pixel and channel) that may be noise. With 0 the result is that of
            `largest_frequencies`.
        iterations: number of iterations.
    """
    _check.positive(frequencies=frequencies, iterations=iterations)
    _check.number("outliers", outliers)
    _check.floating("x", x)

    def step(_, clean):
        noise = keep_largest(x - clean, outliers) if outliers else jnp.zeros_like(x)
        return largest_frequencies(x - noise, frequencies)

    return jax.lax.fori_loop(0, iterations, step, jnp.zeros_like(x))


def l0_sparse(net: Net, frequencies: int, outliers: int, iterations: int = 10) -> Net:
    """A network behind the l0-sparse defence: its logits are those of `net` for the recovered image.

    The parameters are those of `net`, which should be trained on `largest_frequencies(x, frequencies)`. Gradients treat
    the positions of the remaining values as constants, so gradient attacks work through all iterations.

    Args:
        net: any classifier of images.
        frequencies: number k of DCT coefficients of the recovered image.
        outliers: number t of values that may be noise.
        iterations: number of iterations of the thresholding.

    Raises:
        ValueError: a number is not positive (`outliers` may be 0), or `frequencies` or `outliers` exceeds the number of
            values of an image (when called).
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
