"""An attack is a record: its function, its threat, whether it is targeted, and its recipe.

    attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None) -> AttackResult

The factory that makes the attack fixes its threat, its loss and its number of steps. `eps` and `step_size` are traced
numbers, so one compilation serves all radii. `eps` is one number, or one for each example. Example i draws its random
numbers from `fold_in(key, ids[i])`. If `ids` are positions in the data set, an image gets the same adversarial example
in any batch, in any order and on any number of devices.

Attacks do not call `jax.jit`; `jit_attack` compiles an attack once for all parameters of a model.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from invjax import _box, _check, _logits
from invjax._sharding import automatic
from invjax.attacks._by_image import per_example
from invjax.attacks._fixes import instead_of_attack
from invjax.attacks._threats import Threat, check_mask
from invjax.types import Array, Key, Labels, Logits, LogitsFn, PerExample


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


@dataclass(frozen=True)  # unlike a NamedTuple, which `jax.jit` cannot hold weakly
class Attack:
    """An attack as a record. Calling the record runs the attack.

    Combinators (`restarts`, `worst_of`, `smallest`, `transformed`, `top_k`, `confident`) take and return this record,
    so that a combined attack keeps its threat and its fields `targeted` and `decision`.

    Attributes:
        run: `(key, logits_fn, x [B, ...], labels [B], *, eps, step_size=None, ids=None) -> AttackResult`.
        threat: the geometry in which `eps` is measured, and the range of pixel values.
        targeted: whether `labels` are classes to reach; otherwise they are the true classes.
        recipe: one line that describes the attack in tables and data sets, such as
            "pgd(linf, steps=40, loss=log_odds)".
        decision: `(logits [B, K], labels [B]) -> logits [B, K]`, the logits whose prediction decides on success, from
            `top_k` or `confident`; with None they are the model's own.
    """

    run: Callable[..., AttackResult]
    threat: Threat
    targeted: bool
    recipe: str
    decision: Callable[[Logits, Labels], Logits] | None = None

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
        _check.key(key)
        _check.function("logits_fn", logits_fn, "x -> logits")
        _check.examples("x", x)
        _check.one_each("labels", labels, x)
        check_radius(self.threat, eps, count=len(x))
        if ids is not None:
            _check.ids(ids, len(x))
        check_mask(self.threat, x, ids)
        run = self.run
        if np.ndim(eps):
            check_images(self, x, ids=ids)
            _check.labels(labels, _logits.num_classes(logits_fn, x, labels))
            run = per_example(self)
        run_on = automatic(lambda logits_fn, x, key, labels, **given: run(key, logits_fn, x, labels, **given))
        result = run_on(logits_fn, x, key, labels, eps=eps, step_size=step_size, ids=ids)
        check_result(self, result)
        return result


def recipe(name: str, threat: Threat, **settings: Any) -> str:
    """Describe an attack in one line: its name, its threat and its settings.

    >>> from invjax import attacks
    >>> recipe("pgd", attacks.linf(), steps=40)
    'pgd(linf, steps=40)'
    >>> recipe("pgd", attacks.l2(box=(-1, 1)), steps=40)
    'pgd(l2(box=(-1, 1)), steps=40)'
    >>> recipe("pgd", attacks.masked(attacks.l2(), np.eye(3, dtype=bool)), steps=40)
    'pgd(masked-l2(mask=[3, 3]:44a94791), steps=40)'

    Args:
        name: the name of the attack.
        threat: the threat of the attack. The line shows its box unless it is (0, 1), and its mask if it has one. Arrays
            are shown by their shape and the start of their digest.
        **settings: the settings to show, in this order; functions are shown by their names.

    Returns:
        The line, for the field `recipe` of an `Attack`.
    """
    limits = [] if _box.same(threat.box, (0, 1)) else [f"box={_box.text(threat.box)}"]
    limits += [] if threat.mask is None else [f"mask={_box.described(threat.mask)}"]
    geometry = f"{threat.name}({', '.join(limits)})" if limits else threat.name
    said = [f"{key}={getattr(value, '__name__', value)}" for key, value in settings.items()]
    return f"{name}({', '.join([geometry, *said])})"


def check_attack(attack: Any) -> None:
    """Refuse anything but an `Attack` record, because a bare function has no threat and no field `targeted`.

    Args:
        attack: the object to check.

    Raises:
        ValueError: `attack` is not an `Attack`.
    """
    if isinstance(attack, Attack):
        return
    got, fix = instead_of_attack(attack)
    raise ValueError(f"attack must be an attacks.Attack; got {got}; {fix}")


def check_prediction(attack: Attack) -> None:
    """Refuse an attack whose success is not a prediction, where predictions are counted.

    Args:
        attack: the attack to check.

    Raises:
        ValueError: the attack comes from `top_k` or `confident`.
    """
    if attack.decision is not None:
        raise ValueError(
            f"the attack must ask for a wrong prediction; got {attack.recipe}; use evaluation.robustness_curve, "
            "evaluation.benchmark or attacks.over, which count success by the rule of the attack"
        )


def check_images(attack: Attack, x: Array, name: str = "x", ids: Any = None) -> None:
    """Refuse images that the attack cannot take.

    Args:
        attack: the attack that will take the images.
        x: `[B, ...]` images.
        name: the name of the images in the message.
        ids: `[B]`, the positions of the images in the data set; None if they are the whole data set.

    Raises:
        ValueError: `attack` is not an `Attack`, the images are integers, NaN or outside of the attack's box, or the
            mask of its threat does not fit them.
    """
    check_attack(attack)
    _check.within(name, x, attack.threat.box)
    check_mask(attack.threat, x, ids, name)


def check_radius(threat: Threat, eps: Any, x: Any = None, name: str = "eps", count: int | None = None) -> None:
    """Refuse radii that mean something else than the user thinks, and warn of radii that reach every image.

    Args:
        threat: the threat, which gives the unit of the radius.
        eps: the radius.
        x: `[B, ...]`, the images; with None there is no warning.
        name: the name of the radius in the message.
        count: the number of images, each of which may have its own radius; with None there is one radius.

    Raises:
        ValueError: the radius is negative or infinite, an array of another shape than `[count]`, or a number of pixels
            between 0 and 1.
    """
    if count is None:
        _check.number(name, eps)
    else:
        _check.one_or_each(name, eps, count)
    if not _check.concrete(eps) or not np.size(eps):
        return
    values = np.asarray(eps, np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite; got {values.max()}; use the largest distance in the box")
    eps, smallest = values.max(), np.where(values > 0, values, np.inf).min()
    if threat.counts and smallest < 1:
        raise ValueError(
            f"{name} counts the pixels that change in {threat.name}; got {smallest:g}; use a whole number, such as 10"
        )
    if x is None or not len(x) or not all(map(_check.concrete, (x, *threat.box, threat.mask))):
        return
    low, high = _box.corners(threat.box, x.shape[1:])
    if not np.isfinite(high - low).all():
        return
    if threat.mask is not None:
        high = np.where(threat.mask if threat.for_image is None else threat.mask.any(0), high, low)
    with jax.ensure_compile_time_eval():  # the radius may be known while the caller is traced
        ends = (jax.device_put(np.asarray(end, float)) for end in (high, low))
        farthest = float(threat.distance(*ends))
    if eps > farthest * (1 + 1e-6):
        meant = f"; was {eps / 255:.4g} meant?" if threat.order == jnp.inf else ""
        warnings.warn(
            f"{name}={eps:g} in {threat.name} reaches every image of the box {_box.shown(threat.box)}, where the "
            f"largest distance is {farthest:.4g}{meant}",
            stacklevel=3,
        )
    spacing = float(jnp.finfo(x.dtype).eps) * float(np.maximum(abs(low), abs(high)).max()) / 2
    if x.dtype.itemsize < 4 and threat.order == jnp.inf and smallest < 2 * spacing:
        warnings.warn(
            f"{name}={smallest:g} is less than twice the spacing {spacing:.2g} of {x.dtype} images: the model sees "
            "other changes than the attack makes; evaluate it on float32 images",
            stacklevel=3,
        )


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
