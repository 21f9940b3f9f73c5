"""Trials: the grid of an experiment, its folders, parts of it, and results by axis."""

import dataclasses
import importlib.machinery
import importlib.util
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from experiments import common
from experiments.common import axis, for_figures, grid, row
from experiments.excessive_invariance import metamers
from invjax import training

REPOSITORY = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Train:
    """Settings of the training."""

    epochs: int = 1
    """Number of passes."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of an experiment that takes no time."""

    dataset: str = "digits"
    """Data set of the images."""
    train: Train = Train()
    """Training."""
    arms: tuple[str, ...] = axis(("plain", "robust"))
    """Arms of the experiment."""
    columns: int = for_figures(8)
    """Columns of the figure."""
    seeds: tuple[int, ...] = axis((0, 1))
    """Random seeds."""


class Counted:
    """An experiment that counts what it computes; a trial on a place in `failing` raises."""

    def __init__(self):
        self.computed, self.loaded, self.failing = [], 0, ()
        presets = {"smoke": Config(), "default": Config(train=Train(9))}
        self.experiment = common.Experiment(
            metamers.EXPERIMENT.name, "figure 1", presets, {},
            trials=lambda config: grid(arm=config.arms, seed=config.seeds),
            trial=self.trial, table=self.table, data=self.data,
        )  # fmt: skip

    def data(self, config):
        self.loaded += 1
        return 100

    def trial(self, config, data, *, arm, seed, folder):
        self.computed.append((arm, seed))
        if (arm, seed) in self.failing:
            raise OSError("no space left on device")
        numbers = {"error": data + seed + 10 * (arm == "robust"), "attack": {"pgd": config.train.epochs}}
        return numbers, {"seed": np.full(2, seed)}

    def table(self, config, results):
        for at in results.each("arm"):
            yield row(f"{at.arm}: error", at["error"], "%")

    def run(self, folder, *arguments):
        self.computed.clear()
        return common.main(self.experiment, ["smoke", "--out", str(folder), *arguments])


@pytest.fixture
def counted():
    return Counted()


def test_a_grid_has_all_combinations_and_its_last_axis_changes_first():
    assert grid(arm="ab", seed=[0, 1]) == [
        {"arm": "a", "seed": 0}, {"arm": "a", "seed": 1}, {"arm": "b", "seed": 0}, {"arm": "b", "seed": 1},
    ]  # fmt: skip


def test_a_run_computes_each_trial_once(counted, tmp_path):
    rows = counted.run(tmp_path)
    assert [(r.name, r.measured, r.seeds) for r in rows] == [("plain: error", 100.5, 2), ("robust: error", 110.5, 2)]
    assert counted.computed == [("plain", 0), ("plain", 1), ("robust", 0), ("robust", 1)] and counted.loaded == 1
    assert counted.run(tmp_path) == rows and counted.computed == [] and counted.loaded == 1
    kept = json.loads((tmp_path / "trials" / "arm=plain,seed=0" / "trial.json").read_text())
    assert kept["axes"] == {"arm": "plain", "seed": 0} and kept["settings"] == {
        "dataset": "digits",
        "train": {"epochs": 1},
    }


def test_one_more_seed_adds_its_trials_and_a_setting_of_figures_adds_none(counted, tmp_path):
    counted.run(tmp_path)
    rows = counted.run(tmp_path, "--seeds", "0", "1", "2")
    assert counted.computed == [("plain", 2), ("robust", 2)] and rows[0].seeds == 3
    counted.run(tmp_path, "--columns", "5")
    assert counted.computed == [] and json.loads((tmp_path / "config.json").read_text())["columns"] == 5


def test_a_setting_of_the_trials_needs_another_folder(counted, tmp_path):
    counted.run(tmp_path)
    with pytest.raises(SystemExit, match=r"holds a run with train.epochs=1; this run has 3; give another --out"):
        counted.run(tmp_path, "--train.epochs", "3")
    assert counted.computed == []
    assert json.loads((tmp_path / "config.json").read_text())["train"] == {"epochs": 1}


def test_the_folder_of_another_experiment_is_refused(counted, tmp_path):
    (tmp_path / "config.json").write_text('{"dataset": "digits", "blocks": 3}')
    with pytest.raises(SystemExit, match="another experiment, or of an older version: it has the setting 'blocks'"):
        counted.run(tmp_path)


def test_two_shards_give_the_whole(counted, tmp_path, capsys):
    assert counted.run(tmp_path, "--shard", "1/2") == [] and counted.computed == [("plain", 0), ("robust", 0)]
    assert "2 of 4 trials are left, the first one arm=plain, seed=1" in capsys.readouterr().out
    assert not (tmp_path / "table.json").exists()
    rows = counted.run(tmp_path, "--shard", "2/2")
    assert counted.computed == [("plain", 1), ("robust", 1)]
    assert rows == Counted().run(tmp_path / "whole")


def test_only_computes_the_trials_at_a_place(counted, tmp_path):
    counted.run(tmp_path, "--only", "arm=robust", "seed=1")
    assert counted.computed == [("robust", 1)]


def test_a_dry_run_shows_the_trials_and_computes_nothing(counted, tmp_path, capsys):
    counted.run(tmp_path, "--only", "seed=0")
    capsys.readouterr()
    assert counted.run(tmp_path, "--dry-run") == [] and counted.computed == []
    assert capsys.readouterr().out.splitlines() == [
        "done   arm=plain, seed=0", "to do  arm=plain, seed=1",
        "done   arm=robust, seed=0", "to do  arm=robust, seed=1",
    ]  # fmt: skip
    counted.run(tmp_path / "new", "--dry-run")
    assert not (tmp_path / "new").exists()


def test_a_run_that_stops_in_a_trial_goes_on_with_this_trial(counted, tmp_path):
    counted.failing = [("robust", 0)]
    with pytest.raises(SystemExit, match="no space left"):
        counted.run(tmp_path)
    (tmp_path / "trials" / "arm=robust,seed=0").mkdir()
    (tmp_path / "trials" / "arm=robust,seed=0" / "arrays.npz").write_bytes(b"half written")
    counted.failing = ()
    assert counted.run(tmp_path) == Counted().run(tmp_path / "whole")
    assert counted.computed == [("robust", 0), ("robust", 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "size=1"], r"--only needs AXIS=VALUE with an axis of arm, seed; got 'size=1'"),
        (["--only", "seed"], r"--only needs AXIS=VALUE"),
        (["--only", "seed=7"], r"no trial has seed=7; the axis seed has 0, 1"),
        (["--shard", "3/2"], r"--shard needs I/N with 1 <= I <= N, such as 1/4; got '3/2'"),
        (["--shard", "0/2"], r"--shard needs"),
        (["--shard", "half"], r"--shard needs"),
        (["--seeds", "-1"], r"seeds must not be negative; got -1; use 0, 1, 2"),
        (["--seeds", "0", "0"], r"two trials have the same place: arm=plain, seed=0"),
        (["--seeds"], r"the experiment has no trials"),
    ],
)
def test_bad_places_are_refused_before_anything_is_computed(counted, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        counted.run(tmp_path / "run", *arguments)
    assert counted.computed == [] and not (tmp_path / "run").exists()


def test_results_are_selected_by_axis(counted, tmp_path):
    found = []
    counted.experiment = counted.experiment._replace(table=lambda config, results: found.append(results) or [])
    counted.run(tmp_path)
    (results,) = found
    assert len(results) == 4 and results.values("seed") == [0, 1]
    robust = results.select(arm="robust")
    assert robust.arm == "robust" and robust["error"].tolist() == [110, 111]
    assert robust["attack", "pgd"].tolist() == [1, 1] and robust["attack"] == [{"pgd": 1}] * 2
    assert [(at.seed, at["error"].tolist()) for at in results.each("seed")] == [(0, [100, 110]), (1, [101, 111])]
    assert {arm: values.tolist() for arm, values in results.by("arm", "attack", "pgd").items()} == {
        "plain": [1, 1], "robust": [1, 1]
    }  # fmt: skip
    np.testing.assert_array_equal(results.select(seed=1).arrays()["seed"], [1, 1])
    with pytest.raises(ValueError, match="the axes are arm, seed; got 'eps'"):
        results.select(eps=1)
    with pytest.raises(ValueError, match=r"no trial has {'seed': 9}"):
        results.select(seed=9)
    with pytest.raises(AttributeError, match="several values of seed"):
        _ = results.seed
    with pytest.raises(KeyError, match="is no number of the trial arm=plain, seed=0"):
        _ = results["accuracy"]


def test_a_trial_cannot_read_what_does_not_identify_it(counted, tmp_path):
    def trial(config, data, *, arm, seed, folder):
        return {"error": len(config.seeds)}

    counted.experiment = counted.experiment._replace(trial=trial)
    with pytest.raises(TypeError, match="a trial must not read 'seeds', a field of the role 'axis'"):
        counted.run(tmp_path)


@pytest.mark.slow
def test_the_example_of_the_contributors_page_runs(tmp_path, monkeypatch):
    text = (REPOSITORY / ".github" / "CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"```python\n(\"\"\"Does a wider.*?)```", text, re.DOTALL)
    assert len(example.splitlines()) <= 40
    path = tmp_path / "example.py"
    path.write_text(example.replace("epochs=5", "epochs=1"))
    spec = importlib.util.spec_from_file_location("example", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "example", module)  # where tyro looks for the docstrings
    spec.loader.exec_module(module)
    rows = common.main(module.EXPERIMENT, ["smoke", "--out", str(tmp_path)])
    assert [r.name for r in rows] == ["narrow: test error", "wide: test error"]
    assert all(0 < r.measured < 90 for r in rows) and (tmp_path / "figures" / "errors.png").exists()


def test_an_experiment_is_made_from_its_module(monkeypatch):
    module = types.ModuleType("experiments.paper.result", "The item\n of the paper.\n\nMore of it.")
    module.__spec__ = importlib.machinery.ModuleSpec("experiments.paper.result", None)
    vars(module).update(Config=Config, PRESETS={"smoke": Config(seeds=(5,)), "paper": Config()}, trial=len, table=max)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    made = common.experiment(module.__name__, "an hour", size=(1, 2), arm="arms")
    assert (made.name, made.item, made.command) == (
        "paper/result", "The item of the paper", "python -m experiments.paper.result"
    )  # fmt: skip
    assert [*made.presets] == ["smoke", "default", "paper"] and made.presets["default"] == Config()
    assert made.durations == {"smoke": "under a minute", "default": "an hour", "paper": "an accelerator, not run"}
    assert made.trials(Config()) == grid(size=[1, 2], arm=["plain", "robust"], seed=[0, 1])
    assert (made.trial, made.table, made.figures, made.data) == (len, max, None, None)
    module.trials, module.draw = (lambda config: grid(part=[0])), min
    made = common.experiment(module.__name__, {"smoke": "a second"}, data=sum)
    assert made.trials(Config()) == [{"part": 0}] and (made.figures, made.data) == (min, sum)
    assert made.durations["smoke"] == "a second"


def test_a_training_that_is_stopped_ends_the_run_with_one_line_and_goes_on(counted, tmp_path, capsys):
    def stopped(config, data, **place):
        raise training.Interrupted("stopped by SIGTERM after step 7; the same call goes on from there", None, None)

    stopping = counted.experiment._replace(trial=stopped)
    with pytest.raises(SystemExit, match=r"stopped by SIGTERM after step 7; .*; give the same command"):
        common.main(stopping, ["smoke", "--out", str(tmp_path)])
    assert counted.run(tmp_path) and len(counted.computed) == 4
    assert "trial 4 of 4 is done: arm=robust, seed=1" in capsys.readouterr().out


@pytest.mark.slow
def test_a_part_that_two_processes_share_is_made_once(tmp_path):
    program = """
import sys, time
from pathlib import Path
from experiments import common

def compute():
    with open(sys.argv[1] + "/made", "a") as file:
        file.write("once ")
    time.sleep(2)
    return {"error": 1.5}, {}

print(common.stage(Path(sys.argv[1]) / "shared" / "network", compute)[0]["error"])
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    both = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["1.5", "1.5"]
    assert (tmp_path / "made").read_text() == "once "


def test_a_finished_run_is_read_where_nothing_can_be_written(counted, tmp_path, read_only, capsys):
    rows = counted.run(tmp_path)
    with read_only():
        assert counted.run(tmp_path) == rows and counted.computed == []
    shown = capsys.readouterr().out
    assert "plain: error" in shown and "cannot be written: its table and figures stay as they are" in shown


def test_a_trial_without_its_arrays_is_computed_again_and_damaged_numbers_are_named(counted, tmp_path):
    rows = counted.run(tmp_path)
    (tmp_path / "trials" / "arm=plain,seed=1" / "arrays.npz").unlink()
    assert counted.run(tmp_path) == rows and counted.computed == [("plain", 1)]
    (tmp_path / "trials" / "arm=plain,seed=0" / "numbers.json").write_text('{"err')
    with pytest.raises(SystemExit, match=r"seed=0.numbers\.json is damaged .*; remove it and run again"):
        counted.run(tmp_path)
