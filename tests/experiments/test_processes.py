"""Two processes compute one run together, and the first one writes it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.common._machine import join_processes

COMMAND = [sys.executable, "-m", "experiments.quickstart", "smoke", "--train.epochs", "1", "--out"]


def run(processes: int, folder: Path) -> tuple[dict, list[str]]:
    """The measured numbers of a run, and what each process printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    root = Path(__file__).parents[2]
    base = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu", "INVJAX_CACHE": str(folder.parent / "cache")}
    together = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    running = [
        subprocess.Popen(
            [*COMMAND, str(folder)],
            env=base | (together | {"JAX_PROCESS_ID": str(i)} if processes > 1 else {}),
            cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(processes)
    ]  # fmt: skip
    printed = []
    for process in running:
        output, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors[-3000:]
        printed.append(output)
    return {row["name"]: row["measured"] for row in json.loads((folder / "table.json").read_text())}, printed


@pytest.mark.slow
def test_two_processes_compute_a_run_as_one_process_does(tmp_path):
    (alone, _), (together, printed) = run(1, tmp_path / "one"), run(2, tmp_path / "two")
    assert "table:" in printed[0] and "trial" in printed[0]
    assert "table" not in printed[1] and "trial" not in printed[1]
    assert alone.keys() == together.keys()
    assert _written(tmp_path / "one") == _written(tmp_path / "two")
    for path in (tmp_path / "two").rglob("metrics.jsonl"):
        other = tmp_path / "one" / path.relative_to(tmp_path / "two")
        last, wanted = (json.loads(file.read_text().splitlines()[-1])["loss"] for file in (path, other))
        assert last == pytest.approx(wanted, rel=1e-3)


def _written(folder: Path) -> set[str]:
    """The files of a run, without checkpoints, event files and locks."""
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    hidden = {"checkpoints", "tensorboard"}
    return {str(path) for path in files if hidden.isdisjoint(path.parts) and not path.name.startswith(".")}


def test_an_incomplete_environment_of_processes_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ValueError, match="no JAX_NUM_PROCESSES and no JAX_PROCESS_ID"):
        join_processes(False)


def test_one_process_joins_no_others(monkeypatch):
    monkeypatch.setattr("jax.distributed.initialize", lambda *given: pytest.fail("it joined others"))
    join_processes(False)
