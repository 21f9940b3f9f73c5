"""The log of a training: lines of JSON, and TensorBoard event files."""

import json
import struct
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invjax import training


def run(folder, num_steps, metrics=lambda step: {}, log_every=1, **options):
    """A training whose loss is the number of the step."""
    optimizer = optax.sgd(0.0)
    step_fn = training.make_train_step(lambda params, key, batch, step: (params + step, metrics(step)), optimizer)
    start = training.init_state(jax.random.key(0), jnp.zeros(()), optimizer)
    batch = (np.zeros(1, np.float32),)
    return training.fit(start, step_fn, lambda _: batch, num_steps, directory=folder, log_every=log_every, **options)[1]


def scalars(folder):
    """`(step, name, value)` of all event files, by the format of TensorBoard: length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def test_event_files_hold_the_logged_metrics_also_after_a_resume(tmp_path):
    run(tmp_path, 2, lambda step: {"twice": 2 * step})
    run(tmp_path, 3, lambda step: {"twice": 2 * step})
    expected = {(1, "loss", 0), (1, "twice", 0), (2, "loss", 1), (2, "twice", 2), (3, "loss", 2), (3, "twice", 4)}
    assert set(scalars(tmp_path)) == expected and len(scalars(tmp_path)) == len(expected)


def test_without_its_writer_there_are_no_event_files(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert [row["loss"] for row in run(tmp_path, 2)] == [0, 1]
    assert not (tmp_path / "tensorboard").exists() and (tmp_path / "metrics.jsonl").exists()


def test_a_metric_that_is_not_finite_is_null_in_the_file_and_nan_in_the_history(tmp_path):
    def metrics(step):
        return {"best": jnp.where(step == 1, jnp.inf, 1.0)}

    run(tmp_path, 2, metrics)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["best"] for line in lines] == [1, None]
    again = run(tmp_path, 3, metrics)
    assert np.isnan(again[1]["best"]) and again[2]["best"] == 1


@pytest.mark.parametrize("name", ["step", "loss"])
def test_a_metric_with_a_name_of_the_log_is_refused(name):
    with pytest.raises(ValueError, match=f"a metric named '{name}', which the training logs itself; rename it"):
        run(None, 1, lambda step: {name: step})


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the full device of Linux")
@pytest.mark.parametrize("file", ["metrics.jsonl", "tensorboard"])
def test_a_disk_that_is_full_while_metrics_are_written_is_one_clear_error(tmp_path, monkeypatch, file):
    whole = run(tmp_path / "whole", 30, save_every=2)
    run(tmp_path / "full", 5, save_every=2)
    opened, folder = Path.open, tmp_path / "full"

    def full(path, mode="r", *arguments, **options):
        path = Path("/dev/full") if path.name == file and mode == "a" else path
        return opened(path, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        if file == "tensorboard":
            patch.setattr("tensorboardX.record_writer.open_file", lambda path: opened(Path("/dev/full"), "wb"))
        with pytest.raises(
            OSError, match=rf"could not write .*{file}.*: No space left on device; make room"
        ) as refused:
            run(folder, 30, save_every=2)
    assert "\n" not in str(refused.value)
    assert run(folder, 30, save_every=2) == whole
    assert (folder / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_half_a_line_is_written_again(tmp_path):
    """A process that is killed leaves a part of a line, and lines of steps after its last checkpoint."""
    run(tmp_path, 4, save_every=2)
    log = tmp_path / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 5, "loss": 4.0}\n{"step": 6, "lo')
    assert [row["step"] for row in run(tmp_path, 6)] == [1, 2, 3, 4, 5, 6]
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
