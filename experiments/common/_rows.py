"""Rows of a table: what was published beside what was measured."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class Row(NamedTuple):
    """One row of a table: what was published, what was measured, and what differs between the two."""

    name: str  # what is measured
    published: float | None  # the number in the paper
    measured: float  # the mean over seeds
    spread: float | None  # the sample standard deviation over seeds; None for one seed
    seeds: int  # the number of seeds
    unit: str  # the unit, such as "%"
    differs: str = ""  # how the set-up differs from the published one
    expected: float | None = None  # the number of a closed form, or a goal


def row(
    name: str,
    values: Iterable[float],
    unit: str = "",
    differs: str = "",
    *,
    published: float | None = None,
    expected: float | None = None,
) -> Row:
    """A `Row` from one value for each seed."""
    values = [float(value) for value in values]
    # about the first value, so that the spread of equal numbers is exactly 0
    spread = float(np.std(np.subtract(values, values[0]), ddof=1)) if len(values) > 1 else None
    return Row(name, published, float(np.mean(values)), spread, len(values), unit, differs, expected)


def percent(name: str, fractions: Iterable[float], differs: str = "", **goals: float | None) -> Row:
    """A `Row` in percent from one fraction for each seed; the published or expected number is given in percent."""
    return row(name, [100 * float(value) for value in fractions], "%", differs, **goals)


def cell(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits; a dash for None."""
    return "–" if value is None else f"{value:.{digits}g}"


def measured(row: Row, unit: bool = True) -> str:
    """The measured number as text, with its spread, and with its unit or without."""
    spread = "" if row.spread is None else f" ± {cell(row.spread, 2)}"
    return f"{cell(row.measured)}{spread}" + (f" {row.unit}" if unit and row.unit else "")


def machine(about: dict[str, Any]) -> str:
    """The machine, the version of JAX and the date of a run."""
    return f"{about['device']}, JAX {about['packages']['jax']}, {about['date']}"


def table_markdown(rows: Iterable[Row], about: dict[str, Any]) -> str:
    """The table as Markdown, after a line with its command, machine, version and date."""
    lines = [
        f"`{about['command']}`, {machine(about)}",
        "",
        "| | published | measured | unit | set-up differs in |",
        "|---|---|---|---|---|",
    ]
    for r in rows:
        seeds = f" ({r.seeds} seeds)" if r.spread is not None else f" ({r.seeds} seed)"
        expected = [] if r.expected is None else [f"expected {cell(r.expected, 4)}"]
        differs = "; ".join([*expected, *([r.differs] if r.differs else [])])
        value = measured(r, unit=False) + seeds
        lines.append(f"| {r.name} | {cell(r.published, 4)} | {value} | {r.unit} | {differs} |")
    return "\n".join(lines) + "\n"
