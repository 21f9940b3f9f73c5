"""The quickstart, also as a command in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_the_quickstart_command_runs_in_a_fresh_process(smoke, tmp_path):
    """On the finished run, so that it computes nothing."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-m", "experiments", "quickstart", "smoke", "--out", str(smoke.folder)]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "iCE: test bits per dimension" in done.stdout and "figure:" in done.stdout
