"""Robust accuracy under AutoAttack in one call."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax import _check
from invjax._batching import correct, over_batches, shrinking
from invjax._progress import progress
from invjax._store import Kept, digest
from invjax.attacks import Stage, Threat, autoattack_stages
from invjax.attacks.building import check_images
from invjax.evaluation._intervals import wilson
from invjax.evaluation._options import Options
from invjax.types import ApplyFn, Key, Params


class Benchmark(NamedTuple):
    """What AutoAttack found, as host arrays.

    Attributes:
        eps: the radius.
        x: `[N, ...]`, adversarial where `broken`, else the image itself.
        broken: `[N]`, misclassified, as it is or under attack.
        distance: `[N]`, of x; 0 where no attack succeeded or none was needed.
        broken_by: `[N]`, the position in `stages` of the attack that succeeded; -1 for images that are misclassified as
            they are, the number of stages where none did.
        stages: the names of the attacks, in order.
    """

    eps: float
    x: np.ndarray
    broken: np.ndarray
    distance: np.ndarray
    broken_by: np.ndarray
    stages: tuple[str, ...]

    @property
    def clean_accuracy(self) -> float:
        """The fraction of images that are classified correctly as they are."""
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
        """How many images each attack broke, of those that the attacks before it left."""
        return {name: int((self.broken_by == i).sum()) for i, name in enumerate(self.stages)}

    def __str__(self) -> str:
        low, high = self.interval
        broke = ", ".join(f"{name} {count}" for name, count in self.counts().items())
        return (
            f"clean accuracy {self.clean_accuracy:.1%}, robust accuracy {self.robust_accuracy:.1%} "
            f"(95 % interval {low:.1%} to {high:.1%}) at eps {self.eps:g} on {self.broken.size} images; broken by: {broke}"
        )


def benchmark(
    key: Key,
    apply_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    threat: Threat,
    eps: float | int,
    stages: tuple[Stage, ...] | None = None,
    options: Options = Options(),  # noqa: B008  an immutable record
) -> Benchmark:
    """Clean and robust accuracy under AutoAttack, and what each of its attacks broke.

        print(evaluation.benchmark(key, apply_fn, params, images, labels, threat=attacks.linf(), eps=8 / 255))

    Each attack runs on the images that are left, in batches of `batch_size` and at last of a smaller power of two, so
    that it compiles a few times at most. Image i draws from the key of its position, whatever batch it is in.

    Args:
        key: random key.
        apply_fn: `(params, x) -> logits [B, K]`.
        params: of the model.
        images: `[N, ...]` floats in the threat's box.
        labels: `[N]`.
        threat: `attacks.linf()`, `l2()` or `l1()`.
        eps: the radius, in the units of the threat.
        stages: the attacks; default: the standard version, `attacks.autoattack_stages(threat, num_classes=K)`.
        options: batch size, mesh, and the folder in which `benchmark.npz` keeps what is done. Another key, model, data,
            radius or list of attacks in the same folder is refused.

    Raises:
        ValueError: a negative `eps`, images outside of the box, labels of another shape or out of range, NaN logits, no
            stages or stages of another threat, a folder that holds another run.
    """
    _check.number("eps", eps)
    _check.positive(batch_size=options.batch_size)
    _check.within("images", images, threat.box)
    images, labels = np.asarray(images), np.asarray(labels)
    num_classes = _check.logits_of(partial(apply_fn, params), images[:1], labels[:1])
    stages = autoattack_stages(threat, num_classes=num_classes) if stages is None else tuple(stages)
    if not stages:
        raise ValueError("stages must hold at least one attack; got none; leave stages out for AutoAttack")
    for stage in stages:
        check_images(stage.make(0), images, "images")
        if stage.make(0).threat.name != threat.name:
            raise ValueError(f"stages must be attacks in {threat.name}; got {stage.make(0).recipe} in {stage.name}")
    mesh, batch_size = options.mesh, options.batch_size
    recipes = "; ".join(f"{stage.name}: {stage.ranks} x {stage.make(0).recipe}" for stage in stages)
    kept = Kept(None if options.directory is None else Path(options.directory) / "benchmark.npz", eps=eps,
                 attacks=recipes, key=np.asarray(jax.random.key_data(key)),
                 inputs=digest(options.directory, params, images, labels))  # fmt: skip
    saved = kept.load()
    if saved is None:
        right = correct(apply_fn, params, images, labels, batch_size, mesh)
        saved = {
            "x": np.array(images),
            "distance": np.zeros(len(images), np.float32),
            "broken_by": np.where(right, len(stages), -1),
            "done": np.zeros((), int),
        }
    x, distance, broken_by = saved["x"], saved["distance"], saved["broken_by"]
    programs = [_program(stage, apply_fn) for stage in stages]
    parts = list(_parts(stages))
    bar = progress(int(saved["done"]), len(parts), "AutoAttack")
    for done, (number, rank) in list(enumerate(parts))[int(saved["done"]) :]:
        stage_key = jax.random.fold_in(key, number)
        left = np.flatnonzero(broken_by == len(stages))
        for ids, size in shrinking(left, batch_size, 1 if mesh is None else mesh.size):
            run = partial(programs[number], stage_key, params, jnp.int32(rank), jnp.asarray(eps, images.dtype))
            found, success, length = over_batches(run, [images[ids], labels[ids], ids.astype(np.uint32)], size, mesh)
            hit = ids[success]
            x[hit], distance[hit], broken_by[hit] = found[success], length[success], number
        kept.save(x=x, distance=distance, broken_by=broken_by, done=np.asarray(done + 1))
        bar.update()
        bar.set_postfix(left=int((broken_by == len(stages)).sum()))
    bar.close()
    names = tuple(stage.name for stage in stages)
    return Benchmark(float(eps), x, broken_by < len(stages), distance, broken_by, names)


def _program(stage: Stage, apply_fn: ApplyFn):
    """The stage compiled for every rank, radius and batch of one shape."""

    def run(key, params, rank, eps, x, labels, ids):
        attack = stage.make(rank)
        result = attack(jax.random.fold_in(key, rank), partial(apply_fn, params), x, labels, eps=eps, ids=ids)
        return result.x, result.success, result.distance

    return jax.jit(run)


def _parts(stages: tuple[Stage, ...]) -> Iterator[tuple[int, int]]:
    for number, stage in enumerate(stages):
        for rank in range(stage.ranks):
            yield number, rank
