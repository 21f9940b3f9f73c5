"""What an experiment is."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from experiments.common._rows import Row
from experiments.common._trials import Axes, Results

USUAL = {"smoke": "under a minute"}
"""The running time of a preset that an experiment does not give; other presets need an accelerator."""


class Experiment(NamedTuple):
    """One result of one paper: a grid of trials, what one trial measures, and what the results say.

    Attributes:
        name: "paper/result", also its place under `runs/` and `experiments/results/`.
        item: the figure or table of the paper, and what is measured.
        presets: by name, a frozen dataclass; "smoke", "default" and, where there is more to run, "paper".
        times: by preset, the running time and the machine, where they are not the usual ones.
        trials: `config -> places`, such as `grid(arm=ARMS, seed=config.seeds)`.
        trial: `(config, data, *, folder, **place) -> numbers` or `(numbers, arrays)`. Its `config` refuses to give the
            fields that list places on axes or concern figures. A trial with an argument `shared` also gets the folder
            that all trials of the run share, for a network that several of them need.
        table: `(config, results) -> rows`.
        figures: `(config, results) -> figures by name`.
        data: `config -> data`, loaded once, and only if there is a trial to compute; by default `config.data.load()`.
    """

    name: str
    item: str
    presets: dict[str, Any]
    times: dict[str, str]
    trials: Callable[[Any], list[Axes]]
    trial: Callable[..., Any]
    table: Callable[[Any, Results], Iterable[Row]]
    figures: Callable[[Any, Results], dict[str, Any]] | None = None
    data: Callable[[Any], Any] | None = None

    @property
    def command(self) -> str:
        """The command that runs the experiment, without a preset."""
        return f"python -m experiments.{self.name.replace('/', '.')}"

    @property
    def durations(self) -> dict[str, str]:
        """By preset, the running time and the machine."""
        usual = "an accelerator, not run"
        return {preset: self.times.get(preset, USUAL.get(preset, usual)) for preset in self.presets}
