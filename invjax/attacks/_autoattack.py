"""AutoAttack: four attacks in turn, without a parameter to tune, so that robust accuracies are comparable.

    Auto-PGD on cross-entropy, Auto-PGD and FAB towards each wrong class, Square.

`autoattack` is a single `Attack`. `autoattack_stages` returns its parts, which `evaluation.benchmark` runs on a
whole data set: a stage attacks only the images that the stages before it did not break.

Source: Croce & Hein 2020, *Reliable Evaluation of Adversarial Robustness* ("standard" and "rand" versions of their
code), and 2021, *Mind the Box*, for l1.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from invjax import _check, _logits
from invjax.attacks._apgd import apgd, apgd_toward
from invjax.attacks._attack import Attack, AttackResult, recipe
from invjax.attacks._combine import worst_of
from invjax.attacks._fab import fab_toward
from invjax.attacks._square import square
from invjax.attacks._threats import Threat, check_supported, check_threat
from invjax.attacks.building import best_of
from invjax.losses import dlr


class Stage(NamedTuple):
    """One part of AutoAttack: an attack for each rank, compiled once for all ranks.

    Attributes:
        name: name of the stage: "apgd-ce", "apgd-t", "fab-t" or "square" in the standard version.
        make: `rank -> Attack`, where the rank is a traced integer. The rank counts restarts, or wrong classes from the
            most likely one on.
        ranks: number of ranks.
        num_classes: number of classes of the model; None allows any number.
    """

    name: str
    make: Callable[[Any], Attack]
    ranks: int
    num_classes: int | None = None


VERSIONS = ("standard", "rand")
"""The versions of AutoAttack."""


def autoattack_stages(
    threat: Threat, *, num_classes: int, steps: int = 100, queries: int = 5000, version: str = "standard"
) -> tuple[Stage, ...]:
    """The attacks of one version of AutoAttack, in order.

    The version "rand" is for models that draw random numbers (`random_model`, with 20 draws by default). It has
    Auto-PGD on cross-entropy and on the difference of logits ratio; the latter needs three classes.

    Args:
        threat: a norm with `to_hyperplane`, such as `linf()`, `l2()` or `l1()`.
        num_classes: number of classes of the model. The targeted attacks go towards at most nine wrong classes
            (Auto-PGD in l1: at most five).
        steps: number of gradient steps of each run of Auto-PGD and FAB.
        queries: number of squares that Square tries.
        version: "standard" or "rand".

    Raises:
        ValueError: one of the attacks does not support the threat, there are fewer than two classes, or the version is
            unknown.
    """
    _check.one_of("version", version, VERSIONS)
    check_supported("AutoAttack", check_threat(threat), "order", *(["to_hyperplane"] if version == "standard" else []))
    _check.count(num_classes=num_classes, steps=steps, queries=queries)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2; got num_classes={num_classes}; give the number of logits")
    if version == "rand":
        cross_entropy = Stage("apgd-ce", lambda rank: apgd(threat, steps=steps), 1)
        ratio = Stage("apgd-dlr", lambda rank: apgd(threat, steps=steps, loss=dlr), 1)
        stages = [cross_entropy, ratio] if num_classes > 2 else [cross_entropy]
        return tuple(stage._replace(num_classes=num_classes) for stage in stages)
    targets = min(9, num_classes - 1)
    stages = [Stage("apgd-ce", lambda rank: apgd(threat, steps=steps), 5 if threat.sparse else 1)]
    if num_classes > 3:  # the targeted DLR loss needs four logits
        apgd_targets = min(5, targets) if threat.sparse else targets
        stages.append(Stage("apgd-t", lambda rank: apgd_toward(rank, threat, steps=steps), apgd_targets))
    stages.append(Stage("fab-t", lambda rank: fab_toward(rank, threat, steps=steps), targets))
    stages.append(Stage("square", lambda rank: square(threat, queries=queries, rescale=False), 1))
    return tuple(stage._replace(num_classes=num_classes) for stage in stages)


def autoattack(
    threat: Threat, *, num_classes: int, steps: int = 100, queries: int = 5000, version: str = "standard"
) -> Attack:
    """AutoAttack as one attack: for each image the first success of its parts, which are four in the standard version.

    Every part attacks every image, because a compiled function has fixed shapes. On a whole data set
    `evaluation.benchmark` breaks the same images several times faster, because each stage skips the broken images.

    >>> import jax.numpy as jnp
    >>> from invjax import attacks
    >>> logits_fn = lambda x: jnp.stack([1 - x.sum((1, 2, 3)), x.sum((1, 2, 3))], -1)
    >>> attack = autoattack(attacks.linf(), num_classes=2, steps=2, queries=2)
    >>> x, labels = jnp.full((1, 4, 4, 1), 0.02), jnp.array([0])
    >>> bool(attack(jax.random.key(0), logits_fn, x, labels, eps=0.03).success[0])
    True

    Args:
        threat: a norm with `to_hyperplane`, such as `linf()`, `l2()` or `l1()`.
        num_classes: number of classes of the model.
        steps: number of gradient steps of each run of Auto-PGD and FAB.
        queries: number of squares that Square tries.
        version: "standard", or "rand" for models that draw random numbers.

    Raises:
        ValueError: one of the attacks does not support the threat, there are fewer than two classes, or the version is
            unknown. When the attack runs: the model has another number of classes.
    """
    stages = autoattack_stages(threat, num_classes=num_classes, steps=steps, queries=queries, version=version)
    settings: dict[str, Any] = {"num_classes": num_classes, "steps": steps, "queries": queries}
    if version != "standard":
        settings["version"] = version
    said = recipe("autoattack", threat, **settings)
    parts = worst_of([_first_success(stage) for stage in stages])

    def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        classes = _logits.num_classes(logits_fn, x, labels)
        if classes != num_classes:
            raise ValueError(
                f"num_classes={num_classes}, but the model has {classes} logits; give num_classes={classes}"
            )
        return parts.run(key, logits_fn, x, labels, eps=eps, step_size=step_size, ids=ids)

    return replace(parts, run=attack, recipe=said)


def _first_success(stage: Stage) -> Attack:
    """All ranks of a stage as one attack; for each example the first success, or else the result of the first rank."""

    def run_ranks(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        def run(rank) -> AttackResult:
            return stage.make(rank)(jax.random.fold_in(key, rank), logits_fn, x, labels, eps=eps, ids=ids)

        return best_of(run, stage.ranks, lambda new, best: new.success & ~best.success)

    return replace(stage.make(0), run=run_ranks)
