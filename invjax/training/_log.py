"""The log of a training: `metrics.jsonl`, and TensorBoard event files where `tensorboardX` is installed.

`metrics.jsonl` has one JSON object a line, `{"step": 50, "loss": 0.31, ...}`; null stands for a number that is not
finite. The event files are in the folder
`tensorboard` beside it; `tensorboard --logdir runs` shows the trainings of all folders below it.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from invjax._store import write_file

Row = dict[str, float | int]
"""Scalars by name, with their "step"."""

_FILE = "metrics.jsonl"


class Log(NamedTuple):
    """An open log.

    Attributes:
        rows: the rows of earlier calls.
        add: adds a row.
        close: ends the writer of event files.
    """

    rows: list[Row]
    add: Callable[[Row], None]
    close: Callable[[], None]


def read_log(directory: Path | None, last_step: int) -> list[Row]:
    """The rows up to a step; a number that is not finite is NaN."""
    path = None if directory is None else directory / _FILE
    if path is None or not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [
        {name: math.nan if value is None else value for name, value in row.items()}
        for row in rows
        if row["step"] <= last_step
    ]


def open_log(directory: Path | None, last_step: int) -> Log:
    """Open the log of a training that goes on from a step.

    Rows after `last_step` are removed, because these steps run again.

    Args:
        directory: folder of the log; None keeps nothing.
        last_step: the number of steps that are done.
    """
    if directory is None:
        return Log([], lambda row: None, lambda: None)
    path, rows = directory / _FILE, read_log(directory, last_step)
    write_file(path, "".join(map(_line, rows)))
    events = _event_writer(directory / "tensorboard", last_step)

    def add(row: Row) -> None:
        if jax.process_index() != 0:
            return
        with path.open("a") as file:
            file.write(_line(row))
        if events is not None:
            for name in row.keys() - {"step"}:
                events.add_scalar(name, row[name], row["step"])

    return Log(rows, add, lambda: None if events is None else events.close())


def _line(row: dict[str, Any]) -> str:
    finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _event_writer(folder: Path, last_step: int) -> Any:
    """A writer of TensorBoard event files, or None without `tensorboardX`."""
    if jax.process_index() != 0:
        return None
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    # TensorBoard hides what earlier processes wrote after this step; the suffix keeps apart files of the same second
    return SummaryWriter(str(folder), purge_step=last_step + 1, flush_secs=10, filename_suffix=f".{last_step}")
