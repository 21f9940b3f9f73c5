"""A population of 64 MLPs of random sizes, trained in groups of one padded shape, against the same MLPs one by one.

`python -m experiments.benchmarks.population [--quick] [--out FILE]`

The peer is a separate `models.mlp` for each network, with its own widths and its own jitted training step in a Python
loop. The benchmark trains an eighth of these networks and scales the time, since the compilation of all of them takes
minutes. It measures the compiled steps alone, and the steps together with initialisation and compilation. The runs
share no cache of compiled programs.
"""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import timing
from invjax.losses import cross_entropy
from invjax.models import Layers, groups_of_one_shape, masked_mlp, mlp
from invjax.training import init_state, make_train_step, population_mesh, population_trainer

GOAL = 1 / 3
OPTIMIZER = optax.adam(1e-3)


class Task(NamedTuple):
    """Inputs, smallest and largest number of hidden units, number of networks, and steps on batches of 64."""

    inputs: int
    units: tuple[int, int]
    networks: int
    steps: int


def architectures(task: Task) -> np.ndarray:
    """Widths `[N, 4]` of one to four hidden layers; 0 stands for a missing layer."""
    rng = np.random.default_rng(0)
    depth = rng.integers(1, 5, task.networks)
    widths = rng.integers(task.units[0], task.units[1] + 1, (task.networks, 4))
    return np.where(np.arange(4)[None] < depth[:, None], widths, 0)


def data(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Random batches `[steps, 64, inputs]` and labels `[steps, 64]`."""
    rng = np.random.default_rng(1)
    x = rng.random((task.steps, 64, task.inputs), np.float32)
    return x, rng.integers(0, 10, (task.steps, 64)).astype(np.int32)


def populations(task: Task, mesh: Any = None) -> Callable[[], Any]:
    """A function that trains all networks, one group after another."""
    x, y = data(task)
    groups = []
    for ids in groups_of_one_shape(architectures(task), task.networks):
        widths = architectures(task)[ids]
        depth = int(np.count_nonzero(widths[-1]))
        net = masked_mlp(10, depth, int(widths.max()))

        def init_fn(key, member, net=net):
            return net.init(key, member, jnp.zeros((1, task.inputs)))

        def loss_fn(member, params, key, batch, step, net=net):
            return cross_entropy(net.apply(params, member, batch[0]), batch[1]).mean(), {}

        train = population_trainer(init_fn, loss_fn, lambda member: OPTIMIZER, mesh=mesh)
        members = Layers(jnp.asarray(widths[:, :depth]), jnp.zeros(len(ids)))
        groups.append((train, jax.random.split(jax.random.key(0), len(ids)), members))

    def run():
        return [
            train(keys, members, lambda step: (x[step], y[step]), task.steps, chunk_steps=task.steps)
            for train, keys, members in groups
        ]

    return run


def one_by_one(task: Task, every: int) -> Callable[[], Any]:
    """A function that trains every `every`-th network alone; the first call compiles."""
    x, y = data(task)
    runs = []
    for widths in architectures(task)[::every]:
        net = mlp(10, [int(width) for width in widths if width])

        def loss_fn(params, key, batch, step, net=net):
            return cross_entropy(net.apply(params, batch[0]), batch[1]).mean(), {}

        runs.append((jax.jit(net.init), jax.jit(make_train_step(loss_fn, OPTIMIZER))))

    def run():
        trained = []
        for init, step in runs:
            key = jax.random.key(0)
            state = init_state(key, init(key, x[0]), OPTIMIZER)
            for batch in zip(x, y, strict=True):
                state, _ = step(state, batch)
            trained.append(jax.block_until_ready(state.params))
        return trained

    return run


def seconds(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def table(name: str, task: Task, every: int, repeats: int) -> list[timing.Row]:
    """Ratios of the time of a network in a population to the time of a network trained alone."""
    several = population_mesh().size > 1
    together, alone = populations(task), one_by_one(task, every)
    share = len(range(0, task.networks, every)) / task.networks
    cold = seconds(together), seconds(alone) / share
    candidates = {"population": together, "one by one": alone}
    if several:
        candidates["population on one device"] = populations(task, population_mesh(jax.devices()[:1]))
    times = timing.alternate(candidates, repeats)
    about = f"{name}, {task.networks} MLPs, {task.steps} steps"
    rows = [
        timing.row(f"{about}: population / one by one, with compilation", cold[0] / cold[1], goal=GOAL),
        timing.row(f"{about}: population / one by one, compiled before",
                   share * timing.ratio(times, "population", "one by one"), goal=GOAL),
        timing.row(f"{about}: with compilation, a network in the population", cold[0] / task.networks, "s"),
        timing.row(f"{about}: with compilation, a network by itself", cold[1] / task.networks, "s"),
    ]  # fmt: skip
    if several:
        ratio = share * timing.ratio(times, "population on one device", "one by one")
        rows.insert(2, timing.row(f"{about}: population on one device / one by one, compiled before", ratio))
    return rows


def main() -> None:
    options = timing.parse(__doc__)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(8, cores))  # the cache of compiled programs stays off
    tasks = {
        "digits, 64 inputs, 8 to 64 units": Task(64, (8, 64), 64, 200),
        "MNIST, 784 inputs, 30 to 300 units": Task(784, (30, 300), 64, 50),
    }
    every, repeats = 8, 5
    if options.quick:
        tasks, every, repeats = {"8 inputs, 2 to 8 units": Task(8, (2, 8), 4, 5)}, 2, 2
    rows = [row for name, task in tasks.items() for row in table(name, task, every, repeats)]
    timing.report("population", rows, options)


if __name__ == "__main__":
    main()
