"""Images rebuilt from their representation (`features.robustify`), against the same loop written in PyTorch.

`python -m experiments.benchmarks.inversion [--quick] [--out FILE]`; needs PyTorch, of the `bench` extra

Both sides use the same weights, images, starts and steps. Each number of cores has a new process that is restricted to
these cores. With two cores, JAX splits the batch between two CPU devices and PyTorch runs two threads. A check compares
the images of both sides at a size for which both networks are the same function (see `torch_nets.ResNet`).
"""

import argparse
import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmarks import timing
from invjax import features
from invjax.models import mnist_cnn, penultimate, resnet
from invjax.training import data_mesh, shard_batch
from invjax.types import Net, Params

try:
    import torch

    from experiments.benchmarks import torch_nets
except ModuleNotFoundError as error:
    raise SystemExit('this benchmark needs its extra: pip install "invjax[bench]"') from error

STEP_SIZE = 0.1
GOALS = {1: 1.15, 2: 0.9}
"""Largest ratio of times to the PyTorch loop that meets the goal, by number of cores."""
STRETCH = 1.0
"""Harder goal: largest ratio of times to the PyTorch loop with channels last."""
OURS, HAND, LAST = "invjax", "a loop by hand", "a loop by hand, channels last"


class Case(NamedTuple):
    """A network on both sides.

    Attributes:
        net: network in JAX.
        module: function `weights -> torch module`; the last layer of the module is called `logits`.
        shape: shape of an image.
        same_at: shape of an image for which both networks are the same function.
        goals: whether the case has goals.
    """

    net: Net
    module: Callable[[Any], torch.nn.Module]
    shape: tuple[int, int, int]
    same_at: tuple[int, int, int]
    goals: bool


CASES = {
    "ResNet-8": Case(
        resnet(channels=(16, 32, 64), blocks=(1, 1, 1)), torch_nets.ResNet, (32, 32, 3), (33, 33, 3), True
    ),
    "MNIST CNN": Case(mnist_cnn(), torch_nets.MnistCnn, (28, 28, 1), (28, 28, 1), False),
}


def random_params(net: Net, shape: tuple[int, ...]) -> Params:
    """Random parameters of the usual scale."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape)
        noise *= np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
        return jnp.asarray(noise + (path[-1].key == "scale"), leaf.dtype)

    shapes = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def hand_loop(
    representation: Callable, x: torch.Tensor, start: torch.Tensor, steps: int, step_size: float = STEP_SIZE
) -> torch.Tensor:
    """The inversion as a plain loop in PyTorch."""
    with torch.no_grad():
        wanted = representation(x)
    z = start
    for _ in range(steps):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((representation(z) - wanted).square().sum(), z)
        with torch.no_grad():
            length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
            z = (z - step_size * gradient / length).clamp(0, 1)
    return z


def ours(case: Case, steps: int) -> Callable[..., Any]:
    """The compiled function `(params, x, start) -> images`."""

    @jax.jit
    def run(params, x, start):
        representation = partial(penultimate(case.net), params)
        key = jax.random.key(0)  # for a start of noise, which this call does not use
        return features.robustify(key, representation, x, start, steps=steps, step_size=STEP_SIZE).x

    return run


def representation_of(case: Case, params: Params) -> torch.nn.Module:
    """The torch module without its last layer and without gradients of its parameters."""
    module = case.module(params["params"]).eval().requires_grad_(False)
    module.logits = torch.nn.Identity()
    return module


def random_images(shape: tuple[int, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and starts, both of uniform noise."""
    found = np.random.default_rng(1).random((2, size, *shape), np.float32)
    return found[0], found[1]


def check_same(name: str, steps: int = 5) -> None:
    """Check that both sides rebuild the same images, except for ReLUs that rounding switches.

    Raises:
        AssertionError: the images differ, so the comparison would be invalid.
    """
    case = CASES[name]
    params = random_params(case.net, case.same_at)
    x, start = random_images(case.same_at, 8)
    rebuilt = np.asarray(ours(case, steps)(params, x, start))
    first, second = (torch_nets.images(array) for array in (x, start))
    theirs = hand_loop(representation_of(case, params), first, second, steps).numpy().transpose(0, 2, 3, 1)
    difference, moved = (float(np.median(np.abs(rebuilt - other))) for other in (theirs, start))
    assert difference < 1e-4 * moved, f"{name}: images differ by {difference}, moved by {moved}"


def time_all(cores: int, batch: int, steps: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each round by network and name. Call it in a new process with `cores` cores."""
    torch.set_num_threads(cores)
    mesh, found = data_mesh(), {}
    for name, case in CASES.items():
        check_same(name)
        params = random_params(case.net, case.shape)
        x, start = random_images(case.shape, batch)
        shared = jax.device_put(params, NamedSharding(mesh, PartitionSpec())), *shard_batch(mesh, (x, start))
        module, images = representation_of(case, params), [torch_nets.images(array) for array in (x, start)]
        last = copy.deepcopy(module).to(memory_format=torch.channels_last)
        images_last = [image.to(memory_format=torch.channels_last) for image in images]
        candidates: dict[str, Callable[[], Any]] = {
            OURS: partial(ours(case, steps), *shared),
            HAND: partial(hand_loop, module, images[0], images[1], steps),
            LAST: partial(hand_loop, last, images_last[0], images_last[1], steps),
        }
        found[name] = timing.alternate(candidates, repeats)
    return found


def table(cores: int, batch: int, steps: int, repeats: int) -> list[timing.Row]:
    """The rows of the table for `cores` cores."""
    command = [sys.executable, "-m", "experiments.benchmarks.inversion", "--cores", str(cores)]
    command += ["--batch", str(batch), "--steps", str(steps), "--repeats", str(repeats)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    rows = []
    for name, times in found.items():
        about, goals = f"{name}, batch {batch}, {steps} steps, {cores} core(s)", CASES[name].goals
        for which in (OURS, HAND, LAST):
            rows.append(timing.row(f"{about}: {which}", batch * steps / median(times[which]), "images x steps / s"))
        goal = GOALS[cores] if goals else None
        rows.append(timing.row(f"{about}: {OURS} / {HAND}", timing.ratio(times, OURS, HAND), goal=goal))
        stretch, note = (STRETCH, ", stretch") if goals else (None, "")
        rows.append(timing.row(f"{about}: {OURS} / {LAST}{note}", timing.ratio(times, OURS, LAST), goal=stretch))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--cores", "--batch", "--steps", "--repeats"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    options = timing.parse(__doc__, parser)
    jax.config.update("jax_enable_compilation_cache", False)
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # before JAX counts the cores
        jax.config.update("jax_num_cpu_devices", options.cores)
        print(json.dumps(time_all(options.cores, options.batch, options.steps, options.repeats)))
        return
    batch, steps, repeats = (4, 2, 2) if options.quick else (128, 10, options.repeats or 9)
    rows = [row for cores in sorted(GOALS) for row in table(cores, batch, steps, repeats)]
    timing.report("inversion", rows, options, ("torch",))


if __name__ == "__main__":
    main()
