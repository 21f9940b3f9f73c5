"""`python -m experiments`: list the experiments, run the quickstart, publish a run."""

import importlib
import json
import pkgutil
import sys
from pathlib import Path

import experiments
from experiments import common

USAGE = """usage: python -m experiments COMMAND

  quickstart [preset] [--field value ...]   exact metamers on real digits, in two minutes
  list [--json]                             every experiment: command, paper item, presets, headline result
  publish RUN                               copy a finished run's table and figures to experiments/results/

or one experiment: python -m experiments.PAPER.RESULT [smoke|default|paper] [--field value ...] [--out FOLDER]"""


def find() -> list[common.Experiment]:
    """All experiments: the modules of this package that define EXPERIMENT."""
    names = [
        m.name for m in pkgutil.walk_packages(experiments.__path__, "experiments.") if not m.name.endswith("__main__")
    ]
    modules = [importlib.import_module(name) for name in sorted(names) if ".benchmarks" not in name]
    return [module.EXPERIMENT for module in modules if hasattr(module, "EXPERIMENT")]


def headline(experiment: common.Experiment) -> dict | None:
    """The first row of the published table, or None. The default preset and MNIST come first."""

    def order(path: Path) -> tuple:
        run = path.parent.name
        return not run.startswith("default-"), "mnist" not in run, path

    tables = sorted((common.RESULTS / experiment.name).glob("*/table.json"), key=order)
    return json.loads(tables[0].read_text())[0] | {"run": tables[0].parent.name} if tables else None


def list_experiments(as_json: bool) -> None:
    """Print one line for each result, or everything as JSON."""
    found = find()
    if as_json:
        lines = [
            {"name": e.name, "command": e.command, "item": e.item, "presets": e.times, "headline": headline(e)}
            for e in found
        ]
        print(json.dumps(lines, indent=1))
        return
    for e in found:
        presets = ", ".join(f"{name} ({time})" for name, time in e.times.items())
        best = headline(e)
        result = "no result published yet"
        if best:
            unit = f" {best['unit']}" if best["unit"] else ""
            published = f" (published {best['published']:g}{unit})" if best["published"] is not None else ""
            result = f"{best['name']} {best['measured']:.3g}{unit}{published}, {best['run']}"
        print(f"{e.command}  |  {e.item}  |  {presets}  |  {result}")


def main(arguments: list[str]) -> None:
    """Run the command of the command line."""
    match arguments:
        case ["list"] | ["list", "--json"]:
            list_experiments("--json" in arguments)
        case ["publish", run]:
            try:
                print(common.publish(Path(run)))
            except ValueError as error:
                raise SystemExit(f"ValueError: {error}") from error
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
