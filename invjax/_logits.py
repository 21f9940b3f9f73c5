"""Checks of what a model returns: logits `[B, K]` of two classes or more."""

from typing import Any

import jax
import jax.numpy as jnp

from invjax import _check
from invjax._explain import other_form


def num_classes(logits_fn: Any, x: Any, labels: Any, name: str = "labels") -> int:
    """Check that `logits_fn(x)` is `[B, K]` with K >= 2, and that there is one label for each example.

    Args:
        logits_fn: the model, which is traced for its shapes.
        x: `[B, ...]` images.
        labels: `[B]`, or None if there are none.
        name: the name of the labels in the message.

    Returns:
        The number of classes K.
    """
    _check.function("logits_fn", logits_fn, "x -> logits")
    if labels is not None:
        _check.one_each(name, labels, x)
    try:
        found = jax.eval_shape(logits_fn, x)
    except Exception as error:
        refused = isinstance(error, ValueError) and "explicit axes" in str(error)
        fix = None if refused else other_form(logits_fn, x)
        if fix is None:
            raise
        raise ValueError(f"the model does not take images {x.shape}; {fix}") from error
    check_shape(found, x.shape, other_form(logits_fn, x) if getattr(found, "ndim", 2) == 1 else None)
    return found.shape[1]


def check_shape(found: Any, images: tuple[int, ...], fix: str | None = None) -> None:
    """Check that the output of a model for images of this shape is `[B, K]` with K >= 2."""
    shape, count = getattr(found, "shape", None), images[0]
    if shape is not None and len(shape) == 2 and shape[0] == count and shape[1] >= 2:
        return
    got = shape if shape is not None else f"{len(jax.tree.leaves(found))} outputs"
    if shape is None:
        fix = "return the logits alone"
    elif shape in ((count,), (count, 1)):
        fix = "two classes need two logits, such as [-z, z]"
    raise ValueError(
        f"the model must map images {images} to logits [{count}, classes]; got {got}; "
        f"{fix or 'return a row of logits for each image'}"
    )


def least_likely(logits: jax.Array) -> jax.Array:
    """The class of the smallest logit, `[B]`; a class with logit -inf is masked, and the model never predicts it."""
    return jnp.where(jnp.isneginf(logits), jnp.inf, logits).argmin(-1)


def check(value: Any) -> None:
    """Check that `value` holds logits `[B, K]` with K >= 2."""
    _check.array("logits", value)
    if len(value.shape) != 2 or value.shape[1] < 2:
        single = len(value.shape) == 1 or value.shape[1:] == (1,)
        fix = "two classes need two logits, such as [-z, z]" if single else "give one row for each example"
        raise ValueError(f"logits must be [batch, classes], 2 classes or more; got {value.shape}; {fix}")
