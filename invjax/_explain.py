"""What a wrong value is, and which change would make it right: the words of refusals."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def described(value: Any) -> str:
    """What a value is, in a few words of a message."""
    if isinstance(value, jax.core.Tracer) and not value.shape:
        return "a number"
    if isinstance(value, np.ndarray | jax.Array | np.generic) and np.ndim(value):
        return f"an array of shape {value.shape}"
    if isinstance(value, Mapping):
        return f"a mapping of {sorted(map(str, value))}"
    if isinstance(value, type) or inspect.isroutine(value):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__name__}"
    if type(value) in (list, tuple, set, dict):
        return f"a {type(value).__name__} of {len(value)}"
    if value is None or isinstance(value, str | int | float | np.generic | jax.Array):
        return repr(value)[:100] if getattr(value, "dtype", None) is None else str(value)
    kind = type(value)
    home = "" if kind.__module__.partition(".")[0] == "invjax" else f"{kind.__module__}."
    return f"{'an' if (home or kind.__name__)[0] in 'AEIOUaeio' else 'a'} {home}{kind.__name__}"


def other_form(model: Any, x: Any) -> str | None:
    """How the images or the model would have to change, if one of the usual changes makes the model give logits."""

    def output(shape):
        try:
            found = jax.eval_shape(model, jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(x.dtype)))
        except Exception:
            return None
        return getattr(found, "shape", None)

    count, *rest = x.shape
    if len(output(tuple(rest)) or ()) == 1:
        return "the model takes one image; map it with jax.vmap"
    if len(rest) > 1:
        for fix, shape in {
            "the images have the channel first; pass jnp.moveaxis({}, 1, -1)": (count, *rest[1:], rest[0]),
            "the model takes images with the channel first; pass lambda x: model(jnp.moveaxis(x, -1, 1))": (
                count,
                rest[-1],
                *rest[:-1],
            ),
        }.items():
            if len(output(shape) or ()) == 2:
                return fix.format("x")
    if len(output((1, *x.shape)) or ()) == 2:
        return "a single image needs a batch axis, x[None]"
    return None
