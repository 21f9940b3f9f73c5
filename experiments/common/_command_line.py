"""The command line of an experiment, and the run that it starts."""

import dataclasses
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_origin

import jax
import tyro

from experiments.common._experiment import Experiment
from experiments.common._folder import open_run
from experiments.common._machine import agreed, environment, join_processes, use_all_cores
from experiments.common._rows import Row, table_markdown
from experiments.common._settings import MACHINE, Flat, identity, name_of_data, of_trials, restored, role_of
from experiments.common._trials import Results, Trial, chosen, compute, grid, places
from invjax import figures
from invjax.data import write_file, write_json
from invjax.training import Interrupted


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of every run."""

    out: Path | None = None  # Folder of the run; by default runs/PAPER/RESULT/PRESET-DATASET.
    dry_run: bool = False  # Show the trials, and which of them are done, and compute nothing.
    only: tuple[str, ...] = ()  # Compute only the trials at these places, such as seed=0 arm=plain.
    shard: str | None = None
    """Compute the I-th of N parts of the trials, written I/N, to divide a run over machines with a common folder."""
    distributed: bool = False
    """Compute every trial on all machines of a pod of TPU VMs or of a Slurm job, each of which runs this command."""


def execute(experiment: Experiment, preset: str, config: Any, folder: Path, options: Options = Options()) -> list[Row]:
    """Run an experiment in `folder`, or continue an interrupted run, and write its table.

    A finished run in a folder that cannot be written is read.

    Returns:
        The rows of the table; none if there are trials left to compute.
    """
    trials = places(experiment.trials(config), folder)
    mine = chosen(trials, options.only, options.shard)
    if options.dry_run:
        print("\n".join(f"{'done ' if trial.done else 'to do'}  {trial.name}" for trial in mine))
        return []
    open_run(config, folder)
    if all(trial.done for trial in trials) and (folder / "table.json").exists() and not os.access(folder, os.W_OK):
        print((folder / "table.md").read_text())
        print(f"{folder} cannot be written: its table and figures stay as they are")
        return [Row(**entry) for entry in json.loads((folder / "table.json").read_text())]
    about = environment(_command(experiment, preset, config))
    run_trials(experiment, config, mine, folder)
    if jax.process_index() != 0:
        return []
    missing = [trial for trial in trials if not trial.done]
    if missing:
        print(f"{len(missing)} of {len(trials)} trials are left, the first one {missing[0].name}; no table yet")
        return []
    rows = draw(experiment, config, trials, folder)
    write_json(folder / "environment.json", about)
    write_json(folder / "table.json", [r._asdict() for r in rows])
    write_file(folder / "table.md", table_markdown(rows, about))
    print(f"\n{table_markdown(rows, about)}")
    for figure in sorted((folder / "figures").glob("*.png")):
        print(f"figure: {os.path.relpath(figure)}")
    print(f"table:  {os.path.relpath(folder / 'table.md')}")
    return rows


def run_trials(experiment: Experiment, config: Any, trials: Sequence[Trial], run: Path) -> None:
    """Compute the trials that are not done, those of a run in one folder."""
    left = [trial for trial in trials if not agreed(trial.done)]
    if not left:
        return
    data = experiment.data(config) if experiment.data else config.data.load() if hasattr(config, "data") else None
    settings, readable = identity(config), of_trials(config)
    shared = {"shared": run / "shared"} if "shared" in inspect.signature(experiment.trial).parameters else {}
    for number, trial in enumerate(left, 1):
        compute(trial, partial(experiment.trial, readable, data, folder=trial.folder, **shared, **trial.axes), settings)
        if jax.process_index() == 0:
            print(f"trial {number} of {len(left)} is done: {trial.name}", flush=True)
    agreed(True)  # the first process has written the last trial


def draw(experiment: Experiment, config: Any, trials: Sequence[Trial], folder: Path) -> list[Row]:
    """Draw the figures of finished trials, and give the table."""
    results = Results(trials)
    if experiment.figures is not None:
        for name, figure in experiment.figures(config, results).items():
            figures.save(figure, folder / "figures" / f"{name}.png")
    return list(experiment.table(config, results))


def draw_again(experiment: Experiment, folder: Path) -> list[Path]:
    """Draw the figures of a finished run again, with the code of today, and compute nothing."""
    default = next(iter(experiment.presets.values()))
    config = restored(default, json.loads((folder / "config.json").read_text()))
    trials = places(experiment.trials(config), folder)
    missing = [trial for trial in trials if not trial.done]
    if missing:
        raise ValueError(f"{folder} is not finished: {missing[0].name} is missing; run its command first")
    draw(experiment, config, trials, folder)
    return sorted((folder / "figures").glob("*.png"))


def _command(experiment: Experiment, preset: str, config: Any) -> str:
    changes = _changes(config, experiment.presets[preset])
    return " ".join([experiment.command, preset, *changes])


def _changes(config: Any, default: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        flag = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            found += _changes(value, usual, prefix if get_origin(field.type) is Annotated else f"{flag}.")
        elif value != usual and role_of(field) != MACHINE:
            found.append(f"--{flag} {' '.join(map(str, value)) if isinstance(value, tuple) else value}")
    return found


def main(experiment: Experiment, arguments: list[str] | None = None) -> list[Row]:
    """The command line: `[preset] [--field value ...] [--out FOLDER]`; the preset is optional."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    preset = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "default"
    if preset not in experiment.presets:
        raise SystemExit(f"preset must be one of {', '.join(experiment.presets)}; got {preset!r}")
    default = experiment.presets[preset]
    command = dataclasses.make_dataclass(
        "Command",
        [("settings", Flat[type(default)], default), ("options", Flat[Options], Options())],  # type: ignore[misc]
        frozen=True,
    )
    presets = "; ".join(f"{name} ({time})" for name, time in experiment.durations.items())
    given: Any = tyro.cli(
        command,
        args=arguments,
        prog=f"{experiment.command} {preset}",
        description=f"{experiment.item}. Presets: {presets}.",
    )
    config, options = given.settings, given.options
    if options.out == Path():
        raise SystemExit("--out must name a folder of its own; got '' or '.'; such as --out runs/mine")
    folder = options.out or Path("runs") / experiment.name / f"{preset}-{name_of_data(config)}"
    try:
        join_processes(options.distributed)
        return execute(experiment, preset, config, folder.expanduser(), options)
    except Interrupted as error:
        raise SystemExit(f"{error}; give the same command") from error
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


def experiment(module: str, times: Any = "", *, data: Callable[[Any], Any] | None = None, **axes: Any) -> Experiment:
    """The experiment that a module defines; its command line runs here if the module is the command.

    The module has `Config`, `PRESETS`, `trial`, `table`, and where it needs them `draw` for the figures, `datasets` for
    the data and `trials` for the places. The first paragraph of its docstring is the item of the experiment. The
    default preset is `Config()`, unless `PRESETS` has another one.

    Args:
        module: `__name__` of the module.
        times: the running time of the default preset, or of several presets by name, if they are not the usual ones.
        data: `datasets` of another module.
        axes: without `trials`, the axes of the grid before that of seeds: by name the values, or the name of the field
            that lists them.
    """
    found = sys.modules[module]

    def trials(config):
        listed = {name: getattr(config, of) if isinstance(of, str) else of for name, of in axes.items()}
        return grid(**listed, **({"seed": config.seeds} if hasattr(config, "seeds") else {}))

    made = Experiment(
        name=found.__spec__.name.removeprefix("experiments.").replace(".", "/"),  # type: ignore[union-attr]
        item=" ".join(str(found.__doc__).partition("\n\n")[0].split()).removesuffix("."),
        presets=dict.fromkeys(("smoke", "default"), found.Config()) | found.PRESETS,
        times={"default": times} if isinstance(times, str) else times,
        trials=getattr(found, "trials", trials),
        trial=found.trial,
        table=found.table,
        figures=getattr(found, "draw", None),
        data=data or getattr(found, "datasets", None),
    )
    if module == "__main__":
        use_all_cores()
        main(made)
    return made
