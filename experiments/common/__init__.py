"""The framework of all experiments: presets, the command line, trials, the folder of a run, tables, and devices.

The folder of a run has `config.json`, `environment.json`, `table.json`, `table.md`, `figures/`, and one folder for each
trial with its `numbers.json` and `arrays.npz`. A complete trial is not computed again, so the same command on the same
folder continues an interrupted run, and one more seed adds one trial.
"""

from experiments.common._command_line import Options, execute, main
from experiments.common._experiment import Experiment
from experiments.common._folder import RESULTS, open_run, publish, stage
from experiments.common._machine import environment, use_all_cores
from experiments.common._pages import published, stale, write_pages
from experiments.common._rows import Row, measured, row, table_markdown
from experiments.common._settings import axis, for_figures, for_machine
from experiments.common._training import Train, train
from experiments.common._trials import Results, grid

__all__ = [
    "RESULTS",
    "Experiment",
    "Options",
    "Results",
    "Row",
    "Train",
    "axis",
    "environment",
    "execute",
    "for_figures",
    "for_machine",
    "grid",
    "main",
    "measured",
    "open_run",
    "publish",
    "published",
    "row",
    "stage",
    "stale",
    "table_markdown",
    "train",
    "use_all_cores",
    "write_pages",
]
