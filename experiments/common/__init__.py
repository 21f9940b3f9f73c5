"""The framework of all experiments: presets, the command line, trials, the folder of a run, tables, and devices.

The folder of a run has `config.json`, `environment.json`, `table.json`, `table.md`, `figures/`, and one folder for each
trial with its `numbers.json` and `arrays.npz`. A complete trial is not computed again, so the same command on the same
folder continues an interrupted run, and one more seed adds one trial.
"""

from experiments.common._command_line import Options, draw_again, execute, experiment, main
from experiments.common._experiment import Experiment
from experiments.common._folder import RESULTS, my_turn, open_run, publish, stage
from experiments.common._machine import environment, use_all_cores
from experiments.common._networks import (
    Arrays,
    accuracy,
    arrays_of,
    curve,
    ensemble,
    growing_loss,
    images_of,
    logits_of,
    network,
    on_bytes,
    plain_loss,
    shifted,
    threat,
    trained,
    withstood,
)
from experiments.common._pages import published, stale, write_pages
from experiments.common._rows import Row, measured, percent, row, table_markdown
from experiments.common._settings import Data, Flat, axis, first, for_figures, for_machine
from experiments.common._training import (
    OptimizerFn,
    Train,
    adam_cosine,
    adam_warm_up,
    advance,
    mesh_for,
    split_key,
    train,
)
from experiments.common._trials import Results, grid
