"""`tests/experiments/<paper>/test_<result>.py` belongs to `experiments/<paper>/<result>.py`.

Each experiment runs its smoke preset once, for all tests of its file, and keeps the promises that every experiment
makes. A file of tests may define `ARGUMENTS`, further flags of its smoke run.
"""

import importlib
import json
import math
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments import common


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


@pytest.fixture(scope="module")
def smoke(request, tmp_path_factory) -> Smoke:
    """The smoke run of the experiment to which a file of tests belongs."""
    parts = request.path.relative_to(Path(__file__).parent).with_suffix("").parts
    name = ".".join(part.removeprefix("test_") for part in parts)
    experiment, folder = importlib.import_module(f"experiments.{name}").EXPERIMENT, tmp_path_factory.mktemp("run")
    arguments = ["smoke", *getattr(request.module, "ARGUMENTS", []), "--out", str(folder)]
    preset = experiment.presets["smoke"]
    if preset.dataset == "mnist" and hasattr(preset, "data_dir"):
        arguments += ["--data-dir", str(request.getfixturevalue("shared_data"))]
    return Smoke(experiment, arguments, folder, common.main(experiment, arguments))


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


@pytest.fixture
def check_promises():
    """`Smoke -> None`: files, finite rows, figures, a second run that computes nothing, and refused flags."""

    def computed(folder: Path) -> dict[Path, int]:
        stages = [path.parent for path in folder.rglob("numbers.json")]
        return {path: path.stat().st_mtime_ns for stage in stages for path in stage.iterdir() if path.is_file()}

    def check(smoke: Smoke) -> None:
        experiment, folder, rows = smoke.experiment, smoke.folder, smoke.rows
        assert [common.Row(**entry) for entry in json.loads((folder / "table.json").read_text())] == rows
        assert rows and all(math.isfinite(row.measured) and row.seeds >= 1 for row in rows)
        assert len(smoke.table) == len(rows), "two rows have one name"
        assert "| published | measured |" in (folder / "table.md").read_text()
        config = json.loads((folder / "config.json").read_text())
        assert config["dataset"] == experiment.presets["smoke"].dataset and "data_dir" not in config
        environment = json.loads((folder / "environment.json").read_text())
        assert environment["command"].startswith(f"{experiment.command} smoke")
        sizes = [png_size(folder / "figures" / f"{name}.png") for name in smoke.pictures]
        assert all(min(size) > 150 for size in sizes)  # the narrowest shows two images side by side

        before, pictures = computed(folder), smoke.pictures
        for name in pictures:
            (folder / "figures" / f"{name}.png").unlink()
        assert smoke.again() == rows and computed(folder) == before, "the second run computed something"
        assert smoke.pictures == pictures, "figures are functions of the kept arrays"

        with pytest.raises(SystemExit):
            common.main(experiment, [*smoke.arguments, "--no-such-setting", "1"])
        with pytest.raises(SystemExit, match="preset must be one of"):
            common.main(experiment, ["huge"])

    return check
