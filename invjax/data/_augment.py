r"""Random variations of images: affine warps, elastic deformations and uneven strokes.

    x'(p) = x(q + d(q)),    q = T^-1 p,

where T is a random rotation, shift, scale and shear about the center (`attacks.warp`), and d is a displacement field:
normal noise, smoothed by a Gaussian whose standard deviation is a seventh of the image, and scaled to the standard
deviation `elastic` at every pixel.

Source: elastic noise, Simard, Steinkraus, Platt 2003, *Best Practices for Convolutional Neural Networks*. Tramèr et al.
2020 rotate and shift as well.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jax.scipy.stats import norm
from jaxtyping import Float

from invjax import _check
from invjax._warps import warp
from invjax.types import Array, Images, Key, Scalar


def augment(
    key: Key,
    images: Images,
    *,
    rotation: Scalar = 20.0,
    shift: Scalar = 3.0,
    scale: Scalar = 0.1,
    shear: Scalar = 0.1,
    elastic: float | int = 0.0,
) -> Float[Array, "batch height width channel"]:
    """Warp each image by a random transform of its own.

    Interpolation is bilinear, and pixels from outside of the image are zero. Under `jit` only `elastic` has to be
    static.

    >>> x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1))
    >>> jax.jit(augment)(jax.random.key(1), x).shape
    (4, 8, 8, 1)

    Args:
        key: random key.
        images: `[B, H, W, C]`.
        rotation: the largest angle in degrees; angles are uniform in [-rotation, rotation].
        shift: the largest shift in pixels, both down and right; uniform in [-shift, shift].
        scale: the largest change of size, below 1; factors are uniform in [1 - scale, 1 + scale].
        shear: the largest slope; uniform in [-shear, shear].
        elastic: the standard deviation of the elastic displacement in pixels, both down and right.

    Returns:
        The warped images, `[B, H, W, C]`.

    Raises:
        ValueError: the images are not floats, a number is negative, or the scale is 1 or more.
    """
    _check.key(key)
    _check.real("images", images)
    numbers = {"rotation": rotation, "shift": shift, "scale": scale, "shear": shear, "elastic": elastic}
    for name, value in numbers.items():
        _check.number(name, value)
    if _check.concrete(scale) and not scale < 1:
        raise ValueError(f"scale must be below 1, because factors reach 1 - scale; got scale={scale}; use 0.1")
    affine_key, elastic_key = jax.random.split(key)
    images = jnp.asarray(images)
    if elastic:
        images = jax.vmap(_displaced)(images, elastic * _smooth_noise(elastic_key, images.shape[:3], images.dtype))
    half = jnp.array([rotation, shift, shift, scale, shear], images.dtype)
    middle = jnp.array([0, 0, 0, 1, 0], images.dtype)
    drawn = jax.random.uniform(affine_key, (len(images), 5), images.dtype, -1, 1)
    return jax.vmap(warp)(images, middle[None] + half[None] * drawn)


def uneven_ink(key: Key, images: Images, *, faintest: Scalar = 0.3) -> Float[Array, "batch height width channel"]:
    """Vary the brightness of the strokes within each image: `x (f + (1 - f) u)`, u smooth and uniform in [0, 1].

    People count a faint line as a stroke. A network that was trained on strokes of one brightness alone may ignore
    strokes that an attack draws, or leaves, at 0.4 of that brightness.

    Args:
        key: random key.
        images: `[B, H, W, C]`, bright on black.
        faintest: f, the smallest factor, in [0, 1]; 1 changes nothing.

    Returns:
        The dimmed images, `[B, H, W, C]`.

    Raises:
        ValueError: the images are not floats, or `faintest` is outside [0, 1].
    """
    _check.key(key)
    _check.real("images", images)
    _check.number("faintest", faintest)
    if _check.concrete(faintest) and not faintest <= 1:
        raise ValueError(f"faintest must be at most 1, which changes nothing; got faintest={faintest}")
    pressure = norm.cdf(_smooth_noise(key, images.shape[:3], images.dtype)[:, 0, ..., None])
    return images * (faintest + (1 - faintest) * pressure)


def _smooth_noise(key, shape, dtype):
    """Two smooth random fields for each image, `[B, 2, H, W]`, of mean 0 and variance 1 at every pixel."""
    batch, height, width = shape

    def smoothing(size):
        at = jnp.arange(size, dtype=dtype)
        weights = jnp.exp(-(((at[:, None] - at[None]) / (size / 7)) ** 2) / 2)
        return weights / jnp.linalg.norm(weights, axis=1, keepdims=True)

    white = jax.random.normal(key, (batch, 2, height, width), dtype)
    return jnp.einsum("ih,bchw,jw->bcij", smoothing(height), white, smoothing(width))


def _displaced(image, field):
    """One image `[H, W, C]`, sampled at every pixel plus its displacement `[2, H, W]`."""
    rows, columns = jnp.meshgrid(*(jnp.arange(n, dtype=image.dtype) for n in image.shape[:2]), indexing="ij")
    at = [rows + field[0], columns + field[1]]
    return jax.vmap(lambda channel: map_coordinates(channel, at, order=1, cval=0.0), -1, -1)(image)
