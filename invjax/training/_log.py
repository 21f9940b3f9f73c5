"""The log of a training: `metrics.jsonl`, and TensorBoard event files where `tensorboardX` is installed.

`metrics.jsonl` has one JSON object a line, `{"step": 50, "loss": 0.31, ...}`; null stands for a number that is not
finite. The event files are in the folder
`tensorboard` beside it; `tensorboard --logdir runs` shows the trainings of all folders below it.
"""

import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from invjax._store import append_line, could_not_write, write_file

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
    write_file(path, "".join(_line(row) + "\n" for row in rows))
    if jax.process_index() != 0:
        return Log(rows, lambda row: None, lambda: None)
    add_events, close = _event_file(directory / "tensorboard", last_step)

    def add(row: Row) -> None:
        append_line(path, _line(row))
        add_events(row)

    return Log(rows, add, close)


def _line(row: dict[str, Any]) -> str:
    finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
    return json.dumps(finite, allow_nan=False)


def _event_file(folder: Path, last_step: int) -> tuple[Callable[[Row], None], Callable[[], None]]:
    """Functions that add a row to a TensorBoard event file and close it; they do nothing without `tensorboardX`.

    The `SummaryWriter` of tensorboardX would write in a thread, which ends when the disk is full. The training would
    then wait for ever for room in its queue.
    """
    try:
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter
    except ImportError:
        return lambda row: None, lambda: None

    def write(**content: Any) -> None:
        writer.write(Event(wall_time=time.time(), **content).SerializeToString())

    # the last step keeps apart files of the same second
    path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{last_step}"
    with _named_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        writer = RecordWriter(str(path))
        write(file_version="brain.Event:2")
        # TensorBoard hides what earlier processes wrote from this step on
        write(step=last_step + 1, session_log=SessionLog(status=SessionLog.START))
    flushed = time.monotonic()

    def add(row: Row) -> None:
        nonlocal flushed
        with _named_errors(path):
            for name in row.keys() - {"step"}:
                write(step=int(row["step"]), summary=summary.scalar(name, row[name]))
            if time.monotonic() > flushed + _FLUSH_SECONDS:
                writer.flush()
                flushed = time.monotonic()

    def close() -> None:
        with _named_errors(path):
            writer.close()

    return add, close


_FLUSH_SECONDS = 10
"""How often TensorBoard sees new rows."""


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise could_not_write(path, error) from error
