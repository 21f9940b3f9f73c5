r"""Images as if they had been drawn again: moved by random affine warps and smooth elastic noise, in uneven ink.

    x'(p) = x(q + d(q)),    q = T^-1 p,

T a random rotation, shift, scale and shear about the center (`attacks.warps`), and d a field of normal noise that was
smoothed by a Gaussian of a seventh of the image and has standard deviation `elastic` everywhere.

Source: elastic noise, Simard, Steinkraus, Platt 2003, *Best Practices for Convolutional Neural Networks*. Tramèr et al.
2020 turn and shift as well.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jax.scipy.stats import norm
from jaxtyping import Float

from invjax import _check
from invjax._warps import warp
from invjax.types import Array, Images, Key


def augment(
    key: Key,
    images: Images,
    *,
    rotation: float | int = 20.0,
    shift: float | int = 3.0,
    scale: float | int = 0.1,
    shear: float | int = 0.1,
    elastic: float | int = 0.0,
) -> Float[Array, "batch height width channel"]:
    """Each image moved by a transform of its own; bilinear, zero from outside. Of constant sizes, so jit it.

    >>> x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1))
    >>> augment(jax.random.key(1), x, elastic=0.5).shape
    (4, 8, 8, 1)
    >>> still = augment(jax.random.key(1), x, rotation=0, shift=0, scale=0, shear=0)
    >>> bool(jnp.allclose(still, x, atol=1e-5))
    True

    Args:
        key: random key.
        images: `[B, H, W, C]`.
        rotation: degrees; angles are uniform in -rotation .. rotation, and the other numbers in ranges alike.
        shift: pixels, both down and right.
        scale: factors are uniform in 1 - scale .. 1 + scale; below 1.
        shear: a slope.
        elastic: pixels, the standard deviation of the displacement, down and right.

    Raises:
        ValueError: images that are not floats, a number that is negative, a scale of 1 or more.
    """
    _check.floating("images", images)
    numbers = {"rotation": rotation, "shift": shift, "scale": scale, "shear": shear, "elastic": elastic}
    for name, value in numbers.items():
        _check.number(name, value)
    if not scale < 1:
        raise ValueError(f"scale must be below 1, for factors are 1 - scale .. 1 + scale; got scale={scale}")
    affine_key, elastic_key = jax.random.split(key)
    images = jnp.asarray(images)
    if elastic:
        images = jax.vmap(_displaced)(images, elastic * _smooth_noise(elastic_key, images.shape[:3], images.dtype))
    half = jnp.array([rotation, shift, shift, scale, shear], images.dtype)
    middle = jnp.array([0, 0, 0, 1, 0], images.dtype)
    drawn = jax.random.uniform(affine_key, (len(images), 5), images.dtype, -1, 1)
    return jax.vmap(warp)(images, middle[None] + half[None] * drawn)


def uneven_ink(key: Key, images: Images, *, faintest: float | int = 0.3) -> Float[Array, "batch height width channel"]:
    """Each image written with a pen whose pressure varies: `x (f + (1 - f) u)`, u smooth and uniform in 0 .. 1.

    What is faint counts as a stroke to people. A network that has seen strokes of one brightness alone looks past those
    that an attack has drawn, or has left, at 0.4 of it.

    Args:
        key: random key.
        images: `[B, H, W, C]`, bright on black.
        faintest: f, in [0, 1]; with 1 nothing changes.

    Raises:
        ValueError: images that are not floats, faintest outside [0, 1].
    """
    _check.floating("images", images)
    _check.number("faintest", faintest)
    if not faintest <= 1:
        raise ValueError(f"faintest must be at most 1, which changes nothing; got faintest={faintest}")
    pressure = norm.cdf(_smooth_noise(key, images.shape[:3], images.dtype)[:, 0, ..., None])
    return images * (faintest + (1 - faintest) * pressure)


def _smooth_noise(key, shape, dtype):
    """Two smooth fields for each image, `[B, 2, H, W]`, of mean 0 and variance 1 at every pixel."""
    batch, height, width = shape

    def smoothing(size):
        at = jnp.arange(size, dtype=dtype)
        weights = jnp.exp(-(((at[:, None] - at[None]) / (size / 7)) ** 2) / 2)
        return weights / jnp.linalg.norm(weights, axis=1, keepdims=True)

    white = jax.random.normal(key, (batch, 2, height, width), dtype)
    return jnp.einsum("ih,bchw,jw->bcij", smoothing(height), white, smoothing(width))


def _displaced(image, field):
    rows, columns = jnp.meshgrid(*(jnp.arange(n, dtype=image.dtype) for n in image.shape[:2]), indexing="ij")
    at = [rows + field[0], columns + field[1]]
    return jax.vmap(lambda channel: map_coordinates(channel, at, order=1, cval=0.0), -1, -1)(image)
