"""Whole data sets made from a model: one compiled step, spread over devices, resumed after a kill to the same bytes.

Example i draws from `fold_in(key, i)`. What is done is kept in parts beside the file that is to be; the file appears
when it is whole, with the recipe inside, and the parts go.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from invjax import _check
from invjax._batching import over_batches
from invjax._progress import progress
from invjax._store import Kept, check_same, digest, digest_tree
from invjax.attacks import Attack
from invjax.attacks.building import check_images
from invjax.features._inversion import check_features, robustify
from invjax.features._relabelling import check_targeted, check_targets, relabel_by_attack
from invjax.features._storage import Constructed, load, save
from invjax.types import ApplyFn, Key, Params, Scalar

Make = Callable[..., dict[str, jax.Array]]
"""`(params, key, ids [B], *batch) -> {"images": [B, ...], "labels": [B], ...}`, of each example by itself."""


class _Rows:
    """`array[index]`, row by row when it is asked for."""

    def __init__(self, array: np.ndarray, index: np.ndarray):
        self.array, self.index, self.dtype = array, index, array.dtype
        self.shape = (len(index), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.array[self.index[rows]]


def construct(
    key: Key,
    make: Make,
    params: Params,
    arrays: Sequence[Any],
    *,
    recipe: dict[str, Any],
    path: str | Path | None = None,
    batch_size: int = 256,
    part_size: int = 2048,
    mesh: Mesh | None = None,
    description: str = "data set",
) -> Constructed:
    """Run `make` over a whole data set, and keep the result with its recipe.

    With a `path`, a run that was killed goes on from its last whole part, and a finished one is read. The recipe names
    what identifies the run: hashes of the parameters, of the arrays, of the key and of the compiled program, the
    versions, the backend and the batch size. Another recipe at the same path is refused.

    Args:
        key: random key.
        make: of one batch; compiled here, once.
        params: of the model, what `make` takes first.
        arrays: of one length N, what `make` takes after the ids; anything that takes a slice.
        recipe: what the reader is to know beside this, as JSON takes it.
        path: of a `.npz`; None keeps nothing. Several hosts need one folder that all see.
        batch_size: examples in a step; with a mesh rounded up to a multiple of its size.
        part_size: examples in a part, rounded up to whole batches.
        mesh: spread each batch over these devices.
        description: beside the progress bar.

    Raises:
        ValueError: no examples, arrays of different lengths, a recipe that JSON cannot take, a `make` without images
            or labels, a file or parts at `path` of another run, a damaged one, NaN in what was made.
        OSError: the disk is full: what is there is whole, and the same call goes on from it.
    """
    _check.positive(batch_size=batch_size, part_size=part_size)
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"arrays must have one length, at least 1; got {sorted(lengths)}; check the data's split")
    (total,) = lengths
    batch_size += 0 if mesh is None else -batch_size % mesh.size
    part_size += -part_size % batch_size
    step = jax.jit(make)
    try:
        json.dumps(recipe)
    except TypeError as error:
        raise ValueError(f"recipe must hold what JSON takes; got {recipe} ({error})") from error
    recipe = recipe | _identity(key, step, params, arrays, batch_size, mesh)
    path = None if path is None else Path(path)
    if path is not None and path.exists():
        made = load(path)
        check_same(path, made.recipe, recipe, "give another path, or remove the file")
        _remove_parts(path)
        return made
    spans = [(start, min(start + part_size, total)) for start in range(0, total, part_size)]
    # all at once, before any is written: several hosts then agree on what is left to do
    files = [Kept(None if path is None else _part(path, span), recipe) for span in spans]
    parts = [file.load() for file in files]
    bar = progress(sum(part is not None for part in parts), len(spans), description)
    for number, (start, stop) in enumerate(spans):
        if parts[number] is None:
            inputs = [np.arange(start, stop, dtype=np.uint32), *(array[start:stop] for array in arrays)]
            found = over_batches(partial(step, params, key), inputs, batch_size, mesh)
            for name, values in found.items():
                if np.issubdtype(values.dtype, np.floating):
                    _check.finite(f"{name} of examples {start} to {stop - 1}", values)
            files[number].save(**found)
            parts[number] = found
            bar.update()
    bar.close()
    done = [part for part in parts if part is not None]
    whole = {name: np.concatenate([part.pop(name) for part in done]) for name in list(done[0])}
    made = Constructed(whole.pop("images"), whole.pop("labels"), whole, recipe, "")
    made = made._replace(sha256=digest({"images": made.images, "labels": made.labels, **whole}))
    if path is not None:
        save(path, made)
        _remove_parts(path)
    return made


def _identity(key, step, params, arrays, batch_size, mesh):
    """What the run depends on, by its hash where it is large."""
    batch = [jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype) for array in arrays]
    lowered = step.lower(params, key, jax.ShapeDtypeStruct((batch_size,), np.uint32), *batch)
    missing = {"images", "labels"} - lowered.out_info.keys()
    if missing:
        raise ValueError(f"make must give images and labels; it gives no {' and no '.join(sorted(missing))}")
    program = lowered.as_text()
    return {
        "examples": len(arrays[0]),
        "shape": list(arrays[0].shape[1:]),
        "params_sha256": digest_tree(params),
        "inputs_sha256": digest({str(i): array for i, array in enumerate(arrays)}),
        "key_sha256": digest_tree(key),
        "program_sha256": hashlib.sha256(program.encode()).hexdigest(),
        "batch_size": batch_size,
        "devices": 1 if mesh is None else mesh.size,
        "backend": jax.default_backend(),
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
    }


def _folder(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _part(path: Path, span: tuple[int, int]) -> Path:
    return _folder(path) / f"{span[0]:08}-{span[1]:08}.npz"


def _remove_parts(path: Path) -> None:
    if jax.process_index() == 0 and _folder(path).is_dir():
        for part in _folder(path).glob("*.npz*"):
            part.unlink()
        _folder(path).rmdir()


def robust_dataset(
    key: Key,
    features_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int = 1000,
    step_size: Scalar = 0.1,
    start: str = "images",
    keep: str = "last",
    about: dict[str, Any] | None = None,
    path: str | Path | None = None,
    **options: Any,
) -> Constructed:
    """D_R of a robust model, D_NR of a standard one: images with the representation of others, and their labels.

        features.robust_dataset(key, models.penultimate(net), params, images, labels, path="d-r.npz")

    Args:
        key: random key, of the starts.
        features_fn: `(params, x) -> representation [B, ...]`.
        params: of the model.
        images: `[N, ...]` in [0, 1].
        labels: `[N]`.
        steps: as in `robustify`.
        step_size: as in `robustify`.
        start: "images", each search starts from an image of the data set, drawn with replacement and without a look at
            its label; or "noise".
        keep: as in `robustify`.
        about: what else the recipe is to say, such as the names of the data and of the model.
        path: of the `.npz`; as in `construct`.
        **options: `batch_size`, `part_size`, `mesh`, `description` of `construct`.

    Returns:
        `Constructed`, whose details are "distance" `[N]`, of the representations, and "start" `[N]`, the position of
        the image that the search started from, or -1.

    Raises:
        ValueError: as in `robustify` and `construct`; labels that are not one an image.
        OSError: as in `construct`.
    """
    _check.one_of("start", start, ("images", "noise"))
    _check_data(images, labels)
    _check.within("images", images, (0.0, 1.0))
    check_features(partial(features_fn, params), images[:1], int(np.max(labels)) + 1)
    draws, search = jax.random.split(key)
    arrays: list[Any] = [images, labels, np.full(len(images), -1, np.int32)]
    if start == "images":
        arrays[2] = np.asarray(
            jax.vmap(lambda i: jax.random.randint(jax.random.fold_in(draws, i), (), 0, len(images), jnp.int32))(
                np.arange(len(images), dtype=np.uint32)
            )
        )
        arrays.append(_Rows(images, arrays[2]))

    def make(params, key, ids, x, y, drawn, x0=None):
        found = robustify(
            key, partial(features_fn, params), x, x0, steps=steps, step_size=step_size, keep=keep, ids=ids
        )
        return {"images": found.x, "labels": y, "distance": found.distance, "start": drawn}

    recipe = {"construction": "inversion", "steps": steps, "step_size": float(step_size), "start": start, "keep": keep}
    return construct(search, make, params, arrays, recipe=(about or {}) | recipe, path=path, **options)


def relabelled_dataset(
    key: Key,
    attack: Attack,
    apply_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    eps: Scalar,
    step_size: Scalar | None = None,
    about: dict[str, Any] | None = None,
    path: str | Path | None = None,
    **options: Any,
) -> Constructed:
    """D_rand or D_det: every image moved towards its target, and labelled so.

        targets = features.next_targets(labels, num_classes=10)
        attack = attacks.pgd(attacks.l2(), steps=100, targeted=True, random_start=False)
        features.relabelled_dataset(key, attack, net.apply, params, images, targets, eps=0.5, step_size=0.1)

    Args:
        key: random key of the attack.
        attack: a targeted one.
        apply_fn: `(params, x) -> logits`.
        params: of the model.
        images: `[N, ...]` in the attack's bounds.
        targets: `[N]`, from `random_targets` or `next_targets`.
        eps: radius.
        step_size: of the attack; None is its own default.
        about: what else the recipe is to say, such as the names of the data, the model and the attack.
        path: of the `.npz`; as in `construct`.
        **options: `batch_size`, `part_size`, `mesh`, `description` of `construct`.

    Returns:
        `Constructed`, whose details are "success" `[N]`, whether the model sees the target, and "distance" `[N]`.

    Raises:
        ValueError: as in `relabel_by_attack` and `construct`.
        OSError: as in `construct`.
    """
    _check_data(images, targets)
    check_targeted(attack)
    check_images(attack, images, "images")
    check_targets(targets, _check.logits_of(partial(apply_fn, params), images[:1], targets[:1]))

    def make(params, key, ids, x, t):
        found = relabel_by_attack(key, attack, partial(apply_fn, params), x, t, eps=eps, step_size=step_size, ids=ids)
        return {"images": found.x, "labels": t, "success": found.success, "distance": found.distance}

    length = None if step_size is None else float(step_size)
    recipe = {"construction": "targeted attack", "eps": float(eps), "step_size": length}
    return construct(key, make, params, [images, targets], recipe=(about or {}) | recipe, path=path, **options)


def _check_data(images, labels):
    if not len(images):
        raise ValueError(f"images must hold at least one; got shape {images.shape}; check the data's split")
    if labels.shape != (len(images),):
        raise ValueError(f"labels must be one for each of the {len(images)} images; got shape {labels.shape}")
    _check.finite("images", images)
    _check.labels(labels, int(np.max(labels)) + 1)
