"""Sensitivity of a model to one threat: errors at a radius, and the smallest radius of each image."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check, _explain
from invjax._batching import cached, on_device, over_batches
from invjax._dtypes import wide_dtype
from invjax._store import digest_tree
from invjax.attacks import Attack, AttackResult, smallest
from invjax.attacks.building import check_images, check_prediction, check_radius, sound, warn_of_gradients, where
from invjax.bounds import METHODS
from invjax.evaluation._certificate import REGIONS
from invjax.evaluation._options import Options, kept
from invjax.types import ApplyFn, Key, Params, PerExample


class ThreatModel(NamedTuple):
    """One attack at one radius, for `report`.

    Attributes:
        attack: an untargeted attack; its threat gives the name and the box.
        eps: the radius, in the units of the threat; `report` refuses None.
        certify: one of `bounds.METHODS`, which certifies the ball of an 'linf' or 'l2' threat; None certifies nothing.
        bisections: steps of the search for the smallest radius, which starts from the interval [0, 2 eps].
        keep_examples: whether to return the nearest adversarial examples.
    """

    attack: Attack
    eps: Any = None
    certify: str | None = None
    bisections: int = 8
    keep_examples: bool = False


class Sensitivity(NamedTuple):
    """The sensitivity of a model to one threat.

    Attributes:
        eps: the radius of the attack.
        success: `[N]`, whether the image is misclassified, without a change or under the attack.
        smallest_eps: `[N]`, the distance of the nearest adversarial example found; 0 for images that are misclassified
            without a change, infinity where none was found up to twice `eps`.
        nearest: `[N, ...]`, the nearest adversarial examples, or the image itself where the search found none; None
            without `keep_examples`.
        attack: the recipe of the attack.
    """

    eps: float
    success: np.ndarray
    smallest_eps: np.ndarray
    nearest: np.ndarray | None = None
    attack: str = ""


def check_threat(model: ThreatModel, images: np.ndarray) -> None:
    """Check a threat model against the images.

    Raises:
        ValueError: the attack is not an untargeted `Attack` or comes from `top_k` or `confident`, the radius is
            negative, images lie outside of the box, `certify` is not a method, or its threat has no certificate.
    """
    if not isinstance(model, ThreatModel):
        raise ValueError(
            f"threats must hold evaluation.ThreatModel(attack, eps); got {_explain.described(model)}; such as "
            "ThreatModel(attacks.pgd(attacks.linf()), 8 / 255)"
        )
    check_images(model.attack, images, "images")
    name = model.attack.threat.name
    if model.attack.targeted:
        raise ValueError(f"the attack in {name} must be untargeted; got {model.attack.recipe}; make it targeted=False")
    check_prediction(model.attack)
    check_radius(model.attack.threat, model.eps, images, f"eps of {name}")
    _check.count(bisections=model.bisections)
    if model.certify is not None:
        _check.one_of("certify", model.certify, METHODS)
        _check.one_of("a threat to certify", name, tuple(REGIONS))


def sensitivity(
    key: Key,
    model: ThreatModel,
    apply_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    right: np.ndarray,
    options: Options,
) -> Sensitivity:
    """Attack correctly classified images at the radius and by bisection, or read the stored results."""
    attack, eps = model.attack, model.eps
    store = kept(options, f"{attack.threat.name}.npz", params, images, labels, right,
                 attack=attack.recipe, eps=float(eps), bisections=model.bisections,
                 keep_examples=model.keep_examples, key=digest_tree(key))  # fmt: skip
    saved = store.load()
    if saved is None:
        success, distance, finite = ~right, np.where(right, np.inf, 0.0), np.ones(len(right), bool)
        saved = {"nearest": np.array(images, wide_dtype(images.dtype))} if model.keep_examples else {}
        ids = np.flatnonzero(right)
        if ids.size:
            run = partial(_program(attack, model.bisections, model.keep_examples, apply_fn), key, params, eps)
            inputs = [images[ids], labels[ids], ids.astype(np.uint32)]
            found = over_batches(run, inputs, options.batch_size, options.mesh)
            success[ids], distance[ids], finite[ids], examples = found
            if model.keep_examples:
                saved["nearest"][ids] = examples
        # the attack and the search must agree on success; a distance may round to slightly above eps
        distance = np.where(success, np.minimum(distance, eps), distance)
        saved |= {"success": success | (distance <= eps), "smallest_eps": distance, "finite": finite}
        store.save(**saved)
    warn_of_gradients(attack.recipe, saved.pop("finite", np.ones(len(images), bool)))
    return Sensitivity(float(eps), attack=attack.recipe, **saved)


@cached
def _program(attack: Attack, bisections: int, keep_examples: bool, apply_fn: ApplyFn) -> Callable[..., Any]:
    """The compiled attack at one radius and by bisection, for all parameters, keys and radii."""
    search = smallest(attack, steps=bisections)

    def run(key, params, eps, x, y, ids):
        logits_fn = partial(apply_fn, params)
        fixed = attack(key, logits_fn, x, y, eps=eps, ids=ids)
        near = search(key, logits_fn, x, y, eps=2 * eps, ids=ids)
        nearer = _distances(fixed) < _distances(near)
        best = where(nearer, fixed._replace(trace=None), near._replace(trace=None))
        smooth = sound(fixed) & sound(near)
        return fixed.success, _distances(best), smooth, (best.x if keep_examples else ())

    return on_device(jax.jit(run))


def _distances(result: AttackResult) -> PerExample:
    """The distance of each success, infinity for each failure."""
    return jnp.where(result.success, result.distance, jnp.inf)
