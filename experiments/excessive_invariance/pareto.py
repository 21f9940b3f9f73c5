"""P1, beyond: error of the logits against the best fresh head's on the nuisance, one point a training.

This experiment reads the tables of finished runs of `metamers` and `nuisance_classifier`: the published runs, or those
in the given folders. For each training it shows the test error of the logits and that of the best head, which is the
head with the lowest error. It trains nothing.
"""

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any, Literal

from experiments import common
from experiments.excessive_invariance.published import MNIST_ERRORS
from invjax import figures

PAPER = common.RESULTS / "excessive_invariance"
SOURCES = ("metamers", "nuisance_classifier")
LOGITS, HEAD = ": test error of the logits", ": test error of a fresh "


@dataclasses.dataclass(frozen=True)
class Config:
    dataset: Literal["digits", "mnist"] = "mnist"  # Data set of the published runs to show.
    runs: tuple[str, ...] = common.axis(())  # Folders of finished runs; without any, the published runs are shown.


PRESETS = {"smoke": Config()}


def datasets(config: Config) -> dict[str, Path]:
    """The folders of the runs, by names that hold on all machines, such as "metamers/default-mnist"."""
    given = [Path(name).expanduser().resolve() for name in config.runs]
    given = given or [
        path.parent for of in SOURCES for path in sorted(PAPER.glob(f"{of}/*{config.dataset}*/table.json"))
    ]
    if not given:
        raise ValueError(f"no published run of {config.dataset}: name finished ones by --runs FOLDER ...")
    found: dict[str, Path] = {}
    for folder in given:
        name = f"{folder.parent.name}/{folder.name}"
        if not (folder / "table.json").exists():
            raise ValueError(f"{folder} has no table.json: give the folders of finished runs")
        if name in found:
            raise ValueError(f"two runs have the name {name}: {found[name]} and {folder}; rename one of the folders")
        found[name] = folder
    return found


def trials(config: Config):
    """The runs, each with a checksum of its table, so that a run with another table is read again."""
    return [
        {"run": name, "table": f"{zlib.crc32((folder / 'table.json').read_bytes()):08x}"}
        for name, folder in datasets(config).items()
    ]


def trial(config: Config, data, *, run, table, folder):
    """Of each training of a run, the row of the logits and that of the best head."""
    source, found = data[run], []
    rows = [common.Row(**row) for row in json.loads((source / "table.json").read_text())]
    for logits in (row for row in rows if row.name.endswith(LOGITS)):
        heads = [row for row in rows if row.name.startswith(logits.name.removesuffix(LOGITS) + HEAD)]
        if heads:
            found += [logits, min(heads, key=lambda row: row.measured)]
    if not found:
        raise ValueError(f"{source} has no fresh heads in its table: give runs of {' or '.join(SOURCES)}")
    name = run.replace("/", " ")
    return {"rows": [row._replace(name=f"{name}, {row.name}")._asdict() for row in found]}


def table(config: Config, results):
    """The rows of all trainings: that of the logits and that of the best head in turn."""
    return [common.Row(**row) for rows in results["rows"] for row in rows]


def draw(config: Config, results):
    rows = table(config, results)
    points: Any = {
        f"{x.name.removesuffix(LOGITS)}, {y.name.partition(HEAD)[2].removesuffix(' on the nuisance')}": tuple(
            (row.measured, row.spread or 0.0) for row in (x, y)
        )
        for x, y in zip(rows[::2], rows[1::2], strict=True)
    }
    goals = {loss: (MNIST_ERRORS[loss, "logits"]["test"], MNIST_ERRORS[loss, "MLP"]["test"]) for loss in ("CE", "iCE")}
    chart = figures.pareto(
        points,
        target={f"published, {loss}": at for loss, at in goals.items()} if config.dataset == "mnist" else {},
        ceiling=90.0,
        xlabel="test error of the logits, %",
        ylabel="test error of the best fresh head, %",
        title=f"{config.dataset}: good logits are on the left, a nuisance that hides the class is at the top",
    )
    return {"pareto": chart}


EXPERIMENT = common.experiment(__name__, "a second")
