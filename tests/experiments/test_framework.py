"""The framework of experiments: folders of runs, tables, stages, and the command line."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import __main__ as commands
from experiments import common
from experiments.excessive_invariance import metamers
from invjax import figures


@pytest.fixture(scope="module")
def found():
    return {experiment.name: experiment for experiment in commands.find()}


@dataclasses.dataclass(frozen=True)
class Tiny:
    """Settings of an experiment that takes no time."""

    dataset: str = "digits"
    """Which images."""
    data_dir: str | None = common.for_machine(None)
    """Where they are."""
    epochs: int = 1
    """Passes over them."""


def tiny_run(calls):
    """An experiment of one trial and one figure; each computation is counted in `calls`."""

    def trial(config, data, *, part, folder):
        calls.append(config)
        return {"error": 1.5}, {"image": np.ones((2, 2, 1))}

    def table(config, results):
        return [common.row("error", [*results["error"], 2.5], "%", "smaller", published=1.0)]

    def draw(config, results):
        return {"image": figures.image_grid({"an image": results.arrays()["image"][None]}, "One image")}

    presets = {"smoke": Tiny(), "default": Tiny(epochs=9)}
    return common.Experiment(metamers.EXPERIMENT.name, "figure 1", presets, {}, lambda config: common.grid(part=[0]),
                             trial, table, draw)  # fmt: skip


@pytest.fixture
def tiny(tmp_path):
    calls = []
    experiment, folder = tiny_run(calls), tmp_path / "smoke-digits"
    return experiment, folder, common.main(experiment, ["smoke", "--out", str(folder)]), calls


def test_all_experiments_are_found_and_have_the_presets_they_time(found):
    assert {"excessive_invariance/metamers", "quickstart"} <= found.keys()
    for experiment in found.values():
        assert {"smoke", "default"} <= experiment.presets.keys() == experiment.durations.keys()


def test_every_experiment_has_a_file_of_tests_that_runs_it_as_smoke(found):
    for name in found:
        *paper, result = name.split("/")
        text = Path(__file__).parent.joinpath(*paper, f"test_{result}.py").read_text()
        assert "check_promises(smoke)" in text, name


def test_a_run_leaves_a_table_a_config_and_an_environment(tiny):
    _, folder, rows, _ = tiny
    table = json.loads((folder / "table.json").read_text())
    assert [common.Row(**entry) for entry in table] == rows
    assert set(table[0]) == {"name", "published", "measured", "spread", "seeds", "unit", "differs", "expected"}
    assert json.loads((folder / "config.json").read_text()) == {"dataset": "digits", "epochs": 1}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["command"] == "python -m experiments.excessive_invariance.metamers smoke"
    assert "| published | measured |" in (folder / "table.md").read_text()


def test_a_finished_run_is_not_computed_again(tiny):
    experiment, folder, rows, calls = tiny
    (folder / "figures" / "image.png").unlink()
    assert common.main(experiment, ["smoke", "--out", str(folder)]) == rows
    assert len(calls) == 1 and (folder / "figures" / "image.png").exists()


def test_other_settings_on_the_same_folder_are_refused_by_name(tiny):
    experiment, folder, *_ = tiny
    with pytest.raises(SystemExit, match=r"epochs=1; this run has 2"):
        common.main(experiment, ["smoke", "--epochs", "2", "--out", str(folder)])
    common.main(experiment, ["smoke", "--data-dir", "/elsewhere", "--out", str(folder)])


def test_the_command_of_a_run_names_the_settings_that_were_changed(tmp_path):
    common.main(tiny_run([]), ["smoke", "--epochs", "3", "--data-dir", "/elsewhere", "--out", str(tmp_path)])
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["command"] == "python -m experiments.excessive_invariance.metamers smoke --epochs 3"


def test_publish_copies_the_small_files_and_list_shows_them(tiny, found, tmp_path, capsys):
    _, folder, rows, _ = tiny
    results = tmp_path / "results"
    target = common.publish(folder, results)
    assert target == results / "excessive_invariance" / "metamers" / "smoke-digits"
    names = {"config.json", "environment.json", "table.json", "table.md", "image.png"}
    assert {path.name for path in target.iterdir()} == names
    capsys.readouterr()
    commands.list_experiments(as_json=True, results=results)
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["excessive_invariance/metamers"]["headline"]["measured"] == rows[0].measured
    assert listed["excessive_invariance/metamers"]["command"].startswith("python -m experiments.excessive_invariance")
    commands.list_experiments(as_json=False, results=results)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("    python -m experiments.") for line in lines) == len(found)
    assert max(map(len, lines)) <= 100
    assert "    error: 2 ± 0.71 % (published 1 %), smoke-digits" in lines


def test_the_headline_comes_from_the_default_preset(tiny, tmp_path):
    _, folder, rows, _ = tiny
    for number, run in enumerate(["another-mnist", "default-cifar10", "default-digits", "default-mnist"]):
        target = common.publish(folder, tmp_path / "results").rename(tmp_path / "results" / "moved")
        entries = [row._replace(measured=number)._asdict() for row in rows]
        (target / "table.json").write_text(json.dumps(entries))
        target.rename(tmp_path / "results" / metamers.EXPERIMENT.name / run)
        best = commands.headline(metamers.EXPERIMENT, tmp_path / "results")
        assert best["run"] == ["another-mnist", "default-cifar10", "default-cifar10", "default-mnist"][number]
        assert best["measured"] == [0, 1, 1, 3][number]


def test_publish_refuses_an_unfinished_run(tmp_path):
    with pytest.raises(SystemExit, match=r"table\.json.* missing; finish the run first"):
        commands.main(["publish", str(tmp_path)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smoke", "--out="], "--out must name a folder of its own; got '' or '.'; such as --out runs/mine"),
        (["huge"], "preset must be one of smoke, default, paper; got 'huge'"),
        (["smoke", "--dataset", "mnist", "--data-dir", "/nowhere"], "/nowhere"),
    ],
)
def test_the_command_line_refuses_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        common.main(metamers.EXPERIMENT, arguments)


def test_out_needs_a_folder_and_may_be_written_with_an_equals_sign(tiny, tmp_path, capsys):
    with pytest.raises(SystemExit):
        common.main(tiny[0], ["smoke", "--out"])
    assert "--out" in capsys.readouterr().err
    common.main(tiny[0], ["smoke", f"--out={tmp_path / 'there'}"])
    assert (tmp_path / "there" / "table.json").exists()


def test_an_unknown_command_prints_the_usage():
    with pytest.raises(SystemExit, match="usage: python -m experiments"):
        commands.main(["nonsense"])


def test_a_row_has_the_mean_and_the_sample_standard_deviation():
    row = common.row("a", [1.0, 2.0, 4.0], "%", published=1.0)
    assert row.measured == pytest.approx(7 / 3) and row.seeds == 3
    assert row.spread == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert common.row("a", [2.0]).spread is None


def test_the_table_shows_a_dash_where_nothing_was_published():
    about = {"command": "c", "device": "d", "packages": {"jax": "1"}, "date": "2000-01-01"}
    text = common.table_markdown([common.row("a", [0.5], "%")], about)
    assert "| a | – | 0.5 (1 seed) | % |  |" in text and "`c`, d, JAX 1, 2000-01-01" in text


def test_a_stage_that_is_cut_off_is_computed_again_and_a_complete_one_is_not(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"n": 3}, {"a": np.arange(3)}

    with pytest.raises(KeyboardInterrupt):
        common.stage(tmp_path, compute)
    for _ in range(2):
        numbers, arrays = common.stage(tmp_path, compute)
        assert numbers == {"n": 3} and arrays["a"].tolist() == [0, 1, 2]
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["numbers.json", "arrays.npz"])
def test_a_stage_that_is_damaged_is_computed_again(name, tmp_path):
    def compute():
        return {"n": 3}, {"a": np.arange(3)}

    common.stage(tmp_path, compute)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="is damaged .*; it is computed again"):
        numbers, arrays = common.stage(tmp_path, compute)
    assert numbers == {"n": 3} and arrays["a"].tolist() == [0, 1, 2]
    assert (tmp_path / name).read_bytes() == whole
