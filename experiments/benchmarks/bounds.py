"""Interval and linear bounds, and their gradients, against auto_LiRPA (PyTorch) on the same weights and images.

`python -m experiments.benchmarks.bounds [--quick] [--out FILE]`; needs the `bench` extra, and
`pip install --no-deps auto_LiRPA==0.3 appdirs`. The metadata of that release ask for PyTorch before 1.13, see `lirpa`.

The network is that of Wong & Kolter 2018 on MNIST (two 4x4 convolutions of stride 2, two dense layers) with random
weights. A bound is the lower bound of every margin of each image, as in `bounds.margins`. A gradient is that of the
loss of certified training by the parameters. Both sides run in turn on one core of one process, and the benchmark
measures processor time. Bounds without a gradient run under `torch.no_grad` in PyTorch.

Our CROWN-IBP takes the better of its own bound and the IBP bound for each margin, so the table compares it with the
better of the two bounds of auto_LiRPA. Both sides choose the slope below a ReLU in the same way.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import timing
from experiments.invariance_tradeoffs.pretrained import wong_kolter, wong_kolter_cnn
from invjax import bounds
from invjax.training import worst_cross_entropy
from invjax.types import Array, Params

try:
    import torch

    from experiments.benchmarks import lirpa
except ModuleNotFoundError as error:
    needs = 'pip install "invjax[bench]" and pip install --no-deps auto_LiRPA==0.3 appdirs'
    raise SystemExit(f"this benchmark needs its extra and a peer: {needs}") from error

EPS = 0.1
METHODS = {"ibp": "IBP", "crown-ibp": "CROWN-IBP"}
"""Names of the methods in this library and in auto_LiRPA."""
GOALS = {"ibp": 0.75, "ibp, gradient": 1.0, "crown-ibp": 0.7, "crown-ibp, gradient": 1.5}
TIGHTNESS = {"ibp": 1e-4, "crown-ibp": 1e-3}
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_ARENA_MAX": "1"}
"""Settings of the C library that keep freed memory in the process. Without them a call takes up to twice as long on
either side, because it requests its memory from the system again; the time then depends on earlier calls."""
OURS, THEIRS = "invjax {}", "auto_LiRPA {}"


def network() -> torch.nn.Module:
    """The network with random weights from PyTorch."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(1568, 100),
        torch.nn.ReLU(),
        torch.nn.Linear(100, 10),
    )


def margins(method: str, params: Params, x: Array, labels: Array) -> Array:
    return bounds.margins(partial(wong_kolter_cnn, params), bounds.linf_box(x, EPS), labels, method=method)


def gradient(method: str, params: Params, x: Array, labels: Array) -> Params:
    return jax.grad(lambda params: worst_cross_entropy(margins(method, params, x, labels)).mean())(params)


def without_gradient(run: Callable[[], torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return run()


def apart(ours: Any, theirs: Any) -> float:
    """The largest difference divided by the largest absolute value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def measure(batch: int, repeats: int) -> dict[str, Any]:
    """Seconds of each round and differences of the bounds, by name. Call it in a new process with one core."""
    torch.set_num_threads(1)
    net, rng = network(), np.random.default_rng(0)
    params = wong_kolter({name: value.detach().numpy() for name, value in net.state_dict().items()})
    x, labels = rng.random((batch, 28, 28, 1), np.float32), rng.integers(0, 10, batch).astype(np.int32)
    lower, upper = (torch.from_numpy(np.array(e).transpose(0, 3, 1, 2).copy()) for e in bounds.linf_box(x, EPS))
    peer = lirpa.Peer(net, lower, upper, torch.from_numpy(labels).long(), 10)
    shared = jax.device_put((params, x, labels))
    candidates: dict[str, Callable[[], Any]] = {}
    for ours, theirs in METHODS.items():
        bound = partial(peer.margins, theirs)
        candidates |= {
            OURS.format(ours): partial(jax.jit(partial(margins, ours)), *shared),
            THEIRS.format(ours): partial(without_gradient, bound),
            OURS.format(f"{ours}, gradient"): partial(jax.jit(partial(gradient, ours)), *shared),
            THEIRS.format(f"{ours}, gradient"): partial(peer.gradient, theirs),
        }
    found = {name: run() for name, run in candidates.items()}
    best = found[THEIRS.format("ibp")]
    differences = {"ibp": apart(found[OURS.format("ibp")], best)}
    best = torch.maximum(best, found[THEIRS.format("crown-ibp")])
    differences["crown-ibp"] = apart(found[OURS.format("crown-ibp")], best)
    for name in METHODS:  # a ReLU between two slopes may change single values of the gradient
        ours = found[OURS.format(f"{name}, gradient")]["dense1"]["kernel"]
        theirs = found[THEIRS.format(f"{name}, gradient")][-2].T
        difference = float(np.median(np.abs(np.asarray(ours) - theirs.numpy())) / np.abs(ours).max())
        assert difference < 1e-4, f"the gradient of {name} differs by {difference}"
    times: dict[str, list[float]] = {}
    for name in GOALS:
        pair = {side.format(name): candidates[side.format(name)] for side in (OURS, THEIRS)}
        times |= timing.alternate(pair, repeats, time.process_time)
    return {"times": times, "differences": differences}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--batch", "--repeats"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    options = timing.parse(__doc__, parser)
    jax.config.update("jax_enable_compilation_cache", False)
    if options.batch:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # before JAX counts the cores
        print(json.dumps(measure(options.batch, options.repeats)))
        return
    batch, repeats = (4, 2) if options.quick else (100, options.repeats or 25)
    command = [sys.executable, "-m", "experiments.benchmarks.bounds", "--batch", str(batch), "--repeats", str(repeats)]
    environment = os.environ | KEEP_MEMORY
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found = json.loads(run.stdout)
    about, rows = f"batch {batch}, one core", []
    for name, goal in GOALS.items():
        ours, theirs = OURS.format(name), THEIRS.format(name)
        rows += [
            timing.milliseconds(f"{about}: {ours}", found["times"][ours]),
            timing.row(f"{about}: {ours} / {theirs}", timing.ratio(found["times"], ours, theirs), goal=goal),
        ]
    for name, goal in TIGHTNESS.items():
        what = f"{name}: largest difference of the margins' bounds / the largest bound"
        rows.append(timing.row(what, found["differences"][name], "share", goal))
    timing.report("bounds", rows, options, ("torch", "auto_LiRPA"))


if __name__ == "__main__":
    main()
