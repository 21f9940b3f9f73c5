"""Two convolution primitives whose gradients are convolutions in the layout that is fast on CPU."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from invjax._sharding import varying

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _lax_conv(x, w, *, strides, padding, lhs_dilation, rhs_dilation):
    return lax.conv_general_dilated(x, w, strides, padding, lhs_dilation, rhs_dilation, dimension_numbers=_LAYOUT)


def _output_aval(function, x, w, **params):
    shapes = jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(w.shape, w.dtype)
    return x.update(shape=jax.eval_shape(partial(function, **params), *shapes).shape, weak_type=False)


def _span(size, dilation):
    """How far `size` points reach when they are `dilation` apart."""
    return (size - 1) * dilation + 1


def _input_gradient(ct, x, w, *, strides, padding, lhs_dilation, rhs_dilation):
    if strides != (1, 1) and lhs_dilation == rhs_dilation == (1, 1):
        return transposed_p.bind(ct, w, strides=strides, padding=padding, size=x.aval.shape[1:3])
    pads = []
    for axis, (before, _) in enumerate(padding):
        reach = _span(w.shape[axis], rhs_dilation[axis]) - 1
        size = _span(x.aval.shape[1 + axis], lhs_dilation[axis])
        pads.append((reach - before, size + before - _span(ct.shape[1 + axis], strides[axis])))
    flipped = jnp.flip(w, (0, 1)).swapaxes(2, 3)
    return conv_p.bind(
        ct, flipped, strides=lhs_dilation, padding=tuple(pads), lhs_dilation=strides, rhs_dilation=rhs_dilation
    )


def _kernel_gradient(ct, x, w, *, strides, padding, lhs_dilation, rhs_dilation):
    pads = []
    for axis, (before, _) in enumerate(padding):
        reach = _span(w.aval.shape[axis], rhs_dilation[axis]) + _span(ct.shape[1 + axis], strides[axis]) - 1
        pads.append((before, reach - _span(x.shape[1 + axis], lhs_dilation[axis]) - before))
    x, ct = x.transpose(3, 1, 2, 0), ct.transpose(1, 2, 0, 3)
    dw = conv_p.bind(x, ct, strides=rhs_dilation, padding=tuple(pads), lhs_dilation=lhs_dilation, rhs_dilation=strides)
    return dw.transpose(1, 2, 0, 3)


def _by_phase(ct, w, *, strides, padding, size):
    """The transpose of a convolution with strides, as one without: `ct [B, h, w, O] -> [B, *size, I]`.

    Inputs that are a multiple of the stride apart meet the same part of the kernel. Each such phase is a convolution of
    `ct` as it is, where dilation would multiply zeros: one convolution gives all phases as channels, six times faster
    for 4x4 kernels and strides of 2.
    """
    (tall, wide), (kh, kw, inputs, outputs) = strides, w.shape
    taps = -(-kh // tall), -(-kw // wide)
    w = jnp.pad(w, ((0, taps[0] * tall - kh), (0, taps[1] * wide - kw), (0, 0), (0, 0)))
    phases = w.reshape(taps[0], tall, taps[1], wide, inputs, outputs).transpose(0, 2, 5, 1, 3, 4)
    phases = jnp.flip(phases.reshape(*taps, outputs, -1), (0, 1))
    full = tuple((count - 1, count - 1) for count in taps)
    y = conv_p.bind(ct, phases, strides=(1, 1), padding=full, lhs_dilation=(1, 1), rhs_dilation=(1, 1))
    batch, height, width, _ = y.shape
    y = y.reshape(batch, height, width, tall, wide, inputs).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(batch, height * tall, width * wide, inputs)
    ends = [(-low, end + low - have, 0) for (low, _), end, have in zip(padding, size, y.shape[1:3], strict=True)]
    return lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), *ends, (0, 0, 0)))


def _as_convolution(g, ct, w, *, strides, padding, size):
    return conv_p.bind(g, w, strides=strides, padding=padding, lhs_dilation=(1, 1), rhs_dilation=(1, 1))


def _transposed_kernel_gradient(g, ct, w, *, strides, padding, size):
    return _kernel_gradient(ct, g, w, strides=strides, padding=padding, lhs_dilation=(1, 1), rhs_dilation=(1, 1))


def _batch(primitive, channel, args, dims, **params):
    (x, w), (x_dim, w_dim) = args, dims
    if w_dim is None:  # fold the mapped axis into the batch
        x = jnp.moveaxis(x, x_dim, 0)
        y = primitive.bind(x.reshape(-1, *x.shape[2:]), w, **params)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    if x_dim is None:  # fold the mapped axis into the kernel's axis of output channels
        w = jnp.moveaxis(w, w_dim, channel)
        y = primitive.bind(x, w.reshape(*w.shape[:channel], -1, *w.shape[channel + 2 :]), **params)
        return y.reshape(*y.shape[:3], *w.shape[channel : channel + 2]), 3
    pairs = jnp.moveaxis(x, x_dim, 0), jnp.moveaxis(w, w_dim, 0)
    return lax.map(lambda pair: primitive.bind(*pair, **params), pairs), 0  # a grouped convolution is slow on CPU


def _primitive(name, function, gradients, channel):
    """A bilinear primitive whose kernel has its output channels on axis `channel`."""
    primitive = core.Primitive(name)
    primitive.def_impl(lambda x, w, **params: jax.jit(partial(function, **params))(x, w))
    primitive.def_abstract_eval(partial(_output_aval, function))
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    ad.defbilinear(primitive, *gradients)
    batching.primitive_batchers[primitive] = partial(_batch, primitive, channel)
    return primitive


conv_p = _primitive("canonical_conv", _lax_conv, (_input_gradient, _kernel_gradient), 3)
# a primitive of its own, so that its two gradients are the convolution and its kernel's gradient, which are fast
transposed_p = _primitive("canonical_conv_transposed", _by_phase, (_as_convolution, _transposed_kernel_gradient), 2)


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    **rest: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` with the same arguments and values; on CPU its gradients are fast inside loops.

    Two-dimensional convolutions without groups take the fast path; those in another layout (channels first) are
    transposed before and after. All other convolutions are passed to `lax`. On CPU every `precision` is full precision,
    so the fast path ignores it.

    Args:
        lhs: the images.
        rhs: the kernels.
        window_strides: the strides.
        padding: "SAME", "VALID", or pairs of numbers.
        lhs_dilation: the dilation of the images.
        rhs_dilation: the dilation of the kernels.
        dimension_numbers: the layouts of images, kernels and output.
        **rest: other arguments of `lax.conv_general_dilated`.

    Returns:
        The convolution.
    """
    plain = partial(
        lax.conv_general_dilated,
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        **rest,
    )
    if jax.default_backend() != "cpu" or lhs.ndim != 4 or jax.typeof(lhs).sharding.mesh.explicit_axes:
        return plain()
    eligible = (
        rest.get("feature_group_count", 1) == rest.get("batch_group_count", 1) == 1
        and rest.get("preferred_element_type") in (None, lhs.dtype)
        and lhs.dtype == rhs.dtype
        and 0 not in jax.eval_shape(plain).shape  # whose gradient would convolve with an empty kernel
    )
    if not eligible:
        return plain()
    (n, c, *space), (o, i, *window), (batch, channel, *out) = lax.conv_dimension_numbers(
        lhs.shape, rhs.shape, dimension_numbers
    )
    x, w = lhs.transpose(n, *space, c), rhs.transpose(*window, i, o)
    lhs_dilation, rhs_dilation = tuple(lhs_dilation or (1, 1)), tuple(rhs_dilation or (1, 1))
    if isinstance(padding, str):
        kernel = [_span(size, dilation) for size, dilation in zip(w.shape, rhs_dilation, strict=False)]
        padding = lax.padtype_to_pads(x.shape[1:3], kernel, window_strides, padding)
    y = conv_p.bind(
        varying(w, x),
        varying(x, w),
        strides=tuple(window_strides),
        padding=tuple((int(low), int(high)) for low, high in padding),
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
    )
    return y.transpose(sorted(range(4), key=(batch, *out, channel).__getitem__))
