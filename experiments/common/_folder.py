"""The folder of a run: its settings, its kept stages, and their publication."""

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common._machine import agreed
from experiments.common._settings import identity, recorded
from invjax.data import read_arrays, write_arrays, write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RESULTS = Path(__file__).parents[1] / "results"


def open_run(config: Any, folder: Path) -> None:
    """Make the folder of a run, or check that an existing folder was made with the same settings.

    Settings that identify no trial, such as the list of seeds, may differ.
    """
    wanted = json.loads(json.dumps(identity(config)))
    settings = json.loads(json.dumps(recorded(config)))
    path = folder / "config.json"
    if path.exists():
        found = json.loads(path.read_text())
        unknown = found.keys() - {field.name for field in dataclasses.fields(config)}
        if unknown:
            raise ValueError(
                f"{folder} holds a run of another experiment, or of an older version: it has the setting "
                f"{min(unknown)!r}; give another --out"
            )
        difference = _difference(wanted, found)
        if difference:
            name, there, here = difference
            raise ValueError(
                f"{folder} holds a run with {name}={there!r}; this run has {here!r}; "
                "give another --out, or remove that folder"
            )
        if found == settings:
            return
    write_json(path, settings)


def _difference(wanted: dict, found: dict, prefix: str = "") -> tuple[str, Any, Any] | None:
    """The first setting that differs: its name, the found value and the wanted value."""
    for name, here in sorted(wanted.items()):
        there = found.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            inner = _difference(here, there, f"{prefix}{name}.")
            if inner:
                return inner
        elif here != there:
            return prefix + name, there, here
    return None


@contextmanager
def my_turn(folder: Path) -> Iterator[None]:
    """Wait until no other shard works on a part of the run that several shards share, such as a network.

    The other shard has then finished this part, which is found and not made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None or jax.process_count() > 1:  # several processes of one run work on it together
        yield
        return
    with (folder.parent / f".{folder.name}.turn").open("a") as file:
        with suppress(OSError):  # file systems without locks
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def stage(folder: Path, compute: Callable[[], tuple[dict[str, Any], dict[str, np.ndarray]]]) -> tuple[dict, dict]:
    """The result of `compute() -> (numbers, arrays)`, kept in `folder` and read from there the next time."""
    found = _finished(folder)
    if not agreed(found is not None):
        with my_turn(folder):
            found = _finished(folder)  # another shard may have computed it meanwhile
            if not agreed(found is not None):
                values, tensors = compute()
                write_arrays(folder / "arrays.npz", tensors, compress=True)
                write_json(folder / "numbers.json", values)  # last: its presence says that the stage is complete
                agreed(True)  # the first process has written it
    numbers, arrays = folder / "numbers.json", folder / "arrays.npz"
    return found or (json.loads(numbers.read_text()), read_arrays(arrays))


def _finished(folder: Path) -> tuple[dict, dict] | None:
    """The numbers and arrays of a stage, or None if there are none or they are damaged."""
    numbers, arrays = folder / "numbers.json", folder / "arrays.npz"
    if not (numbers.exists() and arrays.exists()):
        return None
    try:
        return json.loads(numbers.read_text()), read_arrays(arrays)
    except ValueError as error:
        warnings.warn(f"{folder} is damaged ({error}); it is computed again", stacklevel=3)
        return None


def publish(run: Path, results: Path = RESULTS) -> Path:
    """Copy the table, config, environment and figures of a run to the folder of published results."""
    missing = [name for name in ("table.json", "config.json", "environment.json") if not (run / name).exists()]
    if missing:
        raise ValueError(f"{run} is not a finished run: {', '.join(missing)} is missing; finish the run first")
    about = json.loads((run / "environment.json").read_text())
    module = about["command"].split()[2].removeprefix("experiments.")
    target = results / module.replace(".", "/") / run.name
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for path in [
        run / "table.json",
        run / "table.md",
        run / "config.json",
        run / "environment.json",
        *sorted((run / "figures").glob("*.png")),
    ]:
        shutil.copy2(path, target / path.name)
    return target
