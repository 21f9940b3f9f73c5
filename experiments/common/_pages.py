"""The pages of results, written from published tables, figures and notes, so that no number is typed twice.

`experiments/results/` holds for each result `<paper>/<result>/notes.md` and, for each published run, a folder with
`table.json`, `environment.json` and figures. From these files this module writes one page a paper, an index of all
results, a page of benchmarks, and the headline table of the README.

The first paragraph of `notes.md` is the finding; the index shows it. A line `headline: name of a row` before it chooses
the row that the index shows. In all notes `{{name of a row}}` stands for the measured number of this row, and
`{{RUN: name of a row}}` for that of another run of the same result.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common._folder import RESULTS
from experiments.common._rows import Row, cell, machine, measured
from invjax.data import write_file

README = RESULTS.parents[1] / "README.md"
PAPERS = {
    "quickstart": "Quickstart",
    "excessive_invariance": "Excessive Invariance Causes Adversarial Vulnerability (Jacobsen et al. 2019)",
    "intriguing_properties": "Intriguing Properties of Adversarial Examples (Cubuk et al. 2018)",
    "features_not_bugs": "Adversarial Examples Are Not Bugs, They Are Features (Ilyas et al. 2019)",
    "invariance_tradeoffs": "Fundamental Tradeoffs between Invariance and Sensitivity (Tramèr et al. 2020)",
    "sensitivity": "Sensitivity",
}
"""The titles of the pages, by the folder of the experiments."""
GENERATED = "<!-- written by `python -m experiments report`; edit notes.md of a result instead -->\n"
HEADLINES = "<!-- headlines -->"


class Run(NamedTuple):
    """A published run."""

    name: str  # the name of its folder, such as "default-mnist"
    rows: list[Row]
    environment: dict[str, Any]  # its command, date, machine and versions
    figures: list[Path]


class Result(NamedTuple):
    """A published result."""

    name: str  # "paper/result"
    title: str  # the heading of its section
    notes: str  # the text of its `notes.md`, without its headline
    headline: Row  # the row of the first run that stands for the result
    runs: list[Run]  # its published runs; those of the default preset and MNIST come first


def published(folder: Path, titles: dict[str, str]) -> list[Result]:
    """All published results, in the order of the papers and of `titles`, the headings by "paper/result"."""

    def order(run: Path) -> tuple:
        return not run.name.startswith("default-"), "mnist" not in run.name, run.name

    found = []
    for name, title in titles.items():
        tables = sorted((path.parent for path in (folder / name).glob("*/table.json")), key=order)
        if not tables:
            continue
        runs = [
            Run(
                run.name,
                [Row(**entry) for entry in json.loads((run / "table.json").read_text())],
                json.loads((run / "environment.json").read_text()),
                sorted(run.glob("*.png")),
            )
            for run in tables
        ]
        found.append(_result(name, title, folder / name / "notes.md", runs))
    papers = list(PAPERS)
    return sorted(found, key=lambda result: papers.index(result.name.partition("/")[0]))


def _result(name: str, title: str, path: Path, runs: list[Run]) -> Result:
    notes = path.read_text() if path.exists() else ""
    rows = {row.name: row for row in runs[0].rows}
    if notes.startswith("headline: "):
        first, _, notes = notes.partition("\n")
        chosen = first.removeprefix("headline: ").strip()
        if chosen not in rows:
            raise ValueError(f"the headline of {path} is {chosen!r}, and {runs[0].name} has no such row")
        return Result(name, title, notes, rows[chosen], runs)
    published = (row for row in runs[0].rows if row.published is not None)
    return Result(name, title, notes, next(published, runs[0].rows[0]), runs)


def filled(result: Result) -> str:
    """The notes of a result with their numbers."""

    def number(match: re.Match) -> str:
        run, colon, name = match[1].partition(": ")
        runs = {run.name: run for run in result.runs}
        chosen, name = (runs[run], name) if colon and run in runs else (result.runs[0], match[1])
        rows = {row.name: row for row in chosen.rows}
        if name not in rows:
            raise ValueError(
                f"notes.md of {result.name} names {match[1]!r}, and {chosen.name} has no such row; it has "
                + "; ".join(rows)
            )
        return measured(rows[name])

    return re.sub(r"\{\{(.*?)\}\}", number, result.notes.strip())


def finding(result: Result) -> str:
    """The first paragraph of the notes, in one line."""
    return " ".join(filled(result).partition("\n\n")[0].split())


def anchor(name: str) -> str:
    """The anchor of a result in the page of its paper."""
    return name.rpartition("/")[2]


def section(result: Result, folder: Path) -> str:
    """The section of one result: notes, then each run with its command, table and figures."""
    lines = [f'<a id="{anchor(result.name)}"></a>', "", f"## {result.title}", "", filled(result) or "No notes yet.", ""]
    for run in result.runs:
        about = run.environment
        commit = f", commit {about['commit']}" if about.get("commit") else ""
        lines += [
            f"### {result.name}, {run.name}",
            "",
            f"`{about['command']}`",
            "",
            f"{machine(about)}{commit}",
            "",
            *(f"![{path.stem}]({path.relative_to(folder).as_posix()})\n" for path in run.figures),
            *table(run.rows),
            "",
        ]
    return "\n".join(lines)


def table(rows: list[Row]) -> list[str]:
    """The lines of a Markdown table. A column without any entry is left out."""
    expected = any(row.expected is not None for row in rows)
    differs = any(row.differs for row in rows)
    head = ["", "published", *(["expected"] if expected else []), "measured", *(["differs"] if differs else [])]
    lines = [line(head), "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"{row.name}, {row.unit}" if row.unit else row.name, cell(row.published, 4)]
        cells += [cell(row.expected, 4)] if expected else []
        cells += [measured(row, unit=False)] + ([row.differs] if differs else [])
        lines.append(line(cells))
    return lines


def line(cells: list[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def index(found: list[Result]) -> str:
    """The index of all results: a line for each, with its first published number."""
    lines = [GENERATED, "# Results", ""]
    lines += ["| result | finding | published | measured | set-up |", "|---|---|---|---|---|"]
    for result in found:
        paper = result.name.partition("/")[0]
        run, row = result.runs[0], result.headline
        cells = [
            f"[{result.title}]({paper}.md#{anchor(result.name)})",
            finding(result),
            cell(row.published, 4),
            f"{row.name}: {measured(row)}",
            f"`{run.environment['command']}`",
        ]
        lines.append(line(cells))
    return "\n".join([*lines, "", "Benchmarks are on [their page](benchmarks.md).", ""])


def benchmarks(folder: Path) -> str:
    """The page of benchmarks: goal and measured ratio of each row, with the machine, date and load."""
    lines = [GENERATED, "# Benchmarks", ""]
    notes = folder / "benchmarks" / "notes.md"
    lines += [notes.read_text().strip(), ""] if notes.exists() else []
    for path in sorted((folder / "benchmarks").glob("*.json")):
        content = json.loads(path.read_text())
        about = content["environment"]
        load = f", load {about['load']:.2g}" if "load" in about else ""
        lines += [
            f"## {path.stem}",
            "",
            f"`{about['command']}`, {machine(about)}{load}",
            "",
            "| | goal | measured | reached |",
            "|---|---|---|---|",
        ]
        for row in content["rows"]:
            reached = {True: "yes", False: "**no**", None: ""}[row.get("met")]
            value = f"{cell(row['measured'])} {row.get('unit', '')}".strip()
            lines.append(f"| {row['name']} | {cell(row.get('goal'))} | {value} | {reached} |".replace("\n", " "))
        lines.append("")
    return "\n".join(lines)


def headlines(found: list[Result], chosen: list[dict[str, str]]) -> str:
    """The table of the README: the chosen rows, with links to their pages.

    Args:
        found: all results.
        chosen: for each line the `result`, the `row`, a `finding`, and the `run` if it is not the first one.
    """
    lines = ["| finding | published | measured | |", "|---|---|---|---|"]
    results = {result.name: result for result in found}
    for entry in chosen:
        name, runs = entry["result"], results[entry["result"]].runs if entry["result"] in results else []
        runs = [run for run in runs if run.name == entry.get("run", runs[0].name)]
        rows = [row for run in runs for row in run.rows if row.name == entry["row"]]
        if not rows:
            raise ValueError(
                f"headlines.json names {name, entry.get('run', ''), entry['row']}, which was not published"
            )
        page = f"experiments/results/{name.partition('/')[0]}.md#{anchor(name)}"
        published = f"{cell(rows[0].published, 4)} {rows[0].unit}".strip() if rows[0].published is not None else "–"
        lines.append(f"| {entry['finding']} | {published} | {measured(rows[0])} | [{runs[0].name}]({page}) |")
    return "\n".join(lines)


def pages(folder: Path, readme: Path, titles: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """All generated files and their content."""
    found = published(folder, titles)
    yield folder / "README.md", index(found)
    yield folder / "benchmarks.md", benchmarks(folder)
    for paper, title in PAPERS.items():
        sections = [section(result, folder) for result in found if result.name.partition("/")[0] == paper]
        if sections:
            yield folder / f"{paper}.md", "\n".join([GENERATED, f"# {title}", "", *sections])
    chosen = folder / "headlines.json"
    if chosen.exists():
        parts = readme.read_text().split(HEADLINES)
        if len(parts) != 3:
            raise ValueError(f"{readme.name} must have the line {HEADLINES} before and after its table of results")
        parts[1] = f"\n{headlines(found, json.loads(chosen.read_text()))}\n"
        yield readme, HEADLINES.join(parts)


def write_pages(
    titles: dict[str, str],
    folder: Path = RESULTS,
    readme: Path = README,
    write: Callable[[Path, str], Any] = write_file,
) -> list[Path]:
    """Write all pages, and return those that changed; `titles` are the headings by "paper/result"."""
    changed = []
    for path, text in list(pages(folder, readme, titles)):
        if not path.exists() or path.read_text() != text:
            changed.append(path)
            write(path, text)
    return changed


def stale(titles: dict[str, str], folder: Path = RESULTS, readme: Path = README) -> list[Path]:
    """The pages that differ from their sources."""
    return write_pages(titles, folder, readme, lambda path, text: None)
