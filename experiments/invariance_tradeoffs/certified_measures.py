"""Measurements of a certified network: certificates and attacks on the same images, and agreement with people.

If an attack or an image of the paper contradicts a certificate, this library has a bug, and the run ends.
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
    """Check that no attack breaks a certified image; `attacked` may have fewer images, the first ones.

    Raises:
        RuntimeError: an attack breaks a certified image, so the bounds or the attack are wrong.
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
    """The largest distance of an image of a set from its original; rounding to bytes can exceed the radius."""
    return float(np.abs(of_set.images - of_set.originals).max()) + 1e-6


def beside_people(
    apply_fn: ApplyFn, params: Params, human: dict[str, HumanLabelled], method: str
) -> dict[str, np.ndarray]:
    """Predictions of a network on the images of each set, and which originals are certified at their distance.

    Raises:
        RuntimeError: a prediction contradicts a certificate.
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
    """For each run, the images of a set with the label of the original, with that of people, or certified to be wrong.

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
    """For each run, the fraction of the first `count` images that are certified or withstand an attack at a radius."""
    return [float((of_run[name][:count] > eps).mean()) for of_run in runs]
