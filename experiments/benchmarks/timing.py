"""The framework of all benchmarks: it times candidates in turn in one process and prints ratios with their goals.

A ratio of two times is more reliable than either time, because both are measured on the same machine at nearly the same
moment. The candidates are called in turn (A B A B), each round gives one ratio, and the table has the median over
rounds.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax

from experiments import common
from invjax.data import write_json

PAUSE = 0.02
"""Seconds between two calls, in which the worker threads of the first candidate stop spinning."""


class Row(NamedTuple):
    """One row of the table of a benchmark.

    Attributes:
        name: name of the quantity, with the peer of a ratio.
        goal: largest value that meets the goal, or None if the row has no goal.
        measured: measured value, or None if it is not finite.
        unit: unit of the value; "x" is a ratio to the named peer.
        met: whether the value meets the goal, or None if the row has no goal.
    """

    name: str
    goal: float | None
    measured: float | None
    unit: str
    met: bool | None


def row(name: str, measured: float, unit: str = "x", goal: float | None = None) -> Row:
    """Make a `Row` and compare the measured value with its goal."""
    met = None if goal is None else bool(measured <= goal)
    return Row(name, goal, measured if math.isfinite(measured) else None, unit, met)


def alternate(
    candidates: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Call each candidate once as a warm-up, then all candidates in turn, `repeats` times.

    Args:
        candidates: functions without arguments; a call lasts until the arrays that it returns are ready.
        repeats: number of rounds.
        clock: clock in seconds; `time.process_time` suits short calls on one core of a busy machine.

    Returns:
        Seconds of each round, by name.
    """

    def call(name):
        time.sleep(PAUSE)
        start = clock()
        jax.block_until_ready(candidates[name]())
        return clock() - start

    for name in candidates:
        call(name)
    rounds = [{name: call(name) for name in candidates} for _ in range(repeats)]
    return {name: [times[name] for times in rounds] for name in candidates}


def ratio(times: dict[str, list[float]], name: str, peer: str) -> float:
    """The median over rounds of the time of `name` divided by that of `peer`."""
    return median(a / b for a, b in zip(times[name], times[peer], strict=True))


def milliseconds(name: str, times: Sequence[float]) -> Row:
    """A row with the median time of a candidate, without a goal."""
    return row(name, 1e3 * median(times), "ms")


def parse(doc: str, parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """The command line of a benchmark: `[--quick] [--out FILE]`."""
    parser = parser or argparse.ArgumentParser()
    parser.description = doc.partition("\n")[0]
    parser.add_argument(
        "--quick", action="store_true", help="run few repeats of small sizes, as a test and not as a measurement"
    )
    parser.add_argument("--out", type=Path, help="JSON file; default experiments/results/benchmarks/NAME.json, "
                        "or runs/benchmarks/NAME.json with --quick")  # fmt: skip
    options = parser.parse_args()
    options.load = os.getloadavg()[0]
    return options


def report(name: str, rows: Sequence[Row], options: argparse.Namespace, packages: Sequence[str] = ()) -> None:
    """Print the table as Markdown and write it as JSON.

    Args:
        name: name of the benchmark's module.
        rows: rows of the table.
        options: options from `parse`, with the load average at the start, since load makes times unreliable.
        packages: distributions beyond the library's own dependencies; the report lists their versions.
    """
    # the folders of data and results depend on the machine, so they are not settings
    named = ("--data-dir", "--out-dir", "--out", "--released")
    places = {i + ahead for i, word in enumerate(sys.argv) if word in named for ahead in (0, 1)}
    settings = [word for i, word in enumerate(sys.argv) if i and i not in places]
    about = common.environment(" ".join(["python -m experiments.benchmarks." + name, *settings]))
    about["load"] = options.load
    about["packages"] |= {package: metadata.version(package) for package in packages}
    versions = ", ".join(f"{package} {about['packages'][package]}" for package in ("jax", *packages))
    start = f"load average {options.load:.2g} at the start"
    print(f"`{about['command']}`, {about['device']}, {versions}, {about['date']}, {start}\n")
    print("| | goal | measured | met |\n|---|---|---|---|")
    for r in rows:
        goal = "" if r.goal is None else f"≤ {r.goal:.3g}"
        measured = "not finite" if r.measured is None else f"{r.measured:.3g} {r.unit}"
        print(f"| {r.name} | {goal} | {measured} | {'' if r.met is None else 'yes' if r.met else '**no**'} |")
    folder = Path("runs/benchmarks") if options.quick else common.RESULTS / "benchmarks"
    table = {"environment": about, "rows": [r._asdict() for r in rows]}
    write_json(options.out or folder / f"{name}.json", table)
