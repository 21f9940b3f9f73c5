"""Construct a whole data set from a model, with one compiled step on several devices; a killed run resumes.

Finished examples are saved in parts beside the final file. The file is written when all parts are complete, with the
recipe inside, and the parts are then removed. A resumed run gives the same bytes as an uninterrupted one.
"""

import json
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from invjax import _check
from invjax._batching import on_device, over_batches
from invjax._progress import progress
from invjax._store import Kept, check_same, digest, local_path, sole_writer
from invjax.features._identity import comparable, identity
from invjax.features._storage import Constructed, load, save
from invjax.types import Key, Params

Make = Callable[..., dict[str, jax.Array]]
"""`(params, key, ids [B], *batch) -> {"images": [B, ...], "labels": [B], ...}`; no example depends on another."""


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
    """Run `make` over a whole data set, and save the result with its recipe.

    With a `path`, a killed run continues after its last complete part, and a finished data set is loaded. The recipe
    identifies the run: it holds hashes of the parameters, the arrays, the key and the compiled program, and the
    versions, the backend and the batch size. A file of another recipe at the same path raises an error. A finished data
    set is also loaded with another batch size, other devices or another version, because nothing is computed; its
    recipe says what made it. A damaged part is computed again, with a warning.

    Args:
        key: random key.
        make: makes one batch; it is compiled here, once.
        params: parameters of the model, the first argument of `make`.
        arrays: arrays of one length N, or objects that can be sliced like arrays; their batches follow the ids in the
            arguments of `make`.
        recipe: description of the data set for its readers, in types that JSON can hold; the identity of the run is
            added to it.
        path: the `.npz` file to write; None saves nothing. With several hosts, all must see its folder.
        batch_size: examples in a step; with a mesh it is rounded up to a multiple of the number of devices.
        part_size: examples in a part, rounded up to whole batches.
        mesh: spread each batch over these devices.
        description: text beside the progress bar.

    Returns:
        The data set, with its recipe and its hash.

    Raises:
        ValueError: there are no examples, the arrays differ in length, JSON cannot hold the recipe, `make` gives no
            images or no labels or NaN, the finished file is damaged, the file or its parts belong to another run, or
            another process writes them.
        OSError: the disk is full. The parts that exist are complete, and the same call continues from them.
    """
    _check.key(key)
    _check.function("make", make, "(params, key, ids, *batch) -> arrays by name")
    _check.count(batch_size=batch_size, part_size=part_size)
    total = _length(arrays)
    batch_size += 0 if mesh is None else -batch_size % mesh.size
    part_size += -part_size % batch_size
    step = jax.jit(make)
    try:
        json.dumps(recipe)
    except TypeError as error:
        raise ValueError(f"recipe must hold values that JSON can hold; got {recipe} ({error})") from error
    path = None if path is None else local_path(path)
    described = partial(identity, key, step, params, arrays)
    if path is not None and path.exists():
        made = load(path)
        wanted = recipe | described(made.recipe.get("batch_size", batch_size), mesh)
        check_same(path, *comparable(made.recipe, wanted), "give another path, or remove the file")
        if not any(_is_of_another(part, made.recipe) for part in _parts(path)):
            _remove_parts(path)
        return made

    recipe = recipe | described(batch_size, mesh)
    spans = [(start, min(start + part_size, total)) for start in range(0, total, part_size)]

    def make_part(span):
        inputs = [np.arange(*span, dtype=np.uint32), *(array[slice(*span)] for array in arrays)]
        return over_batches(partial(on_device(step), params, key), inputs, batch_size, mesh)

    with sole_writer(None if path is None else _folder(path)):
        found = _all_parts(make_part, spans, path, recipe, description)
        made = Constructed(found.pop("images"), found.pop("labels"), found, recipe, "")
        made = made._replace(sha256=digest({"images": made.images, "labels": made.labels, **found}))
        if path is not None:
            save(path, made)
            _remove_parts(path)
    return made


def _length(arrays):
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"arrays must have one length, at least 1; got {sorted(lengths)}; check the data's split")
    return lengths.pop()


def _all_parts(make_part, spans, path, recipe, description):
    """Load the parts that are complete, make and save the others, and concatenate them all."""
    files = [Kept(None if path is None else _part(path, span), recipe) for span in spans]
    # all parts are loaded before any is written, so that several hosts agree on which ones are missing
    parts = [file.load() for file in files]
    for other in set() if path is None else set(_parts(path)) - {file.path for file in files}:
        Kept(other, recipe).load()  # a part of another recipe raises an error
    bar = progress(sum(part is not None for part in parts), len(spans), description)
    for number, span in enumerate(spans):
        if parts[number] is None:
            found = {name: _plain(values) for name, values in make_part(span).items()}
            for name, values in found.items():
                if np.issubdtype(values.dtype, np.floating):
                    _check.finite(f"{name} of examples {span[0]} to {span[1] - 1}", values)
            files[number].save(**found)
            parts[number] = found
            bar.update()
    bar.close()
    complete = [part for part in parts if part is not None]
    return {name: np.concatenate([part.pop(name) for part in complete]) for name in list(complete[0])}


def _plain(values):
    """The values in a dtype that files can hold: bfloat16 becomes float32."""
    return values.astype(np.float32) if values.dtype.kind == "V" else values


def _folder(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _part(path: Path, span: tuple[int, int]) -> Path:
    return _folder(path) / f"{span[0]:08}-{span[1]:08}.npz"


def _parts(path: Path) -> list[Path]:
    """The parts on disk, of any recipe and part size."""
    return [part for part in _folder(path).glob("*.npz") if _PART.fullmatch(part.name)]


_PART = re.compile(r"\d{8,}-\d{8,}\.npz")
"""The names of parts. A folder may hold other files, such as those of a file manager."""


def _is_of_another(part: Path, recipe: dict[str, Any]) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damage
        try:
            Kept(part, recipe).load()
        except ValueError:
            return True
    return False


def _remove_parts(path: Path) -> None:
    """Remove the parts, which are not needed any more, and their folder if it holds nothing else."""
    if jax.process_index() != 0 or not _folder(path).is_dir():
        return
    with suppress(OSError):  # the folder cannot be written, or holds other files
        for part in [*_parts(path), *_folder(path).glob("*.npz.part"), _folder(path) / ".lock"]:
            part.unlink(missing_ok=True)
        _folder(path).rmdir()


def check_data(images: np.ndarray, labels: np.ndarray, name: str = "labels") -> None:
    """Check that there are images, and one label for each.

    Raises:
        ValueError: there are no images, or the labels have another shape.
    """
    _check.examples("images", images)
    _check.one_each(name, labels, images)
