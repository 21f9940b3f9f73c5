"""A convolution whose gradients stay fast inside loops on CPU.

XLA's CPU compiler rewrites a convolution into its fast layout (NHWC images, HWIO kernels) only in the entry computation
of a program. JAX writes the two gradients of a convolution in other layouts, so inside any `scan`, `while`, `map` or
`cond` body they compile to naive loops, 2 to 86 times slower. The cure is to write the gradients as convolutions in the
fast layout:

    y     = x * w
    dL/dx = dL/dy  *  flip(w)^T          (input and output channels swapped; strides: see `_by_phase`)
    dL/dw = (x^T * (dL/dy)^T)^T          (batch and channels swapped; strides become dilations of dL/dy)

`conv_general_dilated` stands in for `lax.conv_general_dilated` (flax modules accept it by that name) and `fast_convs`
rewrites the convolutions of any function. Neither does anything on GPU and TPU, where the plain operation is right.
`experiments/benchmarks/loops.py` shows whether this file is still needed; without that need, delete it.
"""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _lax_conv(x, w, *, strides, padding, lhs_dilation, rhs_dilation):
    return lax.conv_general_dilated(x, w, strides, padding, lhs_dilation, rhs_dilation, dimension_numbers=_LAYOUT)


def _output_aval(function, x, w, **params):
    shapes = jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(w.shape, w.dtype)
    return jax.core.ShapedArray(jax.eval_shape(partial(function, **params), *shapes).shape, x.dtype)


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

    Two-dimensional convolutions without groups take the fast path, those of other layouts (channels first) between two
    transpositions; all others are passed on. On CPU every `precision` is full precision, so the fast path has no need
    of it.
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
    if jax.default_backend() != "cpu" or lhs.ndim != 4:
        return plain()
    eligible = (
        rest.get("feature_group_count", 1) == rest.get("batch_group_count", 1) == 1
        and rest.get("preferred_element_type") in (None, lhs.dtype)
        and lhs.dtype == rhs.dtype
        and 0 not in jax.eval_shape(plain).shape  # the gradient of nothing would be a convolution by nothing
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
        x,
        w,
        strides=tuple(window_strides),
        padding=tuple((int(low), int(high)) for low, high in padding),
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
    )
    return y.transpose(sorted(range(4), key=(batch, *out, channel).__getitem__))


def _has_conv(jaxpr) -> bool:
    return any(
        eqn.primitive is lax.conv_general_dilated_p
        or any(_has_conv(sub.jaxpr) for _, sub in _closed_jaxprs(eqn.params))
        for eqn in jaxpr.eqns
    )


def _closed_jaxprs(params):
    """The (path, ClosedJaxpr) pairs inside an equation's parameters: bodies of jit, scan, while, cond and remat."""
    for name, value in params.items():
        if isinstance(value, core.ClosedJaxpr):
            yield (name, None), value
        elif isinstance(value, core.Jaxpr):
            yield (name, None), core.ClosedJaxpr(value, ())
        elif isinstance(value, tuple):
            yield from (((name, i), item) for i, item in enumerate(value) if isinstance(item, core.ClosedJaxpr))


def _rewrite(closed):
    """The same ClosedJaxpr with its convolutions replaced."""
    avals = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in closed.jaxpr.invars]
    return jax.make_jaxpr(partial(_evaluate, closed.jaxpr, closed.consts))(*avals)


def _evaluate(jaxpr, consts, *args):
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        inputs = [var.val if isinstance(var, core.Literal) else env[var] for var in eqn.invars]
        if eqn.primitive is lax.conv_general_dilated_p:
            outputs = [conv_general_dilated(*map(jnp.asarray, inputs), **eqn.params)]
        else:
            params = dict(eqn.params)
            for (name, index), sub in _closed_jaxprs(eqn.params):
                if "custom" in eqn.primitive.name or not _has_conv(sub.jaxpr):
                    continue  # a custom derivative rule refers to its own copy of the function
                new = _rewrite(sub)
                if index is not None:
                    params[name] = (*params[name][:index], new, *params[name][index + 1 :])
                else:
                    params[name] = new if isinstance(params[name], core.ClosedJaxpr) else new.jaxpr
            with eqn.ctx.manager:  # the caller's matmul precision and the like
                outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(params))
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [var.val if isinstance(var, core.Literal) else env[var] for var in jaxpr.outvars]


def fast_convs(function: Callable) -> Callable:
    """The same function with convolutions whose gradients are fast inside loops on CPU; elsewhere the function itself.

    It traces `function` and replaces its convolutions before anything is differentiated, so it serves any user's model:

        attack(key, fast_convs(partial(model.apply, params)), x, labels, eps=0.3)

    Args:
        function: pytrees of arrays in, a pytree of arrays out; bind flags and strings with `functools.partial` first.

    Returns:
        A function of the same arguments and values (to float rounding).
    """

    @wraps(function)
    def fast(*args, **kwargs):
        if jax.default_backend() != "cpu":
            return function(*args, **kwargs)
        leaves, tree = jax.tree.flatten((args, kwargs))

        def flat(*leaves):
            args, kwargs = jax.tree.unflatten(tree, leaves)
            return function(*args, **kwargs)

        closed, shape = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(shape), _evaluate(closed.jaxpr, closed.consts, *leaves))

    return fast
