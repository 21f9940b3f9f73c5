"""`python -m experiments`: list the experiments, run the quickstart, publish a run, write the pages of results."""

import importlib
import json
import pkgutil
import sys
import textwrap
from functools import partial
from pathlib import Path

import experiments
from experiments import common

USAGE = """usage: python -m experiments COMMAND

  quickstart [preset] [--field value ...]   exact metamers on real digits, in two minutes
  list [--json]                             every experiment: paper item, command, presets, first result
  draw RUN                                  draw the figures of a finished run again; nothing is computed
  publish RUN                               copy a finished run's table and figures to experiments/results/
  report                                    write the pages of experiments/results/ and the table of the README

or one experiment: python -m experiments.PAPER.RESULT [smoke|default|paper] [--field value ...] [--out FOLDER]"""


def find() -> list[common.Experiment]:
    """All experiments: the modules of this package that define EXPERIMENT."""
    names = [
        m.name for m in pkgutil.walk_packages(experiments.__path__, "experiments.") if not m.name.endswith("__main__")
    ]
    modules = [importlib.import_module(name) for name in sorted(names) if ".benchmarks" not in name]
    return [module.EXPERIMENT for module in modules if hasattr(module, "EXPERIMENT")]


def titles() -> dict[str, str]:
    """The heading of each result, by "paper/result"."""
    return {experiment.name: experiment.item for experiment in find()}


def headline(experiment: common.Experiment, results: Path = common.RESULTS) -> dict | None:
    """The first row of the published table, or None. The default preset and MNIST come first."""
    found = common.published(results, {experiment.name: experiment.item})
    return found[0].runs[0].rows[0]._asdict() | {"run": found[0].runs[0].name} if found else None


def list_experiments(as_json: bool, results: Path = common.RESULTS) -> None:
    """Print a few short lines for each experiment, or everything as JSON."""
    found = find()
    if as_json:
        keys = "name", "command", "item", "presets", "headline"
        values = [(e.name, e.command, e.item, e.durations, headline(e, results)) for e in found]
        print(json.dumps([dict(zip(keys, line, strict=True)) for line in values], indent=1))
        return
    wrap = partial(textwrap.fill, width=100, initial_indent="    ", subsequent_indent="    ")
    for e in found:
        best = headline(e, results)
        result = "no result published yet"
        if best:
            row = common.Row(**{name: best[name] for name in common.Row._fields})
            published = f" (published {row.published:g} {row.unit})" if row.published is not None else ""
            result = f"{row.name}: {common.measured(row)}{published}, {best['run']}"
        presets = ", ".join(f"{name} ({time})" for name, time in e.durations.items())
        print(textwrap.fill(e.item, 100), f"    {e.command}", wrap(presets), wrap(result), "", sep="\n")


def main(arguments: list[str]) -> None:
    """Run the command of the command line."""
    try:
        _run(arguments)
    except ValueError as error:
        raise SystemExit(f"ValueError: {error}") from error


def _run(arguments: list[str]) -> None:
    match arguments:
        case ["list"] | ["list", "--json"]:
            list_experiments("--json" in arguments)
        case ["publish", run]:
            print(common.publish(Path(run)))
        case ["draw", run]:
            try:
                about = json.loads(Path(run, "environment.json").read_text())
                module = importlib.import_module(about["command"].split()[2])
                print("\n".join(map(str, common.draw_again(module.EXPERIMENT, Path(run)))))
            except FileNotFoundError as error:
                raise ValueError(f"{run} is not a finished run: {error.filename} is missing") from error
        case ["report"]:
            changed = common.write_pages(titles())
            print("\n".join(map(str, changed)) or "all pages are up to date")
        case ["quickstart", *rest]:
            from experiments.quickstart import EXPERIMENT

            common.use_all_cores()
            common.main(EXPERIMENT, rest)
        case ["-h" | "--help"]:
            print(USAGE)
        case _:
            raise SystemExit(USAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
