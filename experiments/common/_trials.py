"""Trials: the cells of an experiment's grid, each computed once and kept in a folder of its own."""

import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invjax.data import read_arrays, write_arrays, write_json

Axes = dict[str, Any]  # the place of a trial: the name of each axis and the value on it


def grid(**axes: Iterable[Any]) -> list[Axes]:
    """All combinations of the values of the axes; the last axis changes first.

    >>> grid(arm=["plain", "robust"], seed=[0, 1])[1]
    {'arm': 'plain', 'seed': 1}
    """
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


class Trial(NamedTuple):
    """One trial of a run."""

    axes: Axes  # its place
    folder: Path  # the folder that keeps its numbers and arrays

    @property
    def done(self) -> bool:
        """Whether the trial is complete; `numbers.json` is written last."""
        return all((self.folder / name).exists() for name in ("numbers.json", "arrays.npz"))

    @property
    def name(self) -> str:
        """The place in words, such as "arm=plain, seed=0"."""
        return ", ".join(f"{name}={value}" for name, value in self.axes.items())


def places(trials: Sequence[Axes], run: Path) -> list[Trial]:
    """The trials of a run with their folders."""
    if not trials:
        raise ValueError("the experiment has no trials; give at least one value on each axis")
    if len({tuple(axes) for axes in trials}) != 1:
        raise ValueError(f"all trials need the same axes; got {sorted({tuple(axes) for axes in trials})}")
    negative = [axes["seed"] for axes in trials if isinstance(axes.get("seed"), int) and axes["seed"] < 0]
    if negative:
        raise ValueError(f"seeds must not be negative; got {negative[0]}; use 0, 1, 2")
    found = [Trial(axes, run / "trials" / _folder_name(axes)) for axes in trials]
    folders = [trial.folder for trial in found]
    twice = [trial.name for trial in found if folders.count(trial.folder) > 1]
    if twice:
        raise ValueError(f"two trials have the same place: {twice[0]}; give each value on an axis once")
    return found


def _folder_name(axes: Axes) -> str:
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(f"{name}={value}" for name, value in axes.items()))


def chosen(trials: Sequence[Trial], only: Sequence[str] = (), shard: str | None = None) -> list[Trial]:
    """The trials to compute here.

    `only` has conditions "axis=value"; a trial must meet one condition for each axis that is named. `shard` is "i/n",
    the i-th of n parts of the chosen trials, counted from 1.
    """
    wanted: dict[str, set[str]] = {}
    for condition in only:
        name, equals, value = condition.partition("=")
        values = {str(trial.axes[name]) for trial in trials} if name in trials[0].axes else None
        if not equals or values is None:
            raise ValueError(f"--only needs AXIS=VALUE with an axis of {', '.join(trials[0].axes)}; got {condition!r}")
        if value not in values:
            raise ValueError(f"no trial has {condition}; the axis {name} has {', '.join(sorted(values))}")
        wanted.setdefault(name, set()).add(value)
    kept = [t for t in trials if all(str(t.axes[name]) in values for name, values in wanted.items())]
    if shard is None:
        return kept
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard needs I/N with 1 <= I <= N, such as 1/4; got {shard!r}")
    return kept[int(match[1]) - 1 :: int(match[2])]


def compute(
    trial: Trial, run: Callable[[], tuple[dict[str, Any], dict[str, np.ndarray]] | dict[str, Any]], settings: Any
) -> None:
    """Compute a trial and keep its numbers and arrays, and beside them the settings on which it depends."""
    start = time.monotonic()
    result = run()
    numbers, arrays = result if isinstance(result, tuple) else (result, {})
    write_arrays(trial.folder / "arrays.npz", arrays, compress=True)
    about = {"axes": trial.axes, "settings": settings, "seconds": round(time.monotonic() - start, 1)}
    write_json(trial.folder / "trial.json", about)
    write_json(trial.folder / "numbers.json", numbers)  # last: its presence says that the trial is complete


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and run again") from error


class Results:
    """Finished trials, selected by their places.

    `results["error"]` has a value for each trial, and `results["attacks", "pgd"]` goes into nested numbers. After
    `each("arm")` or `select(arm="plain")` the attribute `results.arm` is the value that all trials share.
    `results.by("arm", "error")` has the values of each arm.
    """

    def __init__(self, trials: Sequence[Trial]):
        self.trials = list(trials)

    def __len__(self) -> int:
        return len(self.trials)

    def __getattr__(self, axis: str) -> Any:
        if axis.startswith("_") or not self.trials or axis not in self.trials[0].axes:
            raise AttributeError(axis)
        values = self.values(axis)
        if len(values) > 1:
            raise AttributeError(f"these trials have several values of {axis}: {values}; use each() or select()")
        return values[0]

    def values(self, axis: str) -> list[Any]:
        """The values on an axis, in the order of the trials."""
        if axis not in self.trials[0].axes:
            raise ValueError(f"the axes are {', '.join(self.trials[0].axes)}; got {axis!r}")
        return list(dict.fromkeys(trial.axes[axis] for trial in self.trials))

    def select(self, **axes: Any) -> "Results":
        """The trials at these values."""
        for name in axes:
            self.values(name)
        found = [trial for trial in self.trials if all(trial.axes[name] == value for name, value in axes.items())]
        if not found:
            raise ValueError(f"no trial has {axes}; the first one has {self.trials[0].axes}")
        return Results(found)

    def each(self, *names: str) -> Iterator["Results"]:
        """The trials at each combination of values on some axes, in the order of the trials."""
        combinations = dict.fromkeys(tuple(trial.axes[name] for name in names) for trial in self.trials)
        for values in combinations:
            yield self.select(**dict(zip(names, values, strict=True)))

    def by(self, axis: str, *path: str) -> dict[Any, Any]:
        """By the values on an axis, the numbers at this key."""
        return {getattr(at, axis): at[path] for at in self.each(axis)}

    def __getitem__(self, path: str | tuple[str, ...]) -> Any:
        """The number at this key of each trial; a tuple goes into nested numbers.

        Returns:
            An array `[trials, ...]` of numbers, or a list of anything else.
        """
        found = []
        for trial in self.trials:
            value = _read_json(trial.folder / "numbers.json")
            for key in (path,) if isinstance(path, str) else path:
                if not isinstance(value, dict) or key not in value:
                    raise KeyError(f"{path!r} is no number of the trial {trial.name}")
                value = value[key]
            found.append(value)
        try:
            numbers = np.array(found)
        except ValueError:  # lists of different lengths
            return found
        return numbers if numbers.dtype.kind in "biuf" else found

    def arrays(self, count: int | None = None) -> dict[str, np.ndarray]:
        """The arrays of the first trial; with a count, the first rows of each."""
        arrays = read_arrays(self.trials[0].folder / "arrays.npz")
        return arrays if count is None else {name: values[:count] for name, values in arrays.items()}
