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
def test_metamers_have_the_same_logits_and_stay_near_the_range_of_pixel_values(smoke):
    found = smoke.measured
    assert found["metamers: largest difference of a logit"] < 1e-3
    assert -0.06 < found["metamers: smallest pixel value"] < found["metamers: largest pixel value"] < 1.06
    assert smoke.pictures == {"both-failures"}


@pytest.mark.slow
def test_the_quickstart_command_runs_in_a_fresh_process(smoke, tmp_path):
    """On the finished run, so that it computes nothing."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-m", "experiments", "quickstart", "smoke", "--out", str(smoke.folder)]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "metamers: largest difference of a logit" in done.stdout and "figure:" in done.stdout
