r"""Adversarial examples that do not transfer: they fool the attacked model, but not other models of the same data.

    x' <- project(x' - step_size * u),   u the ascent direction of  L(f(x'), t) + mean over i of L(f_i(x'), y)

Source: Nakkiran 2019, *A Discussion of ...: Adversarial Examples Are Just Bugs, Too*.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from invjax import _check, _logits
from invjax._conv import fast_convs
from invjax.attacks import Attack, Threat, l2
from invjax.attacks.building import check_threat, climb, finish, fooled, prepare, recipe
from invjax.losses import cross_entropy
from invjax.types import Labels


def non_transferable(
    ensemble_fn: Callable[[jax.Array], jax.Array],
    labels: Labels,
    threat: Threat | None = None,
    *,
    steps: int = 100,
) -> Attack:
    """A targeted attack that fools one model but not an ensemble of other models.

    Args:
        ensemble_fn: the other models, trained like the attacked one: `x [B, ...] -> logits [models, B, K]`.
        labels: `[B]`, the true labels y, which the other models should still predict.
        threat: norm and box of the attack; the default is `l2()`.
        steps: number of gradient steps, which start at the image.

    Returns:
        An `Attack` whose `labels` are the targets t. The attack keeps the image of least loss among those that
        only the attacked model assigns to the target. If there is none, it keeps the image of least loss among all.
        `success` says whether the attacked model predicts the target; it does not depend on the other models.

    Raises:
        ValueError: when called, if the logits have another shape, the labels are not classes, or the numbers of labels
            and targets differ.
    """
    _check.function("ensemble_fn", ensemble_fn, "x -> logits [models, B, K]")
    _check.count(steps=steps)
    threat = check_threat(l2() if threat is None else threat)

    def attack(key, logits_fn, x, targets, *, eps, step_size=None, ids=None):
        logits_fn, x, eps = prepare(logits_fn, x, targets, eps, threat.box)
        if labels.shape != targets.shape:
            raise ValueError(
                f"the attack was made for {len(labels)} labels and got {len(targets)} images; make it for this batch, "
                "and give one radius for all images"
            )
        num_classes = _logits.num_classes(logits_fn, x, labels)
        _check.labels(labels, num_classes)
        shape = jax.eval_shape(ensemble_fn, x).shape
        if len(shape) != 3 or not shape[0] or shape[1:] != (len(x), num_classes):
            raise ValueError(f"ensemble_fn must give logits [models, {len(x)}, {num_classes}]; got {shape}")
        others_fn = fast_convs(ensemble_fn)

        def reached(logits):
            return fooled(logits, targets, targeted=True)

        def objective(z):
            logits, others = logits_fn(z), others_fn(z)
            others_loss = jax.vmap(cross_entropy, (0, None))(others, labels).mean(0)
            alone = reached(logits) & ~jax.vmap(reached)(others).any(0)
            return -cross_entropy(logits, targets) - others_loss, alone

        first = 2.5 * eps / steps if step_size is None else step_size
        _check.number("step_size", first)
        sizes = jnp.full(steps, first, x.dtype)
        found, value, trace, finite = climb(objective, threat, x, x, eps, sizes)
        return finish(logits_fn, threat.distance, found, x, targets, value, trace, finite, targeted=True)

    return Attack(attack, threat, True, recipe("non_transferable", threat, steps=steps))
