"""The command line of an experiment."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from experiments.common._experiment import Experiment
from experiments.common._folder import open_run
from experiments.common._machine import environment
from experiments.common._rows import Row, table_markdown
from invjax.data import write_file, write_json


def execute(experiment: Experiment, preset: str, config: Any, folder: Path) -> list[Row]:
    """Run an experiment in `folder`, or continue an interrupted run, and write its table."""
    open_run(config, folder)
    changes = [
        f"--{field.name.replace('_', '-')} {_argument(getattr(config, field.name))}"
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(experiment.presets[preset], field.name) and field.name != "data_dir"
    ]
    about = environment(" ".join([experiment.command, preset, *changes]))
    rows = experiment.run(config, folder)
    write_json(folder / "environment.json", about)
    write_json(folder / "table.json", [r._asdict() for r in rows])
    write_file(folder / "table.md", table_markdown(rows, about))
    print(f"\n{table_markdown(rows, about)}")
    for figure in sorted((folder / "figures").glob("*.png")):
        print(f"figure: {os.path.relpath(figure)}")
    print(f"table:  {os.path.relpath(folder / 'table.md')}")
    return rows


def _argument(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def main(experiment: Experiment, arguments: list[str] | None = None) -> list[Row]:
    """The command line: `[preset] [--field value ...] [--out FOLDER]`; the preset is optional."""
    try:
        import tyro
    except ImportError as error:
        raise SystemExit('experiments need packages that are missing: pip install "invjax[experiments]"') from error
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    preset = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "default"
    if preset not in experiment.presets:
        raise SystemExit(f"preset must be one of {', '.join(experiment.presets)}; got {preset!r}")
    out = None
    if "--out" in arguments:
        at = arguments.index("--out")
        if at + 1 == len(arguments):
            raise SystemExit("--out needs a folder")
        out = Path(arguments[at + 1])
        del arguments[at : at + 2]
    default = experiment.presets[preset]
    description = f"{experiment.item}. Presets: " + "; ".join(f"{k} ({v})" for k, v in experiment.times.items())
    config = tyro.cli(
        type(default),
        default=default,
        args=arguments,
        prog=f"{experiment.command} {preset}",
        description=description + ". Also: --out FOLDER, the folder of the run.",
    )
    try:
        return execute(experiment, preset, config, out or Path("runs") / experiment.name / f"{preset}-{config.dataset}")
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
