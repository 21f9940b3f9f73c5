"""Two processes, one device each, train as one process with two devices does."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
    import sys
    import jax
    process, processes, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    jax.config.update("jax_num_cpu_devices", 2 // processes)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    import jax.numpy as jnp, numpy as np, optax
    from invjax import training
    from invjax.data import batches
    from invjax._batching import over_batches
    from invjax.losses import cross_entropy
    from invjax.models import mlp

    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    net, optimizer, key = mlp(2, (8,)), optax.adam(1e-2), jax.random.key(0)

    def loss_fn(params, key, batch, step):
        return cross_entropy(net.apply(params, batch[0]), batch[1]).mean(), {}

    mesh = training.data_mesh()
    state = training.init_state(key, net.init(key, jnp.asarray(x)), optimizer)
    step, draw = training.make_train_step(loss_fn, optimizer), batches([x, y], 8, seed=0)
    state, history = training.fit(state, step, draw, 6, mesh=mesh, log_every=1, directory=folder + "/run", save_every=3)
    state, history = training.fit(state, step, draw, 9, mesh=mesh, log_every=1, directory=folder + "/run", save_every=3)
    logits = over_batches(jax.jit(lambda x: net.apply(state.params, x)), [x], batch_size=8, mesh=mesh)
    if process == 0:
        np.savez(folder + "/result.npz", losses=[row["loss"] for row in history], logits=logits)
"""


def start(program: str, processes: int, *arguments: str) -> list[subprocess.Popen]:
    """Start the processes of one program, each with its number, their number and a port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return [
        subprocess.Popen([*command, str(i), str(processes), port, *arguments], env=environment, stderr=subprocess.PIPE)
        for i in range(processes)
    ]


def run(processes: int, folder: Path) -> dict:
    folder.mkdir()
    for process in start(PROGRAM, processes, str(folder)):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()[-3000:]
    with np.load(folder / "result.npz") as file:
        return dict(file)


@pytest.mark.slow
def test_two_processes_train_checkpoint_resume_and_evaluate_as_one(tmp_path):
    alone, together = run(1, tmp_path / "one"), run(2, tmp_path / "two")
    assert len(alone["losses"]) == 9
    np.testing.assert_allclose(together["losses"], alone["losses"], rtol=1e-5)
    np.testing.assert_allclose(together["logits"], alone["logits"], rtol=1e-4, atol=1e-5)
    metrics = [(tmp_path / name / "run" / "metrics.jsonl").read_text().count("\n") for name in ("one", "two")]
    assert metrics == [9, 9]


STOPPED = """
    import os, signal, sys, time
    import jax
    process, port, folder, num_steps = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in the background ignore it
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    import jax.numpy as jnp, numpy as np, optax
    from invjax import training

    def batches(step):
        time.sleep(0.02)
        return (np.ones((2, 1), np.float32),)

    optimizer = optax.sgd(1.0)
    step = training.make_train_step(lambda params, key, batch, step: (-(params * batch[0]).mean(), {}), optimizer)
    start = training.init_state(jax.random.key(0), jnp.zeros(()), optimizer)
    try:
        state, history = training.fit(start, step, batches, num_steps, mesh=training.data_mesh(), directory=folder,
                                      log_every=1, save_every=1000)
    except training.Interrupted as stopped:
        print(stopped)
        state, history = stopped.state, stopped.history
    assert [row["step"] for row in history] == list(range(1, int(state.step) + 1)) == list(range(1, len(history) + 1))
    assert float(state.params) == len(history)
    print("AT", len(history), flush=True)
"""


def start_two(folder: Path, num_steps: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(STOPPED), str(i), port, str(folder), str(num_steps)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip


def ends(running: list[subprocess.Popen]) -> list[list[str]]:
    """What each process prints, without what its libraries print."""
    found = [process.communicate(timeout=120) for process in running]
    for process, (_, errors) in zip(running, found, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [[line for line in shown.splitlines() if not line.startswith("[")] for shown, _ in found]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_process_stops_both_after_the_same_saved_step(tmp_path, number):
    running = start_two(tmp_path, 2000)
    metrics, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert all(process.poll() is None for process in running) and time.monotonic() < deadline
        time.sleep(0.02)
    running[1].send_signal(number)
    first, second = ends(running)
    step = int(first[-1].removeprefix("AT "))
    assert first == second == [f"stopped by SIGTERM after step {step}; the same call goes on from there", f"AT {step}"]
    assert 3 <= step < 2000 and (tmp_path / "checkpoints" / str(step)).is_dir()
    assert ends(start_two(tmp_path, step + 2)) == [[f"AT {step + 2}"]] * 2


DIFFERENT = """
    import sys
    import jax
    process, port, change = int(sys.argv[1]), sys.argv[3], sys.argv[4]
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    import numpy as np, optax
    from invjax import training
    from invjax.evaluation import correct

    mesh, optimizer = training.data_mesh(), optax.sgd(0.1)
    step = training.make_train_step(lambda params, key, batch, step: ((params * batch).mean(), {}), optimizer)
    start = 1.0 + process if change == "state" else 1.0
    state = training.init_state(jax.random.key(0), np.float32(start), optimizer)
    draw = lambda step: np.full(4, process if change == "batches" else 0, np.float32)
    if change != "evaluation":
        training.fit(state, step, draw, 2, mesh=mesh)
    x, labels = np.zeros((4 + process, 2), np.float32), np.zeros(4 + process, np.int32)
    correct(lambda params, x: params * x, np.float32(1), x, labels, 2, mesh)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("state", "states must be the same on every host; got others on hosts [1] than on host 0; make the state from"),
        ("batches", "batches must be the same on every host; got others on hosts [1] than on host 0; pass whole"),
        ("evaluation", "data sets must be the same on every host; got others on hosts [1] than on host 0; pass the"),
    ],
)
def test_hosts_that_would_compute_different_things_stop_at_once(change, message):
    processes = start(DIFFERENT, 2, change)
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode and message in errors.decode(), errors.decode()[-2000:]
    finally:
        for process in processes:
            process.kill()
