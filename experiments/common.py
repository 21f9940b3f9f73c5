"""The framework of all experiments: presets, the command line, the folder of a run, tables, and devices.

The folder of a run has `config.json`, `environment.json`, `table.json`, `table.md`, `figures/`, and one folder for each
stage with its `numbers.json` and `arrays.npz`. A complete stage is not run again, so the same command on the same
folder continues an interrupted run.
"""

import dataclasses
import datetime
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from invjax.data import read_arrays, write_arrays, write_file, write_json

RESULTS = Path(__file__).parent / "results"


class Experiment(NamedTuple):
    """One result of one paper.

    Attributes:
        name: "paper/result", also its place under `runs/` and `experiments/results/`.
        item: the figure or table of the paper.
        presets: by name, a frozen dataclass; "smoke", "default" and, where there is more to run, "paper".
        times: by preset, the running time and the machine.
        run: `(config, folder) -> rows`; it also draws the figures. `execute` does everything else.
    """

    name: str
    item: str
    presets: dict[str, Any]
    times: dict[str, str]
    run: Callable[[Any, Path], "list[Row]"]

    @property
    def command(self) -> str:
        """The command that runs the experiment, without a preset."""
        return f"python -m experiments.{self.name.replace('/', '.')}"


class Row(NamedTuple):
    """One row of a table: what was published, what was measured, and what differs between the two.

    Attributes:
        name: what is measured.
        published: the number in the paper, or None.
        measured: the mean over seeds.
        spread: the sample standard deviation over seeds; None for one seed.
        seeds: the number of seeds.
        unit: the unit, such as "%".
        differs: how the set-up differs from the published one.
    """

    name: str
    published: float | None
    measured: float
    spread: float | None
    seeds: int
    unit: str
    differs: str = ""


def row(name: str, published: float | None, values: Iterable[float], unit: str, differs: str = "") -> Row:
    """A `Row` from one value for each seed."""
    values = [float(value) for value in values]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Row(name, published, float(np.mean(values)), spread, len(values), unit, differs)


def use_all_cores() -> None:
    """On a CPU, make one JAX device for each core.

    XLA runs many convolutions on one thread, so experiments spread a batch over devices. The number of devices is a
    power of two and at most 8, which divides the usual batch sizes. Call this before anything else uses JAX. Later
    runs reuse the compiled programs, which are cached on disk.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(8, 1 << (cores.bit_length() - 1)))
    cache = Path(os.environ.get("INVJAX_CACHE", Path.home() / ".cache" / "invjax")) / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def environment(command: str) -> dict[str, Any]:
    """The command, date, machine and package versions of a run, for reproducing its numbers."""
    device = jax.devices()[0]
    names = ("invjax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.device_count()} x {_processor() if device.platform == 'cpu' else device.device_kind}",
        "platform": device.platform,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in names if _installed(name)},
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def open_run(config: Any, folder: Path) -> None:
    """Make the folder of a run, or check that an existing folder was made with the same settings.

    Raises:
        ValueError: the settings differ; the message names the first one that does.
    """
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    wanted.pop("data_dir", None)  # data_dir depends on the machine, so it does not identify a run
    path = folder / "config.json"
    if path.exists():
        found = json.loads(path.read_text())
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise ValueError(
                    f"{folder} holds a run with {name}={found.get(name)!r}; this run has {wanted.get(name)!r}; "
                    "give another --out, or remove that folder"
                )
    else:
        write_json(path, wanted)


def stage(folder: Path, compute: Callable[[], tuple[dict[str, Any], dict[str, np.ndarray]]]) -> tuple[dict, dict]:
    """The result of `compute() -> (numbers, arrays)`, kept in `folder` and read from there the next time."""
    numbers, arrays = folder / "numbers.json", folder / "arrays.npz"
    if not numbers.exists():
        values, tensors = compute()
        write_arrays(arrays, tensors, compress=True)
        write_json(numbers, values)  # last: its presence says that the stage is complete
    return json.loads(numbers.read_text()), read_arrays(arrays)


def _cell(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def table_markdown(rows: Iterable[Row], about: dict[str, Any]) -> str:
    """The table as Markdown, after a line with its command, machine, version and date."""
    lines = [
        f"`{about['command']}`, {about['device']}, JAX {about['packages']['jax']}, {about['date']}",
        "",
        "| | published | measured | unit | set-up differs in |",
        "|---|---|---|---|---|",
    ]
    for r in rows:
        spread = f" ± {_cell(r.spread, 2)} ({r.seeds} seeds)" if r.spread is not None else f" ({r.seeds} seed)"
        lines.append(f"| {r.name} | {_cell(r.published, 4)} | {_cell(r.measured)}{spread} | {r.unit} | {r.differs} |")
    return "\n".join(lines) + "\n"


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


def publish(run: Path) -> Path:
    """Copy the table, config, environment and figures of a run to `experiments/results/`.

    Raises:
        ValueError: the folder is not a finished run.
    """
    missing = [name for name in ("table.json", "config.json", "environment.json") if not (run / name).exists()]
    if missing:
        raise ValueError(f"{run} is not a finished run: {', '.join(missing)} is missing; finish the run first")
    about = json.loads((run / "environment.json").read_text())
    module = about["command"].split()[2].removeprefix("experiments.")
    target = RESULTS / module.replace(".", "/") / run.name
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for path in [
        run / "table.json",
        run / "table.md",
        run / "config.json",
        run / "environment.json",
        *sorted((run / "figures").glob("*.png")),
    ]:
        shutil.copy2(path, target / path.name)
    return target
