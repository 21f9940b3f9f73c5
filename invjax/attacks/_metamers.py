r"""Logit metamers: images to which a classifier gives exactly the logits of another image.

An invertible classifier finds them without a search. Take the logits of an image a and the nuisance of an image b:

    x* = decode(z_s(a), z_n(b))    so that    logits(x*) = logits(a),

and x* looks like b, as far as the nuisance determines what an image looks like.

Source: Jacobsen et al. 2019, section 2.1, metameric sampling.
"""

import warnings

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from invjax import _check
from invjax.bijectors import Bijector
from invjax.models import InvertibleClassifier
from invjax.types import Array, Code, Images, Logits, Params


def metamers(model: InvertibleClassifier, params: Params, logits_from: Images, nuisance_from: Images) -> Images:
    """Images with the logits of `logits_from` and the nuisance of `nuisance_from`, one for each pair.

        x* = decode(z_s(a), z_n(b))

    In a well conditioned network the logits of x* agree with those of a to about 1e-5 in float32 and to about 1e-12 in
    float64. Outside of `jit` the logits are computed again, and a warning says if they differ by more than 0.05;
    `models.round_trip_error` measures the same at any time.

    Args:
        model: an invertible classifier.
        params: parameters of the model.
        logits_from: a, `[B, H, W, C]`, the images that give the logits.
        nuisance_from: b, `[B, H, W, C]`, the images that give the nuisance.

    Returns:
        The metamers, `[B, H, W, C]`. Their values may leave [0, 1]; clipping them changes the logits.

    Raises:
        ValueError: the two batches differ in shape, or the images hold NaN or have another shape or dtype than the
            model takes.
    """
    _check.array("logits_from", logits_from)
    _check.array("nuisance_from", nuisance_from)
    if logits_from.shape != nuisance_from.shape:
        raise ValueError(
            f"metamers pairs images one to one; got logits_from {logits_from.shape} and "
            f"nuisance_from {nuisance_from.shape}; repeat the smaller batch"
        )
    logits, _ = model.encode(params, logits_from)
    nuisance, _ = model.encode(params, nuisance_from)
    made = model.decode(params, Code(logits.logits, nuisance.nuisance))
    if _check.known(made) and made.size:
        _warn_of_other_logits(logits.logits, model.bijector, params, made)
    return made


def _warn_of_other_logits(wanted: Logits, bijector: Bijector, params: Params, made: Images) -> None:
    again = bijector.forward(params, made)[0].reshape(len(made), -1)[:, : wanted.shape[1]]
    gap = float(np.abs(np.asarray(again - wanted, np.float32)).max())
    rounding = float(jnp.finfo(wanted.dtype).eps) * float(np.abs(np.asarray(wanted, np.float32)).max())
    if not gap <= max(0.05, 8 * rounding if wanted.dtype.itemsize < 4 else 0):
        warnings.warn(
            f"the logits of these metamers are off by up to {gap:.3g}: the network is too "
            "ill conditioned for this precision; compute them in float64 (jax.enable_x64), or train with a lower "
            "learning rate or a likelihood term",
            stacklevel=3,
        )


def interpolate(
    model: InvertibleClassifier, params: Params, first: Images, second: Images, weights: Float[Array, " weights"]
) -> Float[Array, "weights batch height width channel"]:
    """Images between each image and its metamer, all with the same logits.

        x(t) = decode(z_s(a), (1 - t) z_n(a) + t z_n(b))

    so that x(0) is a itself and x(1) is `metamers(a, b)`. The classifier gives all of them the same logits, up to
    rounding; the function warns as `metamers` does.

    Args:
        model: an invertible classifier.
        params: parameters of the model.
        first: a, `[B, H, W, C]`, the images that give the logits.
        second: b, `[B, H, W, C]`, the images whose nuisance is reached at t = 1.
        weights: t, `[T]`; values outside [0, 1] extrapolate.

    Returns:
        The images x(t), `[T, B, H, W, C]`. Their values may leave [0, 1].

    Raises:
        ValueError: the two batches differ in shape, the weights are not a list of finite numbers, or the images hold
            NaN or have another shape or dtype than the model takes.

    Source: Jacobsen et al. 2019, figure 7.
    """
    for name, value in {"first": first, "second": second, "weights": weights}.items():
        _check.array(name, value)
    if first.shape != second.shape:
        raise ValueError(
            f"interpolate pairs images one to one; got first {first.shape} and second {second.shape}; "
            "repeat the smaller batch"
        )
    if weights.ndim != 1:
        raise ValueError(f"weights must be a list of numbers, [T]; got shape {weights.shape}; ravel it")
    _check.finite("weights", weights)
    start, _ = model.encode(params, first)
    end, _ = model.encode(params, second)
    t = jnp.asarray(weights, first.dtype)[:, None, None]
    nuisance = (1 - t) * start.nuisance[None] + t * end.nuisance[None]
    logits = jnp.broadcast_to(start.logits[None], (len(t), *start.logits.shape))
    # One batch of T * B images; the last line restores the axes.
    flat = Code(*(part.reshape(-1, part.shape[-1]) for part in (logits, nuisance)))
    made = model.decode(params, flat)
    if _check.known(made) and made.size:
        _warn_of_other_logits(flat.logits, model.bijector, params, made)
    return made.reshape(len(t), *first.shape)
