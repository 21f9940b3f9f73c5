"""What an experiment is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common._rows import Row


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
