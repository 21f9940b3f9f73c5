"""What is measured of a certified network: certificates and attacks on the same images, its answers beside people's.

A certificate that an attack, or an image of the paper, breaks is a bug of this library and ends the run.
"""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from invjax import evaluation
from invjax.attacks import autoattack_stages, linf
from invjax.data import HumanLabelled
from invjax.evaluation import Benchmark, Options, benchmark, over_batches
from invjax.training import data_mesh
from invjax.types import ApplyFn, Params


def check_sandwich(certified: evaluation.Curve, attacked: evaluation.Curve) -> None:
    """No image that is certified at a radius may fall at it; `attacked` may be of fewer images, the first ones.

    Raises:
        RuntimeError: one does: the bounds, or the attack, are wrong.
    """
    for eps in np.intersect1d(certified.epsilons, attacked.epsilons):
        both = (certified.broken_at[: len(attacked.broken_at)] > eps) & (attacked.broken_at <= eps)
        if both.any():
            raise RuntimeError(
                f"images {np.flatnonzero(both)[:10].tolist()} are certified at eps {eps:g} and were misclassified "
                "there: a bound or an attack is wrong"
            )


@functools.cache
def strongest(apply_fn: ApplyFn, steps: int, queries: int) -> Callable[..., Benchmark]:
    """AutoAttack in linf, compiled once a network: `(key, params, images, labels, *, eps) -> Benchmark`."""
    stages = autoattack_stages(linf(), num_classes=10, steps=steps, queries=queries)

    def attack(key, params, images, labels, *, eps):
        return benchmark(key, apply_fn, params, images, labels, threat=linf(), eps=eps, stages=stages,
                         options=Options(256, data_mesh()))  # fmt: skip

    return attack


def by_ensemble(
    attack: Any, params: Params, seed: int, images: np.ndarray, labels: np.ndarray, epsilons: Sequence[float]
) -> evaluation.Curve:
    """The smallest radius, of these and 0, at which AutoAttack breaks each image.

    Each radius attacks the images that are still correct.
    """
    broken_at, radii = np.full(len(labels), np.inf), np.sort(np.array([0.0, *epsilons]))
    for eps in radii:
        ids = np.flatnonzero(np.isinf(broken_at))
        if ids.size:
            found = attack(jax.random.key(seed), params, images[ids], labels[ids], eps=float(eps))
            broken_at[ids[found.broken]] = eps
    return evaluation.Curve(radii, broken_at)


def reach(of_set: HumanLabelled) -> float:
    """How far the images of a set are from their originals, at most: they are bytes, and go beyond their radius."""
    return float(np.abs(of_set.images - of_set.originals).max()) + 1e-6


def beside_people(
    apply_fn: ApplyFn, params: Params, human: dict[str, HumanLabelled], method: str
) -> dict[str, np.ndarray]:
    """What a network says of the images of each set, and which originals are certified as far as these images reach.

    Raises:
        RuntimeError: it says something else than was certified.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, of_set in human.items():
        seen = over_batches(partial(jax.jit(apply_fn), params), [of_set.images], 50, data_mesh()).argmax(1)
        curve = evaluation.certificate_curve(
            apply_fn, params, of_set.originals, of_set.labels, epsilons=[reach(of_set)], method=method,
            options=Options(50, data_mesh()),
        )  # fmt: skip
        proven = np.isinf(curve.broken_at)
        if (proven & (seen != of_set.labels)).any():
            raise RuntimeError(
                f"images {np.flatnonzero(proven & (seen != of_set.labels)).tolist()} of {name!r} are classified "
                "otherwise than was certified: a bound is wrong"
            )
        arrays |= {f"seen {name}": seen.astype(np.int32), f"certified {name}": proven}
    return arrays


def counts(runs: list[dict[str, np.ndarray]], of_set: HumanLabelled, name: str) -> dict[str, list[int]]:
    """Of each run, how many images of a set are classified as the original is, as people do, or certified to be wrong.

    "people, changed" and "certified" are among the images in which people see another class.
    """
    seen = [of_run[f"seen {name}"] for of_run in runs]
    return {
        "originals": [int((s == of_set.labels).sum()) for s in seen],
        "people": [int((s == of_set.human).sum()) for s in seen],
        "people, changed": [int(((s == of_set.human) & of_set.changed).sum()) for s in seen],
        "certified": [int((of_run[f"certified {name}"] & of_set.changed).sum()) for of_run in runs],
    }


def standing(runs: list[dict[str, np.ndarray]], name: str, eps: float, count: int | None = None) -> list[float]:
    """Of each run, the share of the first `count` images that are certified, or withstand an attack, at a radius."""
    return [float((of_run[name][:count] > eps).mean()) for of_run in runs]
