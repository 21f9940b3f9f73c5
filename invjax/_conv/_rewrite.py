"""Replacing the convolutions of any function: its program is traced and evaluated with the fast convolution."""

from collections.abc import Callable
from functools import partial, wraps

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from invjax._conv._primitive import conv_general_dilated
from invjax._sharding import typed


def _has_conv(jaxpr) -> bool:
    return any(
        eqn.primitive is lax.conv_general_dilated_p
        or any(_has_conv(sub.jaxpr) for _, sub in _closed_jaxprs(eqn.params))
        for eqn in jaxpr.eqns
    )


def _closed_jaxprs(params):
    """The (path, ClosedJaxpr) pairs in an equation's parameters: bodies of jit, scan, while, cond and remat."""
    for name, value in params.items():
        if isinstance(value, core.ClosedJaxpr):
            yield (name, None), value
        elif isinstance(value, core.Jaxpr):
            yield (name, None), core.ClosedJaxpr(value, ())
        elif isinstance(value, tuple):
            yield from (((name, i), item) for i, item in enumerate(value) if isinstance(item, core.ClosedJaxpr))


def _rewrite(closed):
    """The same ClosedJaxpr with its convolutions replaced."""
    avals = [typed(var.aval) for var in closed.jaxpr.invars]
    return jax.make_jaxpr(partial(_evaluate, closed.jaxpr, closed.consts))(*avals)


def _evaluate(jaxpr, consts, *args):
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        inputs = [var.val if isinstance(var, core.Literal) else env[var] for var in eqn.invars]
        if eqn.primitive is lax.conv_general_dilated_p:
            with eqn.ctx.manager:
                outputs = [conv_general_dilated(*map(jnp.asarray, inputs), **eqn.params)]
        else:
            params = dict(eqn.params)
            for (name, index), sub in _closed_jaxprs(eqn.params):
                if "custom" in eqn.primitive.name or not _has_conv(sub.jaxpr):
                    continue  # a custom derivative rule has its own copy of the function
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
    """The same function, with convolutions whose gradients are fast inside loops on CPU.

    On other backends this is the function itself. `fast_convs` traces the function and replaces its convolutions before
    anything is differentiated, so it works with any user's model:

        attack(key, fast_convs(partial(model.apply, params)), x, labels, eps=0.3)

    Args:
        function: a function from pytrees of arrays to a pytree of arrays; bind flags and strings with
            `functools.partial` first.

    Returns:
        A function with the same arguments and the same values up to rounding.
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
