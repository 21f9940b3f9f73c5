"""The full Jacobian of the logits, by reverse or forward mode."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from invjax import _check, _logits
from invjax._conv import fast_convs
from invjax._sharding import automatic, varying
from invjax.types import Array, LogitsFn


@automatic
def logit_jacobian(
    logits_fn: LogitsFn, x: Float[Array, "batch ..."], *, mode: str = "rev", vectorize: bool | None = None
) -> Float[Array, "batch classes ..."]:
    """The derivative of every logit by every input value.

    >>> logit_jacobian(lambda x: x @ jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros((1, 2))).tolist()
    [[[1.0, 3.0], [2.0, 4.0]]]

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`; the logits of an image depend on that image alone.
        x: images, `[B, ...]`.
        mode: "rev" costs K backward passes, "fwd" one forward pass for each value of an image. "rev" is the better
            choice unless there are more logits than inputs.
        vectorize: whether to map over classes ("rev") or images ("fwd") with `jax.vmap` instead of one after another.
            By default it depends on the backend: True except on CPU (measured in `experiments/benchmarks/gamma.py`).

    Returns:
        The Jacobian of each image, `[B, K, ...]`.

    Raises:
        ValueError: the mode is unknown, the images are integers or contain NaN, or the output of the model is not
            `[B, K]` with K of 2 or more.
        TypeError: the mode is "fwd" and the model is a `memory_saving` net, which has a reverse mode only; use `chain`.
    """
    _check.one_of("mode", mode, ("rev", "fwd"))
    _check.real("x", x)
    num_classes = _logits.num_classes(logits_fn, x, None)
    vectorize = jax.default_backend() != "cpu" if vectorize is None else vectorize
    logits_fn, x = fast_convs(logits_fn), jnp.asarray(x)
    if mode == "fwd":
        one = jax.jacfwd(lambda image: logits_fn(image[None])[0])
        return jax.vmap(one)(x) if vectorize else jax.lax.map(one, x)
    logits, pull = jax.vjp(logits_fn, x)

    def of_class(k):
        chosen = jax.nn.one_hot(k, num_classes, dtype=logits.dtype)
        return pull(varying(logits, jnp.broadcast_to(chosen[None], logits.shape)))[0]

    classes = jnp.arange(num_classes)
    return (jax.vmap(of_class)(classes) if vectorize else jax.lax.map(of_class, classes)).swapaxes(0, 1)
