"""The standard ensemble: four attacks in turn, each on the images that are still classified right.

    Auto-PGD on cross-entropy, Auto-PGD and FAB towards each wrong class, Square.

It needs no tuning, which makes numbers comparable. Images that fall to one attack are not given to the next.

Source: Croce & Hein 2020, *Reliable Evaluation of Adversarial Robustness* ("standard" version of their code), and 2021,
*Mind the Box*, for l1.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invjax import _check
from invjax._progress import progress
from invjax.attacks.apgd import apgd, apgd_toward
from invjax.attacks.base import Attack, check_images
from invjax.attacks.fab import fab_toward
from invjax.attacks.square import square
from invjax.attacks.threats import Threat
from invjax.streaming import correct, over_batches, shrinking
from invjax.types import ApplyFn, Key, Params


class Stage(NamedTuple):
    """One part of an ensemble: the attacks `make(rank)` for each rank, compiled once."""

    name: str
    make: Callable[[Any], Attack]
    ranks: int


class EnsembleResult(NamedTuple):
    """What an ensemble found, as host arrays.

    Attributes:
        x: `[N, ...]`, adversarial where `success`, else the image itself.
        success: `[N]`.
        distance: `[N]`, of x; 0 where no attack succeeded or none was needed.
        stage: `[N]`, the index in `stages` of the attack that succeeded; -1 for images misclassified as they are, the
            number of stages where none did.
        stages: their names.
    """

    x: np.ndarray
    success: np.ndarray
    distance: np.ndarray
    stage: np.ndarray
    stages: tuple[str, ...]


def standard(threat: Threat, *, classes: int, steps: int = 100, queries: int = 5000) -> tuple[Stage, ...]:
    """The stages of the standard ensemble.

    Args:
        threat: `linf()`, `l2()` or `l1()`.
        classes: of the model; towards at most nine wrong classes (l1: five for Auto-PGD) each.
        steps: of Auto-PGD and FAB.
        queries: of Square.
    """
    _check.one_of("the threat of the standard ensemble", threat.name, ("linf", "l2", "l1"))
    targets = min(9, classes - 1)
    stages = [Stage("apgd-ce", lambda rank: apgd(threat, steps=steps), 5 if threat.name == "l1" else 1)]
    if classes > 3:  # the targeted ratio needs four logits
        apgd_targets = min(5, targets) if threat.name == "l1" else targets
        stages.append(Stage("apgd-t", lambda rank: apgd_toward(rank, threat, steps=steps), apgd_targets))
    stages.append(Stage("fab-t", lambda rank: fab_toward(rank, threat, steps=steps), targets))
    stages.append(Stage("square", lambda rank: square(threat, queries=queries, rescale=False), 1))
    return tuple(stages)


def ensemble(
    stages: tuple[Stage, ...], apply_fn: ApplyFn, *, batch_size: int = 256, mesh: Mesh | None = None
) -> Callable[..., EnsembleResult]:
    """Run the stages on whole arrays, each on what is left.

    Args:
        stages: from `standard`, or one's own.
        apply_fn: `(params, x) -> logits`.
        batch_size: the largest; what is left is run in batches of this size and at last of a smaller power of two, so
            that each stage compiles a few times at most.
        mesh: spread each batch over these devices.

    Returns:
        `(params, key, images [N, ...], labels [N], *, eps) -> EnsembleResult`. Image i draws from its position's key,
        whatever batch it is in.
    """
    _check.positive(batch_size=batch_size)
    if not stages:
        raise ValueError("ensemble needs at least one stage; got none; attacks.standard(threat, classes=K) makes them")

    def compiled(stage):
        def run(params, key, x, labels, ids, rank, eps):
            attack = stage.make(rank)
            result = attack(jax.random.fold_in(key, rank), partial(apply_fn, params), x, labels, eps=eps, ids=ids)
            return result.x, result.success, result.distance

        return jax.jit(run)

    programs = [compiled(stage) for stage in stages]

    def attack(params: Params, key: Key, images: np.ndarray, labels: np.ndarray, *, eps: float) -> EnsembleResult:
        _check.number("eps", eps)
        check_images(stages[0].make(0), images, "images")
        images, labels = np.asarray(images), np.asarray(labels)
        x, distance = np.array(images), np.zeros(len(images), np.float32)
        stage_of = np.where(correct(apply_fn, params, images, labels, batch_size, mesh), len(stages), -1)
        bar = progress(0, sum(stage.ranks for stage in stages), "standard ensemble")
        for number, rank in _parts(stages):
            key_of_stage = jax.random.fold_in(key, number)
            left = np.flatnonzero(stage_of == len(stages))
            for ids, size in shrinking(left, batch_size, 1 if mesh is None else mesh.size):
                run = partial(programs[number], params, key_of_stage)
                found, success, length = over_batches(
                    lambda a, b, c, run=run, rank=rank: run(a, b, c, jnp.int32(rank), jnp.asarray(eps, images.dtype)),
                    [images[ids], labels[ids], ids.astype(np.uint32)],
                    size,
                    mesh,
                )
                hit = ids[success]
                x[hit], distance[hit], stage_of[hit] = found[success], length[success], number
            bar.update()
            bar.set_postfix(left=int((stage_of == len(stages)).sum()))
        bar.close()
        return EnsembleResult(x, stage_of < len(stages), distance, stage_of, tuple(stage.name for stage in stages))

    return attack


def _parts(stages: tuple[Stage, ...]) -> Iterator[tuple[int, int]]:
    for number, stage in enumerate(stages):
        for rank in range(stage.ranks):
            yield number, rank
