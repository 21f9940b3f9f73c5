"""`tests/experiments/<paper>/test_<result>.py` belongs to `experiments/<paper>/<result>.py`.

Each experiment runs its smoke preset once, for all tests of its file, and keeps the promises that every experiment
makes. A file of tests may define `ARGUMENTS`, further flags of its smoke run.
"""

import contextlib
import importlib
import io
import json
import math
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from experiments import common
from experiments.common._settings import name_of_data


class Smoke(NamedTuple):
    """A finished run of a smoke preset."""

    experiment: common.Experiment
    arguments: list[str]
    folder: Path
    rows: list[common.Row]

    @property
    def table(self) -> dict[str, common.Row]:
        return {row.name: row for row in self.rows}

    @property
    def measured(self) -> dict[str, float]:
        return {row.name: row.measured for row in self.rows}

    @property
    def pictures(self) -> set[str]:
        return {path.stem for path in (self.folder / "figures").glob("*.png")}

    def again(self) -> list[common.Row]:
        """The rows of the same command on the same folder."""
        return common.main(self.experiment, self.arguments)


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    """Experiments see two devices, as on two cores: the eight of the tests make small batches slow."""
    devices = jax.devices()[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *backend: devices)
        patch.setattr(jax, "device_count", lambda *backend: len(devices))
        yield


@pytest.fixture(scope="module")
def smoke(request, tmp_path_factory) -> Smoke:
    """The smoke run of the experiment to which a file of tests belongs."""
    parts = request.path.relative_to(Path(__file__).parent).with_suffix("").parts
    name = ".".join(part.removeprefix("test_") for part in parts)
    experiment, folder = importlib.import_module(f"experiments.{name}").EXPERIMENT, tmp_path_factory.mktemp("run")
    arguments = ["smoke", *getattr(request.module, "ARGUMENTS", []), "--out", str(folder)]
    preset = experiment.presets["smoke"]
    if name_of_data(preset) == "mnist" and (hasattr(preset, "data") or hasattr(preset, "data_dir")):
        arguments += ["--data-dir", str(request.getfixturevalue("shared_data"))]
    return Smoke(experiment, arguments, folder, common.main(experiment, arguments))


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def kept(folder: Path) -> dict[Path, int]:
    """The files of all finished trials, with the time of their last change."""
    trials = [path.parent for path in folder.rglob("numbers.json")]
    return {path: path.stat().st_mtime_ns for trial in trials for path in trial.iterdir() if path.is_file()}


def left(smoke: Smoke, *arguments: str) -> list[str]:
    """The trials that a run with these further flags would compute."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        common.main(smoke.experiment, [*smoke.arguments, *arguments, "--dry-run"])
    return [line.removeprefix("to do").strip() for line in shown.getvalue().splitlines() if line.startswith("to do")]


def check_files(smoke: Smoke) -> None:
    """A table of finite rows with different names, the settings, the command, and figures."""
    experiment, folder, rows = smoke.experiment, smoke.folder, smoke.rows
    assert [common.Row(**entry) for entry in json.loads((folder / "table.json").read_text())] == rows
    assert rows and all(math.isfinite(row.measured) and row.seeds >= 1 for row in rows)
    assert len(smoke.table) == len(rows), "two rows have one name"
    assert "| published | measured |" in (folder / "table.md").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert "data_dir" not in config and "data_dir" not in config.get("data", {})
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["command"].startswith(f"{experiment.command} smoke")
    sizes = [png_size(folder / "figures" / f"{name}.png") for name in smoke.pictures]
    assert all(min(size) > 150 for size in sizes)  # the narrowest shows two images side by side


def check_again(smoke: Smoke) -> None:
    """The same command computes nothing, `draw` makes all figures, and unknown flags are refused."""
    before, pictures = kept(smoke.folder), smoke.pictures
    assert smoke.again() == smoke.rows and kept(smoke.folder) == before, "the second run computed something"
    for name in pictures:
        (smoke.folder / "figures" / f"{name}.png").unlink()
    common.draw_again(smoke.experiment, smoke.folder)
    assert smoke.pictures == pictures, "figures are functions of the kept arrays"
    with pytest.raises(SystemExit):
        common.main(smoke.experiment, [*smoke.arguments, "--no-such-setting", "1"])
    with pytest.raises(SystemExit, match="preset must be one of"):
        common.main(smoke.experiment, ["huge"])


def check_grows(smoke: Smoke) -> None:
    """One more seed adds trials of this seed only, and one of them is computed beside the others."""
    seeds = [str(seed) for seed in smoke.experiment.presets["smoke"].seeds]
    more = ["--seeds", *seeds, "77"]
    new = left(smoke, *more)
    assert new and all("seed=77" in name for name in new), new
    assert len(new) * len(seeds) == len(kept_trials(smoke.folder))
    before = kept(smoke.folder)
    places = new[0].split(", ")
    assert common.main(smoke.experiment, [*smoke.arguments, *more, "--only", *places]) == [] or len(new) == 1
    assert left(smoke, *more) == new[1:]
    assert kept(smoke.folder).items() >= before.items(), "a finished trial was computed again"


def check_parts(smoke: Smoke, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines with a half of the trials each, one of them killed in its last trial, give the same table."""
    arguments = [str(folder) if argument == str(smoke.folder) else argument for argument in smoke.arguments]

    def killed(path, numbers):
        raise KeyboardInterrupt

    last = left(smoke._replace(arguments=arguments), "--shard", "1/2")[-1].split(", ")
    with monkeypatch.context() as patch:
        patch.setattr("experiments.common._trials.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            common.main(smoke.experiment, [*arguments, "--only", *last])
    assert kept_trials(folder) == []
    common.main(smoke.experiment, [*arguments, "--shard", "1/2"])
    assert common.main(smoke.experiment, [*arguments, "--shard", "2/2"]) == smoke.rows


def kept_trials(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("trials/*/numbers.json"))


@pytest.fixture
def check_promises(tmp_path, monkeypatch):
    """`Smoke -> None`: what every experiment promises, checked on its smoke run."""

    def check(smoke: Smoke) -> None:
        check_files(smoke)
        check_again(smoke)
        if hasattr(smoke.experiment.presets["smoke"], "seeds"):
            check_grows(smoke)
            check_parts(smoke, tmp_path / "parts", monkeypatch)

    return check
