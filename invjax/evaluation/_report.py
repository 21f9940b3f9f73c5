r"""One report on a model: both failures, of the same images throughout.

    adversarial error = share of images that the model gets right as they are and wrong under the attack
    invariance error  = share of images that the model gets right as they are, and as they were still when what people
                        see has changed

Source: Cubuk et al. 2018, section 2; Tramèr et al. 2020, definitions 1 and 2.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from invjax import _check
from invjax._batching import correct, over_batches
from invjax._progress import progress
from invjax._store import Kept, digest
from invjax.attacks import Attack, Threat, pgd, smallest
from invjax.attacks._smallest import distances
from invjax.attacks.building import where
from invjax.bounds import METHODS
from invjax.evaluation._certificate import REGIONS, certificate_curve
from invjax.evaluation._intervals import wilson
from invjax.types import ApplyFn, Key, Params


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


class Relabelled(NamedTuple):
    """What became of the images of a report, one each, and what is seen in it now.

    `Relabelled(h.images, h.human)` of a set of `data.human_labelled()`, for a report on `h.originals`;
    `Relabelled(e.x, np.where(e.success, e.target, -1))` of `attacks.linf_invariance` or `l0_invariance`.

    Attributes:
        images: `[N, ...]`.
        seen: `[N]`, the class that people, or a judge, see there; -1 where there is no saying.
    """

    images: np.ndarray
    seen: np.ndarray


class Invariance(NamedTuple):
    """What a model says where images have become others.

    Attributes:
        changed: `[N]`, whether another class is seen than the label.
        kept: `[N]`, whether the model gives the label all the same.
        agrees: `[N]`, whether it gives the class that is seen.
    """

    changed: np.ndarray
    kept: np.ndarray
    agrees: np.ndarray


class Report(NamedTuple):
    """What is known about a model on one set of images, one number an image.

    Attributes:
        correct: `[N]`, whether the model is right on the image itself.
        sensitivity: by the threat's name.
        invariance: by the name of the relabelled images; empty without any.
        certified: `[N]` by the threat's name, whether the label surely wins everywhere in its ball; empty unless asked
            for.
    """

    correct: np.ndarray
    sensitivity: Mapping[str, Sensitivity]
    invariance: Mapping[str, Invariance]
    certified: Mapping[str, np.ndarray]

    def failures(self, threat: str, relabelled: str) -> dict[str, np.ndarray]:
        """The images by how the model fails there: `{"wrong", "sensitive", "both", "invariant", "neither": [N]}`.

        Each image counts once: "wrong" as it is, or right and then sensitive to that threat, invariant to what is seen
        in those relabelled images, both, or neither.
        """
        sensitive, invariant = self.sensitivity[threat].success, self._invariant(relabelled)
        return {"wrong": ~self.correct} | {
            name: self.correct & chosen
            for name, chosen in (
                ("sensitive", sensitive & ~invariant),
                ("both", sensitive & invariant),
                ("invariant", ~sensitive & invariant),
                ("neither", ~sensitive & ~invariant),
            )
        }

    def _invariant(self, relabelled: str) -> np.ndarray:
        found = self.invariance[relabelled]
        return self.correct & found.changed & found.kept


def report(
    key: Key,
    apply_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    threats: Sequence[tuple[Threat, float | int]],
    attack_for: Callable[[Threat], Attack] = pgd,
    relabelled: Mapping[str, Relabelled] | None = None,
    certify: str | None = None,
    bisections: int = 8,
    keep_images: bool = False,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    directory: str | Path | None = None,
) -> Report:
    """Clean error, the smallest radius at which each image falls, and what the model says where images became others.

    Args:
        key: random key; image i draws from `fold_in(key, i)`.
        apply_fn: `(params, x) -> logits`.
        params: of the model.
        images: `[N, ...]`.
        labels: `[N]`.
        threats: each with its radius; one of a name.
        attack_for: `threat -> Attack`.
        relabelled: by name, variants of the same images in which another class may be seen: see `Relabelled`.
        certify: 'ibp', 'crown-ibp' or 'crown': certify the balls of the linf and l2 threats, too (`bounds.margins`).
        bisections: of the smallest radius, between 0 and twice the threat's.
        keep_images: return the nearest adversarial examples as well.
        batch_size: images attacked at once.
        mesh: spread each batch over these devices.
        directory: keep what is done there, one file a threat, and go on after an interruption; one for each attack.

    Raises:
        ValueError: two threats of one name, relabelled images that are not one for each image or in which a class is
            seen that the model does not have, and as for `robustness_curve`.
    """
    names = [threat.name for threat, _ in threats]
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"threats must be one or more, each of another name; got {names}")
    for threat, eps in threats:
        _check.number(f"eps of {threat.name}", eps)
        _check.within("images", images, threat.box)
    if certify is not None:
        _check.one_of("certify", certify, METHODS)
    labels = np.asarray(labels)
    relabelled = {} if relabelled is None else relabelled
    for name, given in relabelled.items():
        _check_relabelled(name, given, images)
    right = correct(apply_fn, params, images, labels, batch_size, mesh)
    certified = {}
    for threat, eps in threats:  # before the attacks: what cannot be certified is found at once
        if certify is not None and threat.name in REGIONS:
            how: dict[str, Any] = {"norm": threat.name, "method": certify, "batch_size": batch_size, "mesh": mesh}
            curve = certificate_curve(apply_fn, params, images, labels, epsilons=[eps], box=threat.box, **how)
            certified[threat.name] = curve.broken_at > eps
    sensitivity = {}
    bar = progress(0, len(names), "report")
    for threat, eps in threats:
        path = None if directory is None else Path(directory) / f"{threat.name}.npz"
        kept = Kept(path, eps=eps, bisections=bisections, correct=right, keep_images=keep_images,
                     key=np.asarray(jax.random.key_data(key)), bounds=threat.box,
                     inputs=digest(directory, params, images, labels))  # fmt: skip
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
    invariance = {
        name: _invariance(name, given, apply_fn, params, labels, batch_size, mesh) for name, given in relabelled.items()
    }
    return Report(right, sensitivity, invariance, certified)


def _check_relabelled(name, given, images):
    seen = np.asarray(given.seen)
    if np.shape(given.images) != images.shape or seen.shape != (len(images),):
        raise ValueError(
            f"relabelled {name!r} must have an image {images.shape[1:]} and a class for each of the {len(images)} "
            f"images; got {np.shape(given.images)} and {seen.shape}; report on the originals that they were made of"
        )
    if not np.issubdtype(seen.dtype, np.integer) or seen.min(initial=0) < -1:
        raise ValueError(f"seen of {name!r} must be classes, or -1 where there is no saying; got {seen.dtype} {seen}")
    _check.finite(f"relabelled {name!r}", given.images)


def _invariance(name, given, apply_fn, params, labels, batch_size, mesh):
    logits = over_batches(partial(jax.jit(apply_fn), params), [np.asarray(given.images)], batch_size, mesh)
    _check.finite(f"the model's logits on {name!r}", logits)
    seen, answers = np.asarray(given.seen), logits.argmax(1)
    if seen.max(initial=-1) >= logits.shape[1]:
        raise ValueError(f"seen of {name!r} must be classes of the model, below {logits.shape[1]}; got {seen.max()}")
    return Invariance((seen >= 0) & (seen != labels), answers == labels, answers == seen)


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


class Line(NamedTuple):
    """One line of a report's table: a value, and the 95 % interval of a share (None for other values)."""

    name: str
    value: float
    interval: tuple[float, float] | None


def table(found: Report) -> list[Line]:
    """The report in numbers: shares with their Wilson intervals, and medians of the smallest radius."""

    def share(name, hits):
        return Line(name, float(hits.mean()), wilson(int(hits.sum()), hits.size))

    lines = [share("clean error", ~found.correct)]
    for name, s in found.sensitivity.items():
        lines += [
            share(f"adversarial error, {name}, eps {s.eps:g}", s.success & found.correct),
            share(f"robust accuracy, {name}, eps {s.eps:g}", ~s.success),
            Line(f"median smallest eps, {name}", float(np.median(s.smallest_eps)), None),
        ]
        if name in found.certified:
            lines.append(share(f"certified accuracy, {name}, eps {s.eps:g}", found.certified[name]))
    for name, i in found.invariance.items():
        lines.append(share(f"invariance error, {name}", found._invariant(name)))
        if i.changed.any():
            lines.append(share(f"agreement where another class is seen, {name}", i.agrees[i.changed]))
        for threat, s in found.sensitivity.items():
            neither = found.failures(threat, name)["neither"]
            lines.append(share(f"right, and neither failure: {threat}, eps {s.eps:g}; {name}", neither))
    return lines
