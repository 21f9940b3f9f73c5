"""Measurements of a certified network: certificates and attacks on the same images, and agreement with people.

If an attack or an image of the paper contradicts a certificate, this library has a bug, and the run ends.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments import common
from experiments.invariance_tradeoffs.pretrained import Pretrained
from invjax.attacks import linf, pgd
from invjax.data import HumanLabelled
from invjax.evaluation import Curve, Options, certificate_curve, over_batches, robustness_curve
from invjax.training import data_mesh
from invjax.types import ApplyFn, Params

RELEASED = ("ibp", "crown-ibp", "crown")
"""The methods that certify released networks."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the certificates and of the attacks."""

    epsilons: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)  # Radii in the table.
    between: tuple[float, ...] = (0.05, 0.15, 0.25, 0.35, 0.41, 0.42, 0.43, 0.44, 0.45)
    """Further radii in the figure; dense above 0.4: certificates end just above the radius of training, and the curve
    falls between 0.40 and 0.45."""
    method: Literal["ibp", "crown-ibp", "crown"] = "crown-ibp"  # Method of the certificates.
    attack_steps: int = 20  # Number of steps of PGD.
    images: int = 200  # Number of test images for AutoAttack; the first ones are used.
    ensemble_steps: int = 40  # Number of steps of each gradient attack in AutoAttack (its authors use 100).
    queries: int = 500  # Number of queries of the random search in AutoAttack (its authors use 5000).
    released_images: int = 100
    """Number of test images on which CROWN certifies released networks at 0.1; the first ones are used."""


def check_sandwich(certified: Curve, attacked: Curve) -> None:
    """Check that no attack breaks a certified image; `attacked` may have fewer images, the first ones."""
    for eps in np.intersect1d(certified.epsilons, attacked.epsilons):
        both = (certified.broken_at[: len(attacked.broken_at)] > eps) & (attacked.broken_at <= eps)
        if both.any():
            raise RuntimeError(
                f"images {np.flatnonzero(both)[:10].tolist()} are certified at eps {eps:g} and were misclassified "
                "there: a bound or an attack is wrong"
            )


def by_ensemble(settings: Settings, apply_fn: ApplyFn, params: Params, data: common.Arrays, seed: int) -> Curve:
    """The smallest radius, of those of the table and 0, at which AutoAttack breaks each image.

    Each radius attacks the images that are still correct.
    """
    images, labels = data
    broken_at, radii = np.full(len(labels), np.inf), np.sort(np.array([0.0, *settings.epsilons]))
    for eps in radii:
        ids = np.flatnonzero(np.isinf(broken_at))
        if ids.size:
            found = common.ensemble(
                apply_fn, params, (images[ids], labels[ids]), norm="linf", eps=float(eps), seed=seed,
                steps=settings.ensemble_steps, queries=settings.queries,
            )  # fmt: skip
            broken_at[ids[found.broken]] = eps
    return Curve(radii, broken_at)


def reach(of_set: HumanLabelled) -> float:
    """The largest distance of an image of a set from its original; rounding to bytes can exceed the radius."""
    return float(np.abs(of_set.images - of_set.originals).max()) + 1e-6


def beside_people(apply_fn: ApplyFn, params: Params, of_set: HumanLabelled, method: str) -> tuple[dict, dict]:
    """A network beside people: counts on the images of a set, and the images on which it is certified and wrong.

    A count has the number of hits and of images: the label of the original, the label of people, and both the latter
    and a certificate that disagrees with people among the images in which people see another class.
    """
    options = Options(50, data_mesh())
    seen = over_batches(partial(jax.jit(apply_fn), params), [of_set.images], 50, options.mesh).argmax(1)
    proven = np.isinf(
        certificate_curve(
            apply_fn, params, of_set.originals, of_set.labels, epsilons=[reach(of_set)], method=method, options=options
        ).broken_at
    )
    if (proven & (seen != of_set.labels)).any():
        raise RuntimeError(
            f"images {np.flatnonzero(proven & (seen != of_set.labels)).tolist()} are classified otherwise than was "
            "certified: a bound is wrong"
        )
    changed, wrong = of_set.changed, np.flatnonzero(proven & of_set.changed)
    numbers = {
        "originals": _count(seen == of_set.labels),
        "people": _count(seen == of_set.human),
        "people, changed": _count(seen[changed] == of_set.human[changed]),
        "certified": _count(proven[changed]),
        "reach": reach(of_set),
    }
    shown = {"original": of_set.originals, "image": of_set.images, "label": of_set.labels, "human": of_set.human}
    return numbers, {name: values[wrong] for name, values in shown.items()}


def _count(hits: np.ndarray) -> tuple[int, int]:
    return int(hits.sum()), hits.size


def by_radius(curve: Curve, count: int | None = None) -> dict[str, float]:
    """The fraction of the first `count` images that are certified or withstand an attack, by radius."""
    return {f"{eps:g}": float((curve.broken_at[:count] > eps).mean()) for eps in curve.epsilons}


def curves(
    settings: Settings, apply_fn: ApplyFn, params: Params, data: common.Arrays, seed: int, folder: Path
) -> dict[str, Curve]:
    """The radii at which images lose their certificate, and fall to PGD (kept in `folder`) and to AutoAttack."""
    radii, few = np.unique([0.0, *settings.epsilons, *settings.between]), settings.images
    options, attack = Options(min(250, len(data[1])), data_mesh()), pgd(linf(), steps=settings.attack_steps)
    certify = partial(certificate_curve, apply_fn, params, *data, method=settings.method)
    fall = partial(robustness_curve, jax.random.key(seed), attack, apply_fn, params, *data)
    found = {
        "certified": certify(epsilons=radii, options=options),
        "pgd": fall(epsilons=radii, options=options._replace(directory=folder)),
        "ensemble": by_ensemble(settings, apply_fn, params, (data[0][:few], data[1][:few]), seed),
    }
    check_sandwich(found["certified"], found["pgd"])
    check_sandwich(found["certified"], found["ensemble"])
    return found


def of_released(settings: Settings, net: Pretrained, data: common.Arrays) -> tuple[dict, dict]:
    """The fractions of the first images that each of three methods certifies at 0.1, and that withstand PGD there."""
    model = net.apply, net.params, *(array[: settings.released_images] for array in data)
    options: dict[str, Any] = {"epsilons": [0.1], "options": Options(50, data_mesh())}
    found = {method: certificate_curve(*model, method=method, **options) for method in RELEASED}
    attacked = robustness_curve(jax.random.key(0), pgd(linf(), steps=settings.attack_steps), *model, **options)
    for curve in found.values():
        check_sandwich(curve, attacked)
    return {name: float(curve.accuracy()[0]) for name, curve in (found | {"pgd": attacked}).items()}, {}
