r"""Adversarial examples with their target as the label, which is wrong to people and correct to the attacked model.

    x' = argmin over |x' - x| <= eps   L(f(x'), t)      stored with the label t

The change from x to x' is related to t either by a non-robust feature of the data that f uses, or by a peculiarity of f
alone (a bug). `non_transferable` searches for the second kind.

Source: Ilyas et al. 2019, section 3.2 and figure 6 (D_rand, D_det; l2, 100 steps of 0.1, eps 0.5 on CIFAR-10).
"""

from typing import Any

import jax.numpy as jnp

from invjax import _check, _logits
from invjax.attacks import Attack, AttackResult
from invjax.attacks.building import check_attack, check_images, succeeds
from invjax.types import Array, Key, Labels, LogitsFn, Scalar


def relabel_by_attack(
    key: Key,
    attack: Attack,
    logits_fn: LogitsFn,
    x: Array,
    targets: Labels,
    *,
    eps: Scalar,
    step_size: Scalar | None = None,
    ids: Any = None,
) -> AttackResult:
    """Attack one batch towards `targets`, to relabel each image with its target; the caller compiles the attack.

    Args:
        key: random key of the attack.
        attack: a targeted attack, such as
            `attacks.pgd(attacks.l2(), steps=100, targeted=True, random_start=False)`.
        logits_fn: `x [B, ...] -> logits [B, K]`.
        x: images `[B, ...]`.
        targets: `[B]`, from `random_targets` or `next_targets`.
        eps: radius, in the attack's norm.
        step_size: step size of the attack; None is the attack's default.
        ids: `[B]`, the position of each example in the data set.

    Returns:
        An `AttackResult`, whose `success` says whether the model predicts the target. All images belong to the data
        set, including those that the model does not assign to their target.

    Raises:
        ValueError: there are no images, the targets are not classes of the model or not one for each image, the attack
            is untargeted, or the attack refuses its input.
    """
    _check.key(key)
    check_targeted(attack)
    check_images(attack, x, ids=ids)
    _check.labels(targets, _logits.num_classes(logits_fn, x, targets, "targets"), "targets")
    targets = jnp.asarray(targets)
    found = attack(key, logits_fn, x, targets, eps=eps, step_size=step_size, ids=ids)
    return found._replace(success=succeeds(attack, logits_fn, jnp.asarray(found.x), targets))


def check_targeted(attack: Attack) -> None:
    """Check that an attack moves images towards its labels.

    Raises:
        ValueError: the attack is untargeted, or not an `Attack`.
    """
    check_attack(attack)
    if not attack.targeted:
        raise ValueError(
            f"attack must be targeted; got {attack.recipe}, which maximises the loss of its labels; "
            "make it with targeted=True"
        )
