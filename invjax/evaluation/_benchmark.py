"""Robust accuracy under AutoAttack in one call."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from invjax import _box, _check, _logits
from invjax._batching import cached, on_device, on_host, over_batches, shrinking
from invjax._dtypes import wide_dtype
from invjax._progress import progress
from invjax._store import Kept, digest_tree
from invjax.attacks import RandomModel, Stage, Threat, autoattack_stages
from invjax.attacks.building import (
    bind,
    check_images,
    check_radius,
    check_threat,
    same_threat,
    sound,
    warn_of_gradients,
)
from invjax.bounds import METHODS
from invjax.evaluation._certificate import REGIONS, certificate_curve
from invjax.evaluation._clean import unbroken
from invjax.evaluation._intervals import wilson
from invjax.evaluation._options import Options, check_options, kept
from invjax.types import ApplyFn, Array, Key, Params


class Benchmark(NamedTuple):
    """The result of `benchmark`, as host arrays. Its `str` is a summary.

    Attributes:
        eps: the radius, or the radius of each image, `[N]`.
        x: `[N, ...]`, the adversarial example of each broken image; every other image is unchanged.
        broken: `[N]`, whether the image is misclassified, without a change or under an attack. Attacks from
            `attacks.top_k` or `attacks.confident` count their own success instead.
        distance: `[N]`, the distance of `x` from the image; 0 where no attack succeeded or none was needed.
        broken_by: `[N]`, the position in `stages` of the attack that succeeded; -1 for images that are misclassified
            without a change, and the number of stages for images that withstand all attacks.
        stages: the names of the attacks, in order.
        certified: `[N]`, whether bounds certify the image at `eps`; None if no method was given.
    """

    eps: float | np.ndarray
    x: np.ndarray
    broken: np.ndarray
    distance: np.ndarray
    broken_by: np.ndarray
    stages: tuple[str, ...]
    certified: np.ndarray | None = None

    @property
    def clean_accuracy(self) -> float:
        """The fraction of images that are classified correctly without a change, by the rule of the attacks."""
        return float((self.broken_by >= 0).mean())

    @property
    def robust_accuracy(self) -> float:
        """The fraction of images that withstand all attacks."""
        return float((~self.broken).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of `robust_accuracy`."""
        return wilson(int((~self.broken).sum()), self.broken.size)

    def counts(self) -> dict[str, int]:
        """The number of images that each attack broke and the attacks before it did not."""
        return {name: int((self.broken_by == i).sum()) for i, name in enumerate(self.stages)}

    def __str__(self) -> str:
        low, high = self.interval
        broke = ", ".join(f"{name} {count}" for name, count in self.counts().items())
        eps = np.unique(self.eps)
        radius = f"{eps[0]:g}" if eps.size == 1 else f"from {eps[0]:g} to {eps[-1]:g}"
        certified = "" if self.certified is None else f"certified accuracy {self.certified.mean():.1%}, "
        return (
            f"clean accuracy {self.clean_accuracy:.1%}, {certified}robust accuracy {self.robust_accuracy:.1%} "
            f"(95 % interval {low:.1%} to {high:.1%}) at eps {radius} on {self.broken.size} images; "
            f"broken by: {broke}"
        )


def benchmark(
    key: Key,
    apply_fn: ApplyFn | RandomModel,
    params: Params,
    images: Array,
    labels: Array,
    *,
    threat: Threat,
    eps: float | int | np.ndarray,
    stages: tuple[Stage, ...] | None = None,
    certify: str | None = None,
    options: Options = Options(),  # noqa: B008  an immutable record
) -> Benchmark:
    """Clean and robust accuracy under AutoAttack, and how many images each of its attacks breaks.

        print(evaluation.benchmark(key, apply_fn, params, images, labels, threat=attacks.linf(), eps=8 / 255))

    Each attack runs on the images that are still correct. All batches but the last ones have `batch_size` images, and
    the last ones have a smaller power of two, so each attack compiles a few times at most. Several calls with the same
    `apply_fn` and the same `stages` compile once.

    >>> import jax.numpy as jnp
    >>> from invjax import attacks
    >>> linear = lambda params, x: x.reshape(len(x), -1) @ params
    >>> params = jnp.stack([jnp.ones(16), jnp.zeros(16)], 1) - 0.5 / 16
    >>> images = np.linspace(-1, 1, 4 * 16, dtype=np.float32).reshape(4, 4, 4, 1)
    >>> labels = np.array([1, 1, 0, 0])
    >>> threat = attacks.linf(box=(-1, 1))
    >>> stages = attacks.autoattack_stages(threat, num_classes=2, steps=2, queries=2)[:1]
    >>> found = benchmark(jax.random.key(0), linear, params, images, labels, threat=threat, eps=0.5, stages=stages)
    >>> found.clean_accuracy, found.robust_accuracy, found.counts()
    (1.0, 0.5, {'apgd-ce': 2})

    Args:
        key: random key. Image i draws from the key of its position, whatever batch it is in.
        apply_fn: `(params, x) -> logits [B, K]`, or a model from `attacks.random_model`.
        params: parameters of the model.
        images: `[N, ...]` floats in the threat's box.
        labels: `[N]`, the true classes.
        threat: `attacks.linf()`, `l2()` or `l1()`.
        eps: the radius, in the units of the threat, or one radius for each image, `[N]`.
        stages: the attacks, in order; by default the standard version of AutoAttack,
            `attacks.autoattack_stages(threat, num_classes=K)`, and the version "rand" for a random model.
        certify: one of `bounds.METHODS`, which certifies images at `eps` in linf or l2, so that the true robust
            accuracy lies between the certified accuracy and that under attack; None certifies nothing.
        options: batch size, mesh, and the folder in which `benchmark.npz` keeps finished attacks. A folder with
            another key, model, data, radius or list of attacks raises an error.

    Returns:
        The result for each image; `print` shows its summary.

    Raises:
        ValueError: `eps` is negative, images lie outside of the box, labels have another shape or are out of range,
            logits are NaN, there are no stages or stages of another threat, `certify` is no method or the threat, the
            radii or the model have no certificate, or the directory belongs to another run.

    Source: Croce & Hein 2020, *Reliable Evaluation of Adversarial Robustness*.
    """
    check_options(options)
    _check.key(key)
    _check.function("apply_fn", apply_fn, "(params, x) -> logits")
    _check.within("images", images, check_threat(threat).box)
    check_radius(threat, eps, images, count=len(images))
    _check.one_each("labels", labels, images)
    images, labels = on_host(images), on_host(labels)
    num_classes = _logits.num_classes(bind(apply_fn, params, key, None, 1), images[:1], None)
    _check.labels(labels, num_classes)
    draws = {"draws": apply_fn.draws} if isinstance(apply_fn, RandomModel) else {}
    if stages is None:
        stages = autoattack_stages(threat, num_classes=num_classes, version="rand" if draws else "standard")
    stages = tuple(stages)
    _check_stages(stages, threat, images, num_classes)
    if certify is not None:
        _check_certificate(certify, threat, eps, apply_fn, stages)
    right = unbroken(key, stages[0].make(0), apply_fn, params, images, labels, options)
    radii = np.asarray(eps, wide_dtype(images.dtype))
    recipes = [f"{stage.name}: {stage.ranks} x {stage.make(0).recipe}" for stage in stages]
    store = kept(options, "benchmark.npz", params, images, labels, right,
                 attacks=recipes, eps=np.asarray(eps, float).tolist(), key=digest_tree(key), **draws)  # fmt: skip
    saved = store.load() or _start(images, right, len(stages))
    x, distance, broken_by, finite = _attacked(
        key, apply_fn, params, images, labels, radii, stages, saved, store, options
    )
    warn_of_gradients("AutoAttack", finite)
    certified = None
    if certify is not None:
        model, radius = cast(ApplyFn, apply_fn), float(eps)
        curve = certificate_curve(model, params, images, labels, epsilons=[radius], norm=threat.name, method=certify,
                                  box=threat.box, options=options)  # fmt: skip
        certified = curve.broken_at > radius
    given = np.asarray(eps, float) if radii.ndim else float(eps)
    names = tuple(stage.name for stage in stages)
    return Benchmark(given, x, broken_by < len(stages), distance, broken_by, names, certified)


def _attacked(
    key: Key,
    apply_fn: ApplyFn | RandomModel,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    radii: np.ndarray,
    stages: tuple[Stage, ...],
    saved: dict[str, np.ndarray],
    store: Kept,
    options: Options,
) -> tuple[np.ndarray, ...]:
    """Run the attacks that are not done yet; return `x`, `distance`, `broken_by` and `finite` of `Benchmark`."""
    x, distance, broken_by = (saved[name] for name in ("x", "distance", "broken_by"))
    finite = saved.get("finite", np.ones(len(images), bool))  # older files lack it
    done, parts = int(saved["done"]), list(_parts(stages))
    bar = progress(done, len(parts), "AutoAttack")
    for number, rank in parts[done:]:
        left = np.flatnonzero(broken_by == len(stages))
        stage_key = jax.random.fold_in(key, jax.device_put(np.uint32(number)))
        run = partial(_program(stages[number], apply_fn), stage_key, params, np.int32(rank))
        for ids, size in shrinking(left, options.batch_size, 1 if options.mesh is None else options.mesh.size):
            inputs = [images[ids], labels[ids], ids.astype(np.uint32)]
            if radii.ndim:
                inputs = [radii[ids], *inputs]
            attack = run if radii.ndim else partial(run, radii)
            found, success, length, smooth = over_batches(attack, inputs, size, options.mesh)
            hit = ids[success]
            x[hit], distance[hit], broken_by[hit] = found[success], length[success], number
            finite[ids] &= smooth
        done += 1
        store.save(x=x, distance=distance, broken_by=broken_by, finite=finite, done=done)
        bar.update()
        bar.set_postfix(correct=int((broken_by == len(stages)).sum()))
    bar.close()
    return x, distance, broken_by, finite


def _start(images: np.ndarray, right: np.ndarray, stages: int) -> dict[str, np.ndarray]:
    """The result before the first attack."""
    return {
        "x": np.array(images, wide_dtype(images.dtype)),
        "distance": np.zeros(len(images), np.float32),
        "broken_by": np.where(right, stages, -1),
        "finite": np.ones(len(images), bool),
        "done": np.zeros((), int),
    }


def _check_stages(stages: tuple[Stage, ...], threat: Threat, images: np.ndarray, num_classes: int) -> None:
    if not stages:
        raise ValueError("stages must hold at least one attack; got none; leave stages out for AutoAttack")
    for stage in stages:
        if stage.num_classes not in (None, num_classes):
            raise ValueError(
                f"{stage.name} was made for num_classes={stage.num_classes}, but the model has {num_classes} logits; "
                f"give autoattack_stages num_classes={num_classes}"
            )
        attack = stage.make(0)
        check_images(attack, images, "images")
        if attack.targeted:
            raise ValueError(f"the attacks of {stage.name} must be untargeted; got {attack.recipe}")
        if not same_threat(attack.threat, threat):
            raise ValueError(
                f"every stage must attack in threat={threat.name} of box {_box.shown(threat.box)}; got {attack.recipe} "
                f"in {stage.name}; make the stages with that threat"
            )
        if attack.decision != stages[0].make(0).decision:
            raise ValueError(
                f"all stages must have one rule of success; got {stages[0].make(0).recipe} and {attack.recipe}; give "
                "every stage the same top_k or confident"
            )


def _check_certificate(method: str, threat: Threat, eps: Any, apply_fn: Any, stages: tuple[Stage, ...]) -> None:
    _check.one_of("certify", method, METHODS)
    _check.one_of("a threat to certify", threat.name, tuple(REGIONS))
    if np.ndim(eps) or isinstance(apply_fn, RandomModel) or stages[0].make(0).decision is not None:
        raise ValueError(
            f"certify={method!r} needs one eps for all images, a model without random numbers, and attacks that "
            "succeed by a wrong prediction; leave certify out"
        )


@cached  # calls with other parameters, radii or data do not compile again
def _program(stage: Stage, apply_fn: ApplyFn | RandomModel) -> Callable[..., Any]:
    """One compiled function for all ranks and radii of a stage, on batches of one shape."""

    def run(key, params, rank, eps, x, labels, ids):
        attack, key = stage.make(rank), jax.random.fold_in(key, rank)
        result = attack(key, bind(apply_fn, params, key, ids, len(x)), x, labels, eps=eps, ids=ids)
        return result.x, result.success, result.distance, sound(result)

    return on_device(jax.jit(run))


def _parts(stages: tuple[Stage, ...]) -> Iterator[tuple[int, int]]:
    for number, stage in enumerate(stages):
        for rank in range(stage.ranks):
            yield number, rank
