r"""How robust a model is on a data set: the whole curve against eps, and one report.

    adversarial error = share of images that the model gets right as they are and wrong under the attack

(Cubuk et al. 2018). Balls are nested, so an image that has fallen at one radius has fallen at every larger one: the
curve goes up in eps, attacks only what still stands, and never rises.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invjax import _check
from invjax._progress import progress
from invjax.attacks import Attack, Threat, pgd, smallest
from invjax.attacks.base import check_images, where
from invjax.attacks.minimal import distances
from invjax.data import HumanLabelled
from invjax.streaming import correct, over_batches
from invjax.types import ApplyFn, Key, Params


def wilson(successes: float | int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share: where the true one lies with 95 % confidence (`z = 1.96`).

    >>> low, high = wilson(0, 10)
    >>> low, round(high, 3)
    (0.0, 0.278)

    Args:
        successes: how many of `total`.
        total: at least 1.
        z: quantile of the standard normal distribution.
    """
    _check.positive(total=total)
    share = successes / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # the interval holds the share itself, also after rounding
    return min(share, max(0.0, float(centre - half))), max(share, min(1.0, float(centre + half)))


class Curve(NamedTuple):
    """Robust accuracy against the radius, one number an image.

    Attributes:
        epsilons: `[E]`, ascending.
        broken_at: `[N]`, the smallest of them at which the image is misclassified; 0 for images that are misclassified
            as they are, infinity for those that withstand all.
    """

    epsilons: np.ndarray
    broken_at: np.ndarray

    def accuracy(self) -> np.ndarray:
        """Robust accuracy at each radius, `[E]`."""
        return (self.broken_at[None] > self.epsilons[:, None]).mean(1)


def _digest(directory: Any, *arrays: Any) -> str:
    """A hash of all values, where there is something to compare it with."""
    if directory is None:
        return ""
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(arrays))).hexdigest()


class _Kept:
    """Arrays in a `.npz` that is written whole or not at all, and refused if it was made from other inputs."""

    def __init__(self, path: Path | None, **identity: Any):
        self.path, self.identity = path, {name: np.asarray(value) for name, value in identity.items()}

    def load(self) -> dict[str, np.ndarray] | None:
        if self.path is None or not self.path.exists():
            return None
        with np.load(self.path) as file:
            arrays = dict(file)
        for name, value in self.identity.items():
            if not np.array_equal(arrays.pop(name, None), value, equal_nan=value.dtype.kind == "f"):
                raise ValueError(f"{self.path} belongs to another run: its {name} differs; give another directory")
        return arrays

    def save(self, **arrays: Any) -> None:
        if self.path is not None and jax.process_index() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_name(self.path.name + ".part")
            with part.open("wb") as file:
                contents: dict[str, Any] = {**arrays, **self.identity}
                np.savez(file, **contents)
            os.replace(part, self.path)


def robustness_curve(
    key: Key,
    attack: Attack,
    apply_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epsilons: Sequence[float | int] | np.ndarray,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    at_once: bool | None = None,
    directory: str | Path | None = None,
) -> Curve:
    """Robust accuracy at each of `epsilons`, from one compilation.

    Radii go up, and images that have fallen leave: the cost is about that of the mean robust accuracy over the radii
    (each radius ends with a padded batch). On accelerators all radii run at once instead (`at_once`), which is slower
    on CPU and expected, not measured, to be faster there.

    Args:
        key: random key; image i draws from `fold_in(key, i)` at every radius.
        attack: any untargeted attack with a radius.
        apply_fn: `(params, x) -> logits`.
        params: of the model.
        images: `[N, ...]`.
        labels: `[N]`.
        epsilons: the radii, in any order.
        batch_size: images attacked at once.
        mesh: spread each batch over these devices.
        at_once: map over the radii instead of dropping images; default: wherever the backend is not the CPU.
        directory: keep what is done in `curve.npz` there, and go on from it after an interruption. One for each attack:
            other parameters, data or radii are refused, another attack is not noticed.

    Raises:
        ValueError: negative radii, NaN images or logits, labels of another shape or out of range, a `directory` that
            holds another run.
    """
    grid = np.asarray(epsilons, np.float64)
    if grid.ndim != 1 or not grid.size or not (grid >= 0).all():
        raise ValueError(f"epsilons must be a list of numbers that are not negative; got {epsilons}")
    grid = np.sort(grid)
    labels = np.asarray(labels)
    at_once = jax.default_backend() != "cpu" if at_once is None else at_once
    check_images(attack, images, "images")
    standing = correct(apply_fn, params, images, labels, batch_size, mesh)
    kept = _Kept(None if directory is None else Path(directory) / "curve.npz", epsilons=grid, standing=standing,
                 key=np.asarray(jax.random.key_data(key)),
                 inputs=_digest(directory, params, images, labels))  # fmt: skip
    saved = kept.load()
    broken_at = np.where(standing, np.inf, 0.0) if saved is None else saved["broken_at"]
    done = 0 if saved is None else int(saved["done"])

    def fallen(params, eps, x, y, ids):
        return attack(key, partial(apply_fn, params), x, y, eps=eps, ids=ids).success

    def over(ids, function):
        return over_batches(function, [images[ids], labels[ids], ids.astype(np.uint32)], batch_size, mesh)

    radii = jnp.asarray(grid, images.dtype)
    if at_once:
        if done < grid.size:
            mapped = jax.jit(jax.vmap(fallen, (None, 0, None, None, None), 1))
            ids = np.flatnonzero(standing)
            if ids.size:
                hit = over(ids, partial(mapped, params, radii))
                broken_at[ids] = np.where(hit.any(1), grid[hit.argmax(1)], np.inf)
            kept.save(broken_at=broken_at, done=grid.size)
        return Curve(grid, broken_at)
    one = jax.jit(fallen)
    bar = progress(done, grid.size, "robustness curve")
    for i in range(done, grid.size):
        ids = np.flatnonzero(np.isinf(broken_at))
        if ids.size:
            broken_at[ids[over(ids, partial(one, params, radii[i]))]] = grid[i]
        kept.save(broken_at=broken_at, done=i + 1)
        bar.update()
        bar.set_postfix(standing=int(np.isinf(broken_at).sum()))
    bar.close()
    return Curve(grid, broken_at)


class Sensitivity(NamedTuple):
    """What a model's sensitivity to one threat is.

    Attributes:
        eps: the radius of the attack.
        success: `[N]`, misclassified under the attack, images that are misclassified as they are included.
        smallest_eps: `[N]`, of the nearest adversarial example found; 0 where misclassified as it is, infinity where
            none was found up to twice `eps`.
        nearest: `[N, ...]`, those examples, the images themselves where there is none; None unless asked for.
    """

    eps: float
    success: np.ndarray
    smallest_eps: np.ndarray
    nearest: np.ndarray | None = None


class Report(NamedTuple):
    """What is known about a model on one set of images, one number an image.

    Attributes:
        correct: `[N]`, whether the model is right on the image itself.
        sensitivity: by the threat's name.
        invariance: reserved for the model's agreement with human labels on the same images; None.
        certificate: reserved for certified radii of the same images; None.
    """

    correct: np.ndarray
    sensitivity: Mapping[str, Sensitivity]
    invariance: Any = None
    certificate: Any = None


def report(
    key: Key,
    apply_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    threats: Sequence[tuple[Threat, float | int]],
    attack_for: Callable[[Threat], Attack] = pgd,
    bisections: int = 8,
    keep_images: bool = False,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    directory: str | Path | None = None,
) -> Report:
    """Clean and adversarial errors, and the smallest radius at which each image falls.

    Args:
        key: random key; image i draws from `fold_in(key, i)`.
        apply_fn: `(params, x) -> logits`.
        params: of the model.
        images: `[N, ...]`.
        labels: `[N]`.
        threats: each with its radius; one of a name.
        attack_for: `threat -> Attack`.
        bisections: of the smallest radius, between 0 and twice the threat's.
        keep_images: return the nearest adversarial examples as well.
        batch_size: images attacked at once.
        mesh: spread each batch over these devices.
        directory: keep what is done there, one file a threat, and go on after an interruption; one for each attack.

    Raises:
        ValueError: two threats of one name, and as for `robustness_curve`.
    """
    names = [threat.name for threat, _ in threats]
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"threats must be one or more, each of another name; got {names}")
    for threat, eps in threats:
        _check.number(f"eps of {threat.name}", eps)
        _check.within("images", images, threat.bounds)
    labels = np.asarray(labels)
    right = correct(apply_fn, params, images, labels, batch_size, mesh)
    sensitivity = {}
    bar = progress(0, len(names), "report")
    for threat, eps in threats:
        path = None if directory is None else Path(directory) / f"{threat.name}.npz"
        kept = _Kept(path, eps=eps, bisections=bisections, correct=right, keep_images=keep_images,
                     key=np.asarray(jax.random.key_data(key)), bounds=threat.bounds,
                     inputs=_digest(directory, params, images, labels))  # fmt: skip
        saved = kept.load()
        if saved is None:
            found = _sensitivity(key, attack_for(threat), apply_fn, params, images, labels, right, eps,
                                 bisections, keep_images, batch_size, mesh)  # fmt: skip
            saved = {name: value for name, value in found._asdict().items() if isinstance(value, np.ndarray)}
            kept.save(**saved)
        found = Sensitivity(eps, **saved)
        sensitivity[threat.name] = found
        bar.update()
    bar.close()
    return Report(right, sensitivity)


def _sensitivity(key, attack, apply_fn, params, images, labels, right, eps, bisections, keep_images, batch_size, mesh):
    search = smallest(attack, steps=bisections)

    @jax.jit
    def run(params, x, y, ids):
        logits_fn = partial(apply_fn, params)
        fixed = attack(key, logits_fn, x, y, eps=eps, ids=ids)
        near = search(key, logits_fn, x, y, eps=2 * eps, ids=ids)
        best = where(distances(fixed) < distances(near), fixed._replace(trace=None), near._replace(trace=None))
        return fixed.success, distances(best), (best.x if keep_images else ())

    success, distance = ~right, np.where(right, np.inf, 0.0)
    examples = np.array(images) if keep_images else None
    ids = np.flatnonzero(right)
    if ids.size:
        success[ids], distance[ids], found = over_batches(
            partial(run, params), [images[ids], labels[ids], ids.astype(np.uint32)], batch_size, mesh
        )
        if examples is not None:
            examples[ids] = found
    # each is what both attacks found, or the two would contradict each other; distances may round to above eps
    distance = np.where(success, np.minimum(distance, eps), distance)
    return Sensitivity(eps, success | (distance <= eps), distance, examples)


class Agreement(NamedTuple):
    """A model beside people, on images that mean something else to people than their originals did.

    Attributes:
        with_humans: `[M]`, whether the model gives the class that people see.
        with_originals: `[M]`, whether it gives that of the original instead: it is too invariant there.
    """

    with_humans: np.ndarray
    with_originals: np.ndarray

    def share(self) -> float:
        """How much of the images the model agrees with people on."""
        return float(self.with_humans.mean())

    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of `share`."""
        return wilson(int(self.with_humans.sum()), self.with_humans.size)


def agreement(
    apply_fn: ApplyFn,
    params: Params,
    examples: Mapping[str, HumanLabelled],
    *,
    batch_size: int = 128,
    mesh: Mesh | None = None,
) -> dict[str, Agreement]:
    """How often a model and people see the same in invariance examples: `agreement(apply, params, human_labelled())`.

    Only the successful examples count, those which people see another class in: on the others agreeing with people is
    being right on an image that has hardly changed. There are so few that a share without its interval says little.

    Args:
        apply_fn: `(params, x [B, 28, 28, 1] in [0, 1]) -> logits [B, 10]`.
        params: of the model.
        examples: sets by name, such as `data.human_labelled()`.
        batch_size: images classified at once.
        mesh: spread each batch over these devices.

    Raises:
        ValueError: no sets; one without a changed image; a model that does not give 10 finite logits.

    Source: Tramèr et al. 2020, table 2.
    """
    if not examples:
        raise ValueError("examples must hold one set or more; got none; pass data.human_labelled()")
    for name, of_set in examples.items():
        if not of_set.changed.any():
            raise ValueError(f"{name!r} has no image that people see another class in; leave it out")
    images = np.concatenate([of_set.images[of_set.changed] for of_set in examples.values()])
    logits = over_batches(partial(jax.jit(apply_fn), params), [images], batch_size, mesh)
    if logits.shape != (len(images), 10):
        raise ValueError(
            f"the model must give logits [{len(images)}, 10]; got {logits.shape}; it needs MNIST's classes"
        )
    _check.finite("the model's logits", logits)
    ends = np.cumsum([of_set.changed.sum() for of_set in examples.values()])
    seen = dict(zip(examples, np.split(logits.argmax(1), ends[:-1]), strict=True))
    return {
        name: Agreement(seen[name] == of_set.human[of_set.changed], seen[name] == of_set.labels[of_set.changed])
        for name, of_set in examples.items()
    }


class Line(NamedTuple):
    """One line of a report's table: a value, and the 95 % interval of a share (None for other values)."""

    name: str
    value: float
    interval: tuple[float, float] | None


def table(found: Report) -> list[Line]:
    """The report in numbers: errors as shares with their Wilson intervals, and medians of the smallest radius."""

    def share(name, hits):
        return Line(name, float(hits.mean()), wilson(int(hits.sum()), hits.size))

    lines = [share("clean error", ~found.correct)]
    for name, s in found.sensitivity.items():
        lines += [
            share(f"adversarial error, {name}, eps {s.eps:g}", s.success & found.correct),
            share(f"robust accuracy, {name}, eps {s.eps:g}", ~s.success),
            Line(f"median smallest eps, {name}", float(np.median(s.smallest_eps)), None),
        ]
    return lines
