r"""Auto-PGD: projected ascent that adapts its step size.

The loop is in `_apgd_search` (linf and l2, with momentum) and `_apgd_sparse` (l1). The default loss has the gradient
direction of cross-entropy and does not saturate.

Sources: Croce & Hein 2020, *Reliable Evaluation of Adversarial Robustness*, algorithm 1; Croce & Hein 2021, *Mind the
Box*, algorithm 1.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from invjax import _check
from invjax.attacks._apgd_search import ascend, expand
from invjax.attacks._apgd_sparse import ascend_radii
from invjax.attacks._attack import Attack, recipe
from invjax.attacks._gradient import Loss, loss_values
from invjax.attacks._ranks import over_ranks, wrong_class
from invjax.attacks._threats import Threat, check_supported, check_threat, linf
from invjax.attacks.building import by_image, example_keys, finish, fooled, judged, prepare
from invjax.losses import log_odds, targeted_dlr


def _auto_pgd(said: str, threat: Threat, steps: int, objective_for: Callable, targeted: bool = False) -> Attack:
    """The attack that climbs `objective_for(logits_fn, x, labels)`, a function of the point and of the step."""
    _check.count(steps=steps)
    check_supported("apgd", threat, "order")

    def attack(threat, key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        del step_size  # the attack adapts its own step size
        logits_fn, x, eps = prepare(logits_fn, x, labels, eps, threat.box)
        objective = objective_for(logits_fn, x, labels)
        keys, sample = example_keys(key, ids, len(x)), jax.vmap(threat.sample, (0, 0, None))
        if threat.sparse:
            run = ascend_radii(objective, threat, sample(keys, x, 3 * eps), x, eps, steps)
        else:
            run = ascend(objective, threat, _outermost(threat, sample(keys, x, eps), x, eps), x, eps, steps)
        found, value, _ = run.found
        return finish(logits_fn, threat.distance, found, x, labels, value, run.trace, run.finite, targeted=targeted)

    return Attack(by_image(threat, attack), threat, targeted, said)


def _outermost(threat, z, x, eps):
    """The point of the ball's surface in the direction of z, as far as the box allows."""
    distance = expand(jax.vmap(threat.distance)(z, x), x)
    return jax.vmap(threat.project, (0, 0, None))(x + (z - x) * eps / jnp.where(distance > 0, distance, 1), x, eps)


def apgd(threat: Threat | None = None, *, steps: int = 100, loss: Loss = log_odds, targeted: bool = False) -> Attack:
    """Auto-PGD on any loss of the logits.

    >>> from invjax import attacks
    >>> logits_fn = lambda x: jnp.stack([1 - x.sum(-1), x.sum(-1)], -1)
    >>> x, labels = jnp.array([[0.2, 0.1]]), jnp.array([0])
    >>> bool(attacks.apgd(steps=3)(jax.random.key(0), logits_fn, x, labels, eps=0.125).success[0])
    True

    Args:
        threat: a norm, such as `linf()` (the default), `l2()` or `l1()`.
        steps: number of gradient steps.
        loss: the loss to maximise: `losses.log_odds` is the "CE" form of AutoAttack, `losses.dlr` its "DLR" form.
        targeted: whether `labels` are classes to reach, so that the attack descends the loss.

    Returns:
        An `Attack` that ignores `step_size`.

    Raises:
        ValueError: the threat is not a norm, or `steps` is below 1.
    """

    def objective_for(logits_fn, x, labels):
        def rule(logits):
            return (-1 if targeted else 1) * loss_values(loss, logits, labels), fooled(logits, labels, targeted)

        return partial(judged, rule, logits_fn)

    _check.function("loss", loss, "(logits, labels) -> [B]")
    threat = check_threat(linf() if threat is None else threat)
    settings: dict[str, Any] = {"steps": steps, "loss": loss} | ({"targeted": True} if targeted else {})
    return _auto_pgd(recipe("apgd", threat, **settings), threat, steps, objective_for, targeted)


def apgd_toward(rank: Any, threat: Threat | None = None, *, steps: int = 100) -> Attack:
    """Auto-PGD towards one class, the `rank`-th most likely of the wrong ones, by the targeted DLR loss.

    The labels are the true classes, and any wrong prediction is a success, so the record is untargeted.

    Args:
        rank: the rank of the class among the wrong ones, 0 for the most likely one; may be a traced integer.
        threat: a norm, such as `linf()` (the default), `l2()` or `l1()`.
        steps: number of gradient steps.

    Raises:
        ValueError: the threat is not a norm, or `steps` is below 1.
    """

    def objective_for(logits_fn, x, labels):
        targets = wrong_class(logits_fn(x), labels, rank)

        def rule(logits):
            return targeted_dlr(logits, labels, targets), fooled(logits, labels)

        return partial(judged, rule, logits_fn)

    threat = check_threat(linf() if threat is None else threat)
    return _auto_pgd(recipe("apgd_toward", threat, rank=rank, steps=steps), threat, steps, objective_for)


def apgd_targeted(threat: Threat | None = None, *, steps: int = 100, targets: int = 9) -> Attack:
    """Auto-PGD towards each of the `targets` most likely wrong classes in turn.

    The labels are the true classes, and any wrong prediction is a success, so the record is untargeted. An attack
    towards given classes is `apgd(targeted=True)`.

    Args:
        threat: a norm, such as `linf()` (the default), `l2()` or `l1()`.
        steps: number of gradient steps for each class.
        targets: number of wrong classes, less than the number of classes.

    Raises:
        ValueError: the threat is not a norm, or `steps` or `targets` is below 1.
    """
    return over_ranks(lambda rank: apgd_toward(rank, threat, steps=steps), targets, "apgd_targeted", steps=steps)
