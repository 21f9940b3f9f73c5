"""An attack is a record: its function, its threat, whether it is targeted, and its recipe.

    attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None) -> AttackResult

The factory that makes the attack fixes its threat, its loss and its number of steps. `eps` and `step_size` are traced
numbers, so one compilation serves all radii. Example i draws its random numbers from `fold_in(key, ids[i])`. If
`ids` are positions in the data set, an image gets the same adversarial example in any batch, in any order and on any
number of devices.

Attacks do not call `jax.jit`; `jit_attack` compiles an attack once for all parameters of a model.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from invjax import _check
from invjax._batching import on_device
from invjax._dtypes import wide_dtype
from invjax._sharding import automatic
from invjax.attacks._threats import Threat
from invjax.types import ApplyFn, Array, Key, Labels, LogitsFn, Params, PerExample, Scalar


class AttackResult(NamedTuple):
    """The result of an attack, for each example.

    Attributes:
        x: `[B, ...]`, the best image found, in float32 or wider. A success is better than a failure; most attacks then
            prefer a larger loss. A model of half precision has seen it rounded to the dtype of the given images.
        success: `[B]`, whether the prediction on `x` differs from the label, or is the target of a targeted attack.
            The attack computes it again from the returned `x`. Where the model gives NaN logits it makes no
            prediction: an untargeted attack has succeeded.
        distance: `[B]`, the distance of `x` from the original, in the units of `eps`.
        loss: `[B]`, the loss that the attack maximises, at `x`; NaN where the model gives NaN logits.
        trace: `[B, steps]`, the loss after each step.
        finite_gradients: `[B]`, whether all gradients that the attack met were finite. NaN and infinite entries count
            as 0, so the attack is weak where this is false. It is true for attacks without gradients.
    """

    x: Float[Array, "batch ..."]
    success: Bool[Array, " batch"]
    distance: PerExample
    loss: PerExample
    trace: Float[Array, "batch steps"]
    finite_gradients: Bool[Array, " batch"]


class Attack(NamedTuple):
    """An attack as a record. Calling the record runs the attack.

    Combinators (`restarts`, `worst_of`, `smallest`, `transformed`) take and return this record, so that a combined
    attack keeps its threat and its field `targeted`.

    Attributes:
        run: `(key, logits_fn, x [B, ...], labels [B], *, eps, step_size=None, ids=None) -> AttackResult`.
        threat: the geometry in which `eps` is measured, and the range of pixel values.
        targeted: whether `labels` are classes to reach; otherwise they are the true classes.
        recipe: one line that describes the attack in tables and data sets, such as
            "pgd(linf, steps=40, loss=log_odds)".
    """

    run: Callable[..., AttackResult]
    threat: Threat
    targeted: bool
    recipe: str

    def __call__(
        self,
        key: Key,
        logits_fn: LogitsFn,
        x: Array,
        labels: Labels,
        *,
        eps: Any,
        step_size: Any = None,
        ids: Any = None,
    ) -> AttackResult:
        """Run the attack on a batch; outside of `jit`, NaN logits are refused, and bad gradients give a warning."""
        check_radius(self.threat, eps)
        run = automatic(lambda logits_fn, x, key, labels, **given: self.run(key, logits_fn, x, labels, **given))
        result = run(logits_fn, x, key, labels, eps=eps, step_size=step_size, ids=ids)
        check_result(self, result)
        return result


def recipe(name: str, threat: Threat, **settings: Any) -> str:
    """Describe an attack in one line: its name, its threat and its settings.

    >>> from invjax import attacks
    >>> recipe("pgd", attacks.linf(), steps=40)
    'pgd(linf, steps=40)'
    >>> recipe("pgd", attacks.l2(box=(-1, 1)), steps=40)
    'pgd(l2(box=(-1, 1)), steps=40)'

    Args:
        name: the name of the attack.
        threat: the threat of the attack. The line shows its box unless it is (0, 1).
        **settings: the settings to show, in this order; functions are shown by their names.

    Returns:
        The line, for the field `recipe` of an `Attack`.
    """
    low, high = threat.box
    geometry = threat.name if (low, high) == (0, 1) else f"{threat.name}(box=({low:g}, {high:g}))"
    said = [f"{key}={getattr(value, '__name__', value)}" for key, value in settings.items()]
    return f"{name}({', '.join([geometry, *said])})"


def check_attack(attack: Any) -> None:
    """Refuse anything but an `Attack` record, because a bare function has no threat and no field `targeted`.

    Args:
        attack: the object to check.

    Raises:
        ValueError: `attack` is not an `Attack`.
    """
    if not isinstance(attack, Attack):
        raise ValueError(
            f"attack must be an attacks.Attack; got {attack!r}; "
            "wrap a function as Attack(function, threat, targeted, recipe)"
        )


def check_images(attack: Attack, x: Array, name: str = "x") -> None:
    """Refuse images that the attack cannot take.

    Args:
        attack: the attack that will take the images.
        x: `[B, ...]` images.
        name: the name of the images in the message.

    Raises:
        ValueError: `attack` is not an `Attack`, or the images are integers, NaN or outside of the attack's box.
    """
    check_attack(attack)
    _check.within(name, x, attack.threat.box)


def check_radius(threat: Threat, eps: Any, x: Any = None, name: str = "eps") -> None:
    """Refuse radii that mean something else than the user thinks, and warn of radii that reach every image.

    Args:
        threat: the threat, which gives the unit of the radius.
        eps: the radius.
        x: `[B, ...]`, the images; with None there is no warning.
        name: the name of the radius in the message.

    Raises:
        ValueError: the radius is an array or negative, or a number of pixels between 0 and 1.
    """
    _check.number(name, eps)
    if not _check.concrete(eps):
        return
    if threat.counts and 0 < float(eps) < 1:
        raise ValueError(f"{name} of {threat.name} is a number of pixels; got {eps}; use a whole number, such as 10")
    low, high = threat.box
    if x is None or not _check.concrete(x) or not len(x) or not np.isfinite(high - low):
        return
    with jax.ensure_compile_time_eval():  # the radius may be known while the caller is traced
        ends = (jax.device_put(np.full(x.shape[1:], float(end))) for end in (high, low))
        farthest = float(threat.distance(*ends))
    if float(eps) > farthest * (1 + 1e-6):
        meant = f"; was {float(eps) / 255:.4g} meant?" if threat.order == jnp.inf else ""
        warnings.warn(
            f"{name}={eps:g} in {threat.name} reaches every image of the box {threat.box}, where the largest distance "
            f"is {farthest:.4g}{meant}",
            stacklevel=3,
        )
    spacing = float(jnp.finfo(x.dtype).eps) * max(abs(low), abs(high)) / 2
    if x.dtype.itemsize < 4 and threat.order == jnp.inf and 0 < float(eps) < 2 * spacing:
        warnings.warn(
            f"{name}={eps:g} is less than twice the spacing {spacing:.2g} of {x.dtype} images: the model sees other "
            "changes than the attack makes; evaluate it on float32 images",
            stacklevel=3,
        )


def jit_attack(attack: Attack, apply_fn: ApplyFn) -> Callable[..., AttackResult]:
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
        apply_fn: `(params, x) -> logits`.

    Returns:
        `(key, params, x, labels, *, eps, step_size=None, ids=None) -> AttackResult`. The function checks its arguments
        before it compiles, and the logits after it has run. It warns of gradients that are not finite.

    Raises:
        ValueError: `attack` is not an `Attack`. When the returned function is called: the attack refuses the images,
            the labels or the radius, or the model gives NaN logits on an image that the attack found.
    """
    check_attack(attack)

    @jax.jit
    def run(key, params, x, labels, eps, step_size, ids):
        return attack(key, partial(apply_fn, params), x, labels, eps=eps, step_size=step_size, ids=ids)

    # jit caches the trace of the model, so that the check of the output shape does not trace it at every call
    shaped = jax.jit(apply_fn)

    def compiled(
        key: Key,
        params: Params,
        x: Array,
        labels: Labels,
        *,
        eps: Scalar,
        step_size: Scalar | None = None,
        ids: Any = None,
    ) -> AttackResult:
        check_images(attack, x)
        check_radius(attack.threat, eps, x)
        _check.labels(labels, _check.logits_of(partial(shaped, params), x, labels))
        if step_size is not None:
            _check.number("step_size", step_size)
            step_size = _number(step_size, x.dtype)
        result = on_device(run)(key, params, x, labels, _number(eps, x.dtype), step_size, ids)
        check_result(attack, result)
        return result

    return compiled


def _number(value, dtype):
    """A radius or a step size, on the host if it is a plain number, because `device_put` then sends it explicitly."""
    return (jnp if isinstance(value, jax.Array) else np).asarray(value, wide_dtype(dtype))


def check_result(attack: Attack, result: AttackResult) -> None:
    """Refuse NaN logits and warn of gradients that are not finite, where the values are known.

    Args:
        attack: the attack that ran.
        result: its result.

    Raises:
        ValueError: the model gives NaN logits on an image that the attack found.
    """
    if not _check.known(result.loss):
        return
    broken = int(np.isnan(result.loss).sum())
    if broken:
        raise ValueError(
            f"the model's logits are NaN on {broken} of {len(result.loss)} images that {attack.recipe} found; check "
            "the parameters, and that the model is defined on the whole box"
        )
    warn_of_gradients(attack.recipe, result.finite_gradients)


def sound(result: AttackResult) -> Bool[Array, " batch"]:
    """Where an attack met neither NaN logits nor gradients that are not finite.

    Args:
        result: the result of an attack on B images.

    Returns:
        `[B]`, one truth value for each image.
    """
    return result.finite_gradients & ~jnp.isnan(result.loss)


def warn_of_gradients(recipe: str, finite: Any) -> None:
    """Warn of images on which an attack met gradients that are not finite, or NaN logits.

    Args:
        recipe: what ran.
        finite: `[B]`, `AttackResult.finite_gradients`, or `sound` of the result.
    """
    bad = int((~np.asarray(finite)).sum())
    if bad:
        warnings.warn(
            f"{recipe} met gradients or logits that are NaN or infinite on {bad} of {len(finite)} images; such entries "
            "of a gradient count as 0, so the attack is weak there, and an image with NaN logits counts as broken: "
            "make the model finite on the whole box, or use square",
            stacklevel=3,
        )
