"""Error of the logits against the error of the best head on the nuisance: all runs in one figure.

    python -m experiments.excessive_invariance.pareto [smoke|default] [--dataset digits|mnist] [--runs FOLDER ...]

This experiment reads the tables of finished runs of `metamers` and `nuisance_classifier`: the published runs, or those
in the given folders. For each training it shows the test error of the logits and that of the best head, which is the
head with the lowest error. It trains nothing.
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal, NamedTuple

from experiments import common
from invjax import figures

SOURCES = ("metamers", "nuisance_classifier")
LOGITS, HEAD = ": test error of the logits", ": test error of a fresh "


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the figure of all trainings."""

    dataset: Literal["digits", "mnist"] = "mnist"
    """Data set of the published runs to show."""
    runs: tuple[str, ...] = ()
    """Folders of finished runs; without any, the published runs are shown."""


PRESETS = {"smoke": Config(), "default": Config()}


class Point(NamedTuple):
    """One training of one run: its name, the row of the test error of its logits, and that of the best head."""

    name: str
    logits: common.Row
    head: common.Row


def points(run: Path) -> list[Point]:
    """All trainings of a run.

    Raises:
        ValueError: the folder has no table, or one without fresh heads.
    """
    if not (run / "table.json").exists():
        raise ValueError(f"{run} has no table.json: give the folders of finished runs")
    rows = [common.Row(**row) for row in json.loads((run / "table.json").read_text())]
    found = []
    for logits in (row for row in rows if row.name.endswith(LOGITS)):
        loss = logits.name.removesuffix(LOGITS)
        heads = [row for row in rows if row.name.startswith(loss + HEAD)]
        if heads:
            found.append(Point(f"{run.parent.name} {run.name}, {loss}", logits, min(heads, key=lambda r: r.measured)))
    if not found:
        raise ValueError(f"{run} has no fresh heads in its table: give runs of {' or '.join(SOURCES)}")
    return found


def published(source: str, dataset: str) -> list[Path]:
    """The folders of published runs of an experiment."""
    tables = (common.RESULTS / "excessive_invariance" / source).glob(f"*{dataset}*/table.json")
    return [path.parent for path in sorted(tables)]


def run(config: Config, folder: Path) -> list[common.Row]:
    """Collect the points, draw them, and return them as a table."""
    given = [Path(name) for name in config.runs]
    runs = given or [path for source in SOURCES for path in published(source, config.dataset)]
    if not runs:
        raise ValueError(f"no published run of {config.dataset}: name finished ones by --runs FOLDER ...")
    found = [point for path in runs for point in points(path)]
    chart = figures.pareto(
        {p.name: ((p.logits.measured, p.logits.spread or 0.0), (p.head.measured, p.head.spread or 0.0)) for p in found},
        target={"published, iCE": (0.38, 27.70)} if config.dataset == "mnist" else {},
        ceiling=90.0,
        xlabel="test error of the logits, %",
        ylabel="test error of the best fresh head, %",
        title=f"{config.dataset}: a good decision (left) and a nuisance that says nothing of the class (up)",
    )
    figures.save(chart, folder / "figures" / "pareto.png")
    return [row._replace(name=f"{p.name.split(',')[0]}, {row.name}") for p in found for row in (p.logits, p.head)]


EXPERIMENT = common.Experiment(
    name="excessive_invariance/pareto",
    item="P1, beyond: error of the logits against the best fresh head's on the nuisance, one point a training",
    presets=PRESETS,
    times={"smoke": "a second", "default": "a second"},
    run=run,
)


if __name__ == "__main__":
    common.main(EXPERIMENT)
