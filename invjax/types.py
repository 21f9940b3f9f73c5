"""The types and terms of the library. Read this page first.

Everything in `invjax` is a function of arrays and of pytrees of arrays ("params"). Images are float32 in [0, 1] with
the channel last, `[batch, height, width, channel]`; labels are int32; random keys are typed keys (`jax.random.key`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

Array = jax.Array | np.ndarray
"""An array on the device or on the host. Functions take both, and return arrays on the device."""

Key = PRNGKeyArray
"""A typed random key, `jax.random.key(seed)`."""

Params = Any
"""A pytree of arrays."""

Images = Float[Array, "batch height width channel"]
"""Float images in [0, 1]."""

Labels = Int[Array, " batch"]
"""Class indices."""

Logits = Float[Array, "batch classes"]
"""Unnormalised log-probabilities."""

PerExample = Float[Array, " batch"]
"""One number for each example."""

Scalar = float | int | Float[Array, ""] | Int[Array, ""]
"""A number, traced or not."""

LogitsFn = Callable[[jax.Array], jax.Array]
"""`x [B, ...] -> logits [B, K]`: the model that an attack sees, with its parameters fixed."""

ApplyFn = Callable[[Params, jax.Array], jax.Array]
"""`(params, x [B, ...]) -> logits [B, K]`: a model."""

LossFn = Callable[[Params, Key, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""`(params, key, batch, step) -> (scalar loss, metrics)`: the function that training minimises."""

Schedule = Scalar | Callable[[jax.Array], Scalar]
"""A number, or a function `step -> number` such as the schedules of optax."""

Edge = float | int | Float[Array, "..."] | Int[Array, "..."]
"""An end of a range: a number, or an array that broadcasts against one example."""

Box = tuple[Edge, Edge]
"""The range of pixel values, `(low, high)`: two numbers, or arrays that give each feature a range of its own."""


class Code(NamedTuple):
    """The code of an image with D values under an invertible classifier with K classes.

    Attributes:
        logits: `[B, K]`, the part of the code that determines the prediction.
        nuisance: `[B, D - K]`, the rest of the code.
    """

    logits: Logits
    nuisance: Float[Array, "batch nuisance"]


class Net(NamedTuple):
    """A network as two functions.

    Attributes:
        init: `(key, x [B, ...]) -> params`.
        apply: `(params, x [B, ...]) -> [B, ...]`.
    """

    init: Callable[[Key, jax.Array], Params]
    apply: ApplyFn
