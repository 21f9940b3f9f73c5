"""The log of a training: lines of JSON, and TensorBoard event files."""

import json
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invjax import training


def run(folder, num_steps, metrics=lambda step: {}, log_every=1):
    """A training whose loss is the number of the step."""
    optimizer = optax.sgd(0.0)
    step_fn = training.make_train_step(lambda params, key, batch, step: (params + step, metrics(step)), optimizer)
    start = training.init_state(jax.random.key(0), jnp.zeros(()), optimizer)
    batch = (np.zeros(1, np.float32),)
    return training.fit(start, step_fn, lambda _: batch, num_steps, directory=folder, log_every=log_every)[1]


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
