"""Compiled attacks: on one batch (`jit_attack`), and on a whole data set (`over`)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invjax import _check, _logits
from invjax._batching import cached, on_device, over_batches
from invjax._dtypes import wide_dtype
from invjax.attacks._attack import Attack, AttackResult, check_attack, check_images, check_radius, check_result
from invjax.attacks._random_model import RandomModel, bind
from invjax.types import ApplyFn, Array, Key, Labels, Params, PerExample, Scalar

Compiled = tuple[Callable[..., AttackResult], Callable[..., jax.Array]]


def _compile(attack: Attack, apply_fn: ApplyFn | RandomModel) -> Compiled:
    """The compiled attack, and the model as a function whose trace is kept for the check of its output."""

    def run(key, params, eps, step_size, x, labels, ids):
        model = bind(apply_fn, params, key, ids, len(x))
        return attack(key, model, x, labels, eps=eps, step_size=step_size, ids=ids)

    def logits(key, params, x):
        return bind(apply_fn, params, key, None, len(x))(x)

    return on_device(jax.jit(run)), jax.jit(logits)


_compile_once = cached(_compile)


def _checked(attack, logits, x, labels, eps, step_size, ids, name="x"):
    """The radius and the step size as arrays, after the checks that need values; `logits` gives the model's shape."""
    check_images(attack, x, name, ids)
    check_radius(attack.threat, eps, x, count=len(x))
    if ids is not None:
        _check.ids(ids, len(x))
    _check.labels(labels, _logits.num_classes(logits, x, labels))
    if step_size is not None:
        _check.number("step_size", step_size)
        step_size = _number(step_size, x.dtype)
    return _number(eps, x.dtype), step_size


def _number(value, dtype):
    """A radius or a step size, on the host if it is a plain number, because `device_put` then sends it explicitly."""
    return (jnp if isinstance(value, jax.Array) else np).asarray(value, wide_dtype(dtype))


def jit_attack(attack: Attack, apply_fn: ApplyFn | RandomModel) -> Callable[..., AttackResult]:
    """Compile an attack on a model once for each shape of the images, for all parameters, keys and radii.

    By contrast, `jax.jit` compiles again for every new closure over the parameters.

    >>> from invjax import attacks
    >>> linear = lambda w, x: x @ w
    >>> run = jit_attack(attacks.fgsm(), linear)
    >>> x, labels = jnp.array([[0.5, 0.4]]), jnp.array([0])
    >>> run(jax.random.key(0), jnp.eye(2), x, labels, eps=0.25).x.tolist()
    [[0.25, 0.6499999761581421]]

    Args:
        attack: the attack to compile.
        apply_fn: `(params, x) -> logits`, or a model from `random_model`.

    Returns:
        `(key, params, x, labels, *, eps, step_size=None, ids=None) -> AttackResult`. The function checks its arguments
        before it compiles, and the logits after it has run. It warns of gradients that are not finite. `eps` is one
        number, or one for each image, `[B]`.

    Raises:
        ValueError: `attack` is not an `Attack`. When the returned function is called: the attack refuses the images,
            the labels or the radius, or the model gives NaN logits on an image that the attack found.
    """
    check_attack(attack)
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    run, logits = _compile(attack, apply_fn)

    def compiled(
        key: Key,
        params: Params,
        x: Array,
        labels: Labels,
        *,
        eps: Scalar | PerExample,
        step_size: Scalar | None = None,
        ids: Any = None,
    ) -> AttackResult:
        _check.key(key)
        radii, size = _checked(attack, partial(logits, key, params), x, labels, eps, step_size, ids)
        result = run(key, params, radii, size, x, labels, ids)
        check_result(attack, result)
        return result

    return compiled


def over(
    attack: Attack, apply_fn: ApplyFn | RandomModel, *, batch_size: int = 128, mesh: Mesh | None = None
) -> Callable[..., AttackResult]:
    """An attack over a whole data set: batches of one shape, a progress bar, and host arrays as the result.

    Image i draws from `fold_in(key, i)`, so that it gets the same adversarial example at every batch size and on every
    mesh, up to the rounding of a program compiled for another shape.

    >>> from invjax import attacks
    >>> linear = lambda w, x: x @ w
    >>> images, labels = np.array([[0.5, 0.4], [0.9, 0.1], [0.3, 0.4]], np.float32), np.array([0, 0, 1])
    >>> run = over(attacks.fgsm(), linear, batch_size=2)
    >>> run(jax.random.key(0), np.eye(2), images, labels, eps=0.25).success
    array([ True, False,  True])

    Args:
        attack: the attack to run. Several calls with the same attack and the same `apply_fn` compile it once.
        apply_fn: `(params, x) -> logits`, or a model from `random_model`.
        batch_size: number of images in a batch, rounded up to a multiple of the number of devices.
        mesh: devices to spread each batch over, from `training.data_mesh()`; None is one device.

    Returns:
        `(key, params, images [N, ...], labels [N], *, eps, step_size=None, ids=None) -> AttackResult` of host arrays.
        `eps` is one number, or one for each image, `[N]`. `ids` are the positions of the images in the data
        set; by default these are 0, ..., N - 1.

    Raises:
        ValueError: `attack` is not an `Attack`, or `batch_size` is below 1. When the returned function is called: there
            are no images, the attack refuses the images, the labels or the radius, or the model gives NaN logits on an
            image that the attack found.
    """
    check_attack(attack)
    _check.count(batch_size=batch_size)
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    run, logits = _compile_once(attack, apply_fn)

    def everywhere(
        key: Key,
        params: Params,
        images: Array,
        labels: Labels,
        *,
        eps: Scalar | PerExample,
        step_size: Scalar | None = None,
        ids: Any = None,
    ) -> AttackResult:
        _check.key(key)
        radii, size = _checked(attack, partial(logits, key, params), images, labels, eps, step_size, ids, "images")
        ids = np.arange(len(images), dtype=np.uint32) if ids is None else ids

        def batch(x, labels, ids, radius=radii):
            return run(key, params, radius, size, x, labels, ids)

        arrays = [images, labels, ids, *([radii] if radii.ndim else [])]
        result = over_batches(batch, arrays, batch_size, mesh, description=attack.recipe)
        check_result(attack, result)
        return result

    return everywhere
