r"""Images with the representation of other images, to show which features a model uses.

    find z in the box with   g(z) = g(x)   by   z <- clip(z - step_size * u),   u = grad |g(z) - g(x)|^2 / |grad|

The search starts from another image or from noise. If g is the representation of a robust model, then z has the robust
features of x, and all its other features come from the start, which is independent of the label of x.

Source: Ilyas et al. 2019, *Adversarial Examples Are Not Bugs, They Are Features*, section 3.1 and figure 5. The paper
does not square the distance, and the released code divides it by `|g(x)|`. Both change the length of the gradient of an
image, not its direction.
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from invjax import _box, _check
from invjax._conv import fast_convs
from invjax._dtypes import wide
from invjax._sharding import automatic, varying
from invjax.attacks import l2
from invjax.attacks.building import example_keys, value_and_gradient, where
from invjax.types import Array, Box, Key, LogitsFn, PerExample, Scalar


class Inversion(NamedTuple):
    """The images that the search found.

    Attributes:
        x: images `[B, ...]`, in float32 if those given are narrower.
        distance: `[B]`, the relative distance `|g(z) - g(x)| / |g(x)|` of their representations.
        trace: `[B, steps + 1]`, this distance at the start and after each step.
    """

    x: Float[Array, "batch ..."]
    distance: PerExample
    trace: Float[Array, "batch steps"]


def robustify(
    key: Key,
    features_fn: LogitsFn,
    x: Array,
    x0: Array | None = None,
    *,
    steps: int = 1000,
    step_size: Scalar = 0.1,
    keep: str = "last",
    noise: Scalar = 0.05,
    box: Box = (0.0, 1.0),
    ids: Any = None,
    num_classes: int | None = None,
) -> Inversion:
    """Search for images with the representation of `x`, starting from `x0`; the caller compiles the search.

    >>> x = jax.random.uniform(jax.random.key(0), (2, 5))
    >>> found = robustify(jax.random.key(1), lambda x: x[:, :2], x, steps=100, step_size=0.02)
    >>> found.x.shape, bool((found.distance < 0.1).all())
    ((2, 5), True)

    Args:
        key: random key of the noise; unused if `x0` is given.
        features_fn: the representation g, `x [B, ...] -> [B, ...]`, such as `models.penultimate(net)` with its
            parameters.
        x: images `[B, ...]` inside `box`.
        x0: images of the same shape to start from, drawn independently of `x`. None starts from noise,
            `1/2 + noise * normal` (scaled to the middle and the width of `box`). On noise the last ReLUs may be
            inactive; the authors let the gradient pass through inactive ReLUs, and this function does not.
        steps: number of gradient steps (published: 1000 for CIFAR-10, 2000 for ImageNet, 10,000 from noise).
        step_size: l2 length of a step (published: 0.1, and 1 for ImageNet).
        keep: "last" keeps the last image, as published; "best" keeps the image of least distance.
        noise: standard deviation of the noise that the search starts from.
        box: range of pixel values; every step clips the images to it.
        ids: `[B]`, the position of each example in the data set, from which its noise is drawn.
        num_classes: number of classes. If the features have as many values, the function warns that they are probably
            logits.

    Returns:
        The images, their distances and the trace of the search.

    Raises:
        ValueError: there are no images, the images are not finite floats inside the box, `x0` has another shape, the
            features do not have the batch as their first axis, or a number is not positive.
    """
    _check.key(key)
    _check.function("features_fn", features_fn, "x -> features")
    _check.count(steps=steps)
    _check.number("step_size", step_size)
    _check.number("noise", noise)
    _check.one_of("keep", keep, ("last", "best"))
    _check.within("x", x, box)
    check_features(features_fn, x, num_classes)
    settings = {"steps": steps, "step_size": step_size, "keep": keep, "noise": noise, "box": box}
    return _search(features_fn, x, x0, key, ids, **settings)


@automatic
def _search(features_fn, x, x0, key, ids, *, steps, step_size, keep, noise, box):
    given, of_images = jnp.asarray(x), fast_convs(features_fn)
    x = wide(given)  # half precision would round a small step to nothing

    def features(z):
        return wide(of_images(z.astype(given.dtype)))

    low, high = _box.ends(box, x)
    if x0 is None:
        middle, width = (low + high) / 2, high - low
        normal = jax.vmap(lambda key: jax.random.normal(key, (x[0].size,), x.dtype))(example_keys(key, ids, len(x)))
        x0 = jnp.clip(middle + width * noise * normal.reshape(x.shape), low, high)
    _check.within("x0", x0, box)
    if x0.shape != x.shape:
        raise ValueError(f"x0 must have the shape of x, {x.shape}; got {x0.shape}; draw one start for each image")
    x0 = jnp.asarray(x0, x.dtype)
    step_size = jnp.asarray(step_size, x.dtype)
    wanted = jax.lax.stop_gradient(features(x))
    ascent = jax.vmap(l2().ascent, (0, 0, None))

    def square(z):
        difference = features(z) - wanted
        return (difference**2).reshape(len(x), -1).sum(1), None

    def step(carry, _):
        z, best, least = carry
        (rest, _), gradient, _ = value_and_gradient(square, z)
        best, least = where(rest < least, (z, rest), (best, least))
        return (jnp.clip(z - step_size * ascent(gradient, z, 0.0), low, high), best, least), rest

    first = varying(x, (x0, x0, jnp.full(len(x), jnp.inf, wanted.dtype)))
    (last, best, least), trace = jax.lax.scan(step, first, length=steps)
    rest, _ = square(last)
    scale = jnp.sqrt((wanted**2).reshape(len(x), -1).sum(1))
    trace = jnp.sqrt(jnp.concatenate([trace, rest[None]])).T / jnp.where(scale > 0, scale, 1)[:, None]
    # distances are read from the trace, because computing them again could round them differently
    if keep == "last":
        return Inversion(last, trace[:, -1], trace)
    found, _ = where(rest < least, (last, rest), (best, least))
    return Inversion(found, jnp.nanmin(trace, 1), trace)


def check_features(features_fn: LogitsFn, x: Array, num_classes: int | None) -> None:
    """Check that the first axis of the features is the batch, and warn if they have the shape of logits.

    Raises:
        ValueError: there are no images, or the features are not `[B, ...]`.
    """
    _check.examples("x", x)
    shape = getattr(jax.eval_shape(features_fn, x), "shape", None)
    if not shape or len(shape) < 2 or shape[0] != len(x):
        raise ValueError(
            f"features_fn must map images {x.shape} to features [{len(x)}, ...]; got {shape}; keep the batch axis first"
        )
    if num_classes is not None and shape[1:] == (num_classes,):
        warnings.warn(
            f"features_fn gives {shape}, as many values as there are classes: are these the logits? "
            "models.penultimate(net) is the representation",
            stacklevel=3,
        )
