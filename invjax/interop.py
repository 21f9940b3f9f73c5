"""Models of other libraries as `apply_fn` and `params`, which all functions of this library take.

    apply_fn, params = from_linen(module, variables)
    result = attacks.jit_attack(attacks.pgd(), apply_fn)(key, params, x, labels, eps=8 / 255)

A model that already is a function `(params, x [B, ...]) -> logits [B, K]` needs nothing from this module. The libraries
are imported when they are used. No function changes the model that it takes. Variables beside the parameters (running
averages, counters) become part of `params` and are only read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from invjax import _check
from invjax._explain import described
from invjax.types import ApplyFn, Array, Params

PerChannel = float | int | Sequence[float | int] | Float[Array, "..."]
"""One number for all channels, or one number for each channel."""


def from_linen(module: Any, variables: Mapping[str, Any], **apply_arguments: Any) -> tuple[ApplyFn, Params]:
    """Convert a flax linen module, in evaluation mode.

    >>> from flax import linen as nn
    >>> dense = nn.Dense(3)
    >>> apply_fn, params = from_linen(dense, dense.init(jax.random.key(0), jnp.ones((1, 4))))
    >>> apply_fn(params, jnp.ones((2, 4))).shape
    (2, 3)

    Args:
        module: a linen module that maps images `[B, ...]` to logits `[B, K]`.
        variables: all collections that `module.init` returned or a checkpoint holds: `{"params": ..., "batch_stats":
            ...}`. They become `params` unchanged.
        **apply_arguments: arguments of every call of the module, such as `train=False` or `use_running_average=True`,
            which select the evaluation mode. A module in training mode raises flax's own error when it draws a random
            mask or updates an average.

    Returns:
        `apply_fn` and `params`.

    Raises:
        ValueError: `module` is no linen module or has no such method, `variables` has no "params", or the arguments
            include `rngs` or `mutable`, because an attack cannot keep a new state.
    """
    parts = (getattr(module, name, None) for name in ("init", "apply"))
    if isinstance(module, type) or not all(map(callable, parts)):
        fix = "make an instance of it" if isinstance(module, type) else "use from_nnx or from_equinox for their modules"
        raise ValueError(f"module must be a flax linen module, with init and apply; got {described(module)}; {fix}")
    method = apply_arguments.get("method", "__call__")
    if isinstance(method, str) and not hasattr(module, method):
        raise ValueError(f"module must give logits by {method}; got {described(module)} without it; pass method=")
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ValueError(
            f'variables must hold "params" beside its other collections; got {described(variables)}; '
            'pass all that module.init returned, or {"params": params}'
        )
    if "rngs" in apply_arguments:
        raise ValueError("rngs must be left out: every call would draw the same mask; use the module's evaluation mode")
    if apply_arguments.get("mutable", False) is not False:
        raise ValueError(
            f"mutable must be left out; got mutable={apply_arguments['mutable']}; use the module's evaluation mode"
        )
    return lambda params, x: module.apply(params, x, **apply_arguments), variables


def from_nnx(model: Any, **call_arguments: Any) -> tuple[ApplyFn, Params]:
    """Convert a flax nnx module in evaluation mode: call `model.eval()` first, or pass `nnx.view(model, ...)`.

    Args:
        model: a module that is called as `model(x [B, ...]) -> logits [B, K]`.
        **call_arguments: arguments of every call of the model, such as `train=False` or `rngs=None`, which select the
            evaluation mode.

    Returns:
        `apply_fn`, and as `params` the state of `nnx.split(model)`, a pytree. Training the model later does not change
        `params`: call `from_nnx` again.

    Raises:
        ValueError: `model` is no nnx module that can be called, or a part of it is in training mode. (Without this
            error its dropout would draw the same mask in every call, and its batch norm would mix the images of a
            batch.)
    """
    from flax import nnx

    if not isinstance(model, nnx.Module):
        fix = "make an instance of it" if isinstance(model, type) else "use from_linen for a linen module"
        raise ValueError(f"model must be a flax nnx module; got {described(model)}; {fix}")
    _check.function("model", model, "x -> logits")
    modes = {"deterministic": False, "use_running_average": False}
    training = [
        f"{'.'.join(map(str, path)) or 'the model'} ({type(part).__name__}, {name}={value})"
        for path, part in nnx.iter_graph(model)
        if isinstance(part, nnx.Module)
        for name, value in modes.items()
        if getattr(part, name, None) is value
    ]
    if training:
        raise ValueError(f"the model must be in evaluation mode; got {', '.join(training)}; call model.eval() first")
    graph, state = nnx.split(model)

    def copy(state):  # a state shares its variables with the model that it comes from, and with one that is merged
        return jax.tree.map(lambda leaf: leaf, state)

    # a call may change variables, such as counters of random keys; without the copy those would be the caller's
    return lambda params, x: nnx.merge(graph, copy(params))(x, **call_arguments), copy(state)


def from_equinox(model: Any, *call_arguments: Any, **named_arguments: Any) -> tuple[ApplyFn, Params]:
    """Convert an equinox module, which takes one example, by mapping it over the batch.

    Put the module into evaluation mode with `equinox.nn.inference_mode(model)`. Equinox convolutions take the channel
    first: begin the model with `equinox.nn.Lambda(lambda x: jnp.moveaxis(x, -1, 0))`, so that it takes images
    `[B, H, W, C]` as all models do.

    Args:
        model: a module that is called as `model(x [...]) -> logits [K]`. Wrap a model with a state
            (`equinox.nn.BatchNorm`) in an `equinox.Module` of your own whose `__call__` returns `model(x, state)[0]`,
            so that its arrays stay parameters.
        *call_arguments: further arguments of every call of the model, after the example.
        **named_arguments: named arguments of every call, such as `key=None` for a model that draws random numbers in
            training only.

    Returns:
        `apply_fn`, and as `params` the model's arrays, with None in place of everything else.

    Raises:
        ImportError: equinox is not installed.
        ValueError: `model` is not an equinox module that can be called.
    """
    try:
        import equinox
    except ImportError as error:
        raise ImportError("from_equinox needs equinox: pip install equinox") from error
    if not (isinstance(model, equinox.Module) and callable(model)):
        fix = "make an instance of it" if isinstance(model, type) else "use from_linen or from_nnx for modules of flax"
        raise ValueError(f"model must be an equinox module with __call__; got {described(model)}; {fix}")
    params, static = equinox.partition(model, equinox.is_array)

    def apply_fn(params, x):
        one = equinox.combine(params, static)
        return jax.vmap(lambda image: one(image, *call_arguments, **named_arguments))(x)

    return apply_fn, params


def normalized(apply_fn: ApplyFn, mean: PerChannel, std: PerChannel) -> ApplyFn:
    """Convert a model of standardised images to a model of images in [0, 1]: `apply_fn(params, (x - mean) / std)`.

    Attacks then work in [0, 1]: the box, `eps` and the images that they return are in units of pixel values, like
    published numbers.

    >>> logits = normalized(lambda params, x: x, mean=[0.5, 0.25], std=[0.5, 0.25])(None, jnp.ones((1, 2)))
    >>> logits.tolist()
    [[1.0, 3.0]]

    Args:
        apply_fn: `(params, standardised x [B, ..., C]) -> logits`.
        mean: the mean of each channel, or one number, for images in [0, 1]: divide a mean of bytes by 255.
        std: the standard deviation of each channel, or one number, in the same unit.

    Returns:
        `(params, x [B, ..., C] in [0, 1]) -> logits`.

    Raises:
        ValueError: `mean` or `std` is not one number or one number for each channel, is NaN, or `std` is not positive;
            or all are above 1, as those of bytes are. When called: the images have another number of channels.
    """
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    mean, std = (np.asarray(value, np.float64) for value in (mean, std))
    for name, value in {"mean": mean, "std": std}.items():
        if value.ndim > 1 or not np.isfinite(value).all():
            raise ValueError(
                f"{name} must be one finite number, or one for each channel; got {name}={value.tolist()}; "
                "remove axes of length 1 with numpy.ravel"
            )
    if not (std > 0).all():
        raise ValueError(f"std must be positive; got std={std.tolist()}; use 1 for a channel that never varies")
    if (mean > 1).all() and (std > 1).all():
        raise ValueError(
            f"mean and std must be those of images in [0, 1]; got mean={mean.tolist()} and std={std.tolist()}; divide "
            "both by 255 if they are of bytes, or standardise other data inside of apply_fn"
        )
    if mean.ndim == std.ndim == 1 and mean.size != std.size:
        raise ValueError(
            f"mean and std must be of the same channels; got {mean.size} and {std.size} numbers; give one for each"
        )
    channels = max(mean.shape, std.shape)  # () for one number each

    def apply(params, x):
        _check.floating("images", x)
        if channels and x.shape[-1:] != channels:
            raise ValueError(
                f"mean and std are of {channels[0]} channels; got images {x.shape}; move the channel to the last axis, "
                "or give one number for all"
            )
        center, scale = (
            jnp.asarray(value, x.dtype).reshape(*[1] * (x.ndim - value.ndim), *value.shape) for value in (mean, std)
        )
        return apply_fn(params, (x - center) / scale)

    return apply
