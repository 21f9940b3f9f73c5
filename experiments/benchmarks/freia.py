"""A training step of the fully invertible RevNet, against FrEIA (PyTorch) with the same layers, widths and depths.

`python -m experiments.benchmarks.freia [--quick] [--out FILE]`; needs the `bench` extra

A step is the loss (bits per dimension + cross-entropy), its gradient and Adam's update, on the same batch. Both sides
use two cores: FrEIA has two threads, and JAX has two CPU devices that share the batch. On a busy machine two threads of
PyTorch wait for each other and can be up to 100 times slower than one, so the peer is the faster of the two. If one
thread is faster, the table has no goals, and the benchmark must be repeated. Peak memory is measured in a separate
process for each side.
"""

import argparse
import copy
import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmarks import timing
from invjax.losses import bits_per_dim, cross_entropy
from invjax.models import PRESETS, InvertibleClassifier, num_params, preset
from invjax.training import TrainState, data_mesh, init_state, make_train_step, shard_batch

try:
    import FrEIA  # noqa: F401
    import torch
except ModuleNotFoundError as error:
    raise SystemExit('this benchmark needs its extra: pip install "invjax[bench]"') from error
from experiments.benchmarks import freia_net

CORES = 2
LEARNING_RATE = 1e-3
GOALS = {"mnist": 0.75, "cifar10": 1.5}
OPTIMIZER = optax.adam(LEARNING_RATE)
ARCHITECTURES = {name: {key: PRESETS[name][key] for key in ("shape", "blocks", "hidden")} for name in GOALS}
Batch = tuple[np.ndarray, np.ndarray]


def batch_of(name: str, size: int) -> Batch:
    """Images of noise in the shape of the preset, and random labels."""
    rng = np.random.default_rng(0)
    return rng.random((size, *PRESETS[name]["shape"]), np.float32), rng.integers(0, 10, size).astype(np.int32)


def losses(model: InvertibleClassifier, params, batch):
    """Bits per dimension and cross-entropy, means over the batch."""
    x, labels = batch
    code, logdet = model.encode(params, x)
    return bits_per_dim(code, logdet).mean(), cross_entropy(code.logits, labels).mean()


def jax_training(name: str, batch: Batch, devices: int) -> tuple[TrainState, Callable]:
    """A training state, and the step `(state, batch of host arrays) -> state` on `devices`."""
    model, mesh = preset(name), data_mesh(jax.devices()[:devices])
    params = jax.jit(model.bijector.init)(jax.random.key(0), batch[0])
    train_step = jax.jit(
        make_train_step(lambda params, key, batch, step: (sum(losses(model, params, batch)), {}), OPTIMIZER)
    )
    state = jax.device_put(init_state(jax.random.key(1), params, OPTIMIZER), NamedSharding(mesh, PartitionSpec()))
    # two steps in flight on the CPU devices of one process can wait for each other for ever
    return state, lambda state, batch: jax.block_until_ready(train_step(state, shard_batch(mesh, batch))[0])


def torch_training(name: str, batch: Batch) -> tuple:
    """FrEIA's net with initialised actnorm layers, and the batch as tensors."""
    net = freia_net.build(**ARCHITECTURES[name])
    x = torch.from_numpy(batch[0]).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(batch[1]).long()
    with torch.no_grad():
        net(x)
    return net, x, labels


def check_same(name: str, batch: Batch, net, x, labels) -> None:
    """Check that both nets have equally many parameters and give the data the same density before training.

    Raises:
        AssertionError: the nets differ, so the comparison would be invalid.
    """
    model = preset(name)
    params = jax.jit(model.bijector.init)(jax.random.key(0), batch[0])
    ours, theirs = num_params(params), freia_net.num_params(net)
    assert ours == theirs, f"{name}: {ours} parameters here, {theirs} in FrEIA"
    with torch.no_grad():
        peer = freia_net.losses(net, x, labels)
    bits, peer_bits = (float(loss[0]) for loss in (losses(model, params, batch), peer))
    assert abs(bits - peer_bits) < 1e-3, f"{name}: {bits} bits/dim here, {peer_bits} in FrEIA"


def time_table(name: str, batch_size: int, repeats: int) -> list[timing.Row]:
    """The time of a step on both sides."""
    batch = batch_of(name, batch_size)
    net, x, labels = torch_training(name, batch)
    check_same(name, batch, net, x, labels)
    nhwc = {"memory_format": torch.channels_last}
    last, x_last = copy.deepcopy(net).to(**nhwc), x.contiguous(**nhwc)

    def threads(count, step):
        torch.set_num_threads(count)
        return step()

    peers = {f"FrEIA, {count} thread(s)": partial(threads, count, freia_net.train_step(net, x, labels, LEARNING_RATE))
             for count in (CORES, 1)}  # fmt: skip
    others = {
        "FrEIA, channels last": partial(threads, CORES, freia_net.train_step(last, x_last, labels, LEARNING_RATE))
    }
    for devices in (CORES, 1):
        state, step = jax_training(name, batch, devices)
        others[f"invjax, {devices} CPU device(s)"] = partial(step, state, batch)

    times = timing.alternate(peers | others, repeats)
    peer = min(peers, key=lambda side: median(times[side]))
    goals = {f"invjax, {CORES} CPU device(s)": GOALS[name]} if peer == next(iter(peers)) else {}
    about = f"{name}, batch {batch_size}: training step"
    return [
        *(timing.milliseconds(f"{about}, {side}", times[side]) for side in peers),
        *(
            timing.row(f"{about}, {side} / {peer}", timing.ratio(times, side, peer), goal=goals.get(side))
            for side in others
        ),
    ]


def resident(field: str) -> float:
    """MiB of `VmRSS` (now) or `VmHWM` (the most since its last reset) of this process, on Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def peak_memory(side: str, name: str, batch_size: int) -> float:
    """MiB that three steps need in addition to the resident memory after a first step. Call it in a new process.

    The peak of `getrusage` does not serve, because it includes compilation and the parent process before `exec`.
    """
    batch = batch_of(name, batch_size)
    if side == "FrEIA":
        net, x, labels = torch_training(name, batch)
        step = freia_net.train_step(net, x, labels, LEARNING_RATE)
    else:
        state, train_step = jax_training(name, batch, CORES)

        def step():
            nonlocal state
            state = train_step(state, batch)

    step()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # free memory that is still resident would hide the memory of the steps
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = resident("VmRSS")
    for _ in range(3):
        step()
    return resident("VmHWM") - before


def memory_table(name: str, batch_size: int) -> list[timing.Row]:
    """The peak memory of a step, with a new process for each side."""
    peak = {}
    for side in ("FrEIA", "invjax"):
        command = [sys.executable, "-m", "experiments.benchmarks.freia", "--memory", side, name, str(batch_size)]
        peak[side] = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    about = f"{name}, batch {batch_size}: peak memory of training"
    return [
        *(timing.row(f"{about}, {side}", value, "MiB") for side, value in peak.items()),
        timing.row(f"{about}, invjax / FrEIA", peak["invjax"] / peak["FrEIA"], goal=1.0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = timing.parse(__doc__, parser)
    jax.config.update("jax_num_cpu_devices", CORES)
    torch.set_num_threads(CORES)
    if options.memory:
        side, name, batch_size = options.memory
        print(peak_memory(side, name, int(batch_size)))
        return
    batch_size, repeats = (16, 2) if options.quick else (128, 15)
    rows = [row for name in GOALS for row in time_table(name, batch_size, repeats) + memory_table(name, batch_size)]
    timing.report("freia", rows, options, packages=("torch", "FrEIA"))


if __name__ == "__main__":
    main()
