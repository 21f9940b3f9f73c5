"""Gamma and the logit Jacobian of the MNIST CNN, against plain code in JAX and PyTorch with the same weights.

`python -m experiments.benchmarks.gamma [--quick] [--out FILE]`; needs the `bench` extra

Each number of cores has a new process that is restricted to these cores. With two cores, JAX splits the batch between
two CPU devices and PyTorch runs two threads. Goals are for one core. Memory is XLA's temporary memory of the compiled
function on one device. Forward mode is too slow for the whole batch, so the benchmark measures it on a few images, one
after another, and extrapolates in proportion.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
from invjax import analysis
from invjax.losses import cross_entropy, log_odds
from invjax.types import Array, Params

try:
    import torch
except ModuleNotFoundError as error:
    raise SystemExit('this benchmark needs its extra: pip install "invjax[bench]"') from error
from experiments.benchmarks import attacks, torch_nets

CASE = attacks.CASES["MNIST CNN"]
FEW = 2
"""Number of images for forward mode."""


def gamma(params: Params, x: jax.Array, labels: jax.Array) -> Array:
    return analysis.gamma(partial(CASE.net.apply, params), x, labels)


def jacobian(params: Params, x: jax.Array, labels: jax.Array) -> Array:
    return analysis.logit_jacobian(partial(CASE.net.apply, params), x)


def forward_jacobian(params: Params, x: jax.Array, labels: jax.Array) -> Array:
    return analysis.logit_jacobian(partial(CASE.net.apply, params), x, mode="fwd")


def jacrev(params: Params, x: jax.Array, labels: jax.Array) -> Array:
    return jax.vmap(jax.jacrev(lambda image: CASE.net.apply(params, image[None])[0]))(x)


def jacfwd(params: Params, x: jax.Array, labels: jax.Array) -> Array:
    return jax.vmap(jax.jacfwd(lambda image: CASE.net.apply(params, image[None])[0]))(x)


def gradient(params: Params, x: jax.Array, labels: jax.Array) -> Array:
    return jax.grad(lambda x: cross_entropy(CASE.net.apply(params, x), labels).sum())(x)


def through(full: Callable[..., Array]) -> Callable[..., Array]:
    """Gamma by the formula of the paper, from a full Jacobian `[B, K, ...]`."""

    def run(params, x, labels):
        rows = full(params, x, labels).reshape(len(x), -1, x[0].size)
        delta = jax.grad(lambda logits: log_odds(logits, labels).sum())(CASE.net.apply(params, x))
        step = jnp.einsum("bkd,bk->bd", rows, delta)
        return jnp.einsum("bkd,bd->bk", rows, step / jnp.linalg.norm(step, axis=1, keepdims=True))

    return run


OURS: dict[str, Callable[..., Array]] = {
    "gamma": gamma,
    "gamma through the library's Jacobian": through(jacobian),
    "gamma through vmap(jacrev)": through(jacrev),
    "one gradient": gradient,
    "jacobian": jacobian,
    "vmap(jacrev)": jacrev,
}


def torch_gamma(module: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Gamma by one vjp and one jvp of `torch.func`."""
    logits, pull = torch.func.vjp(module, x)
    others = logits.scatter(1, labels[:, None], -torch.inf).softmax(1)  # the gradient of the log-odds
    step = pull(others.scatter(1, labels[:, None], -1.0))[0]
    step = step / step.flatten(1).norm(dim=1)[:, None, None, None]
    return torch.func.jvp(module, (x,), (step,))[1]


def torch_jacobian(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The Jacobian by one gradient for each logit."""
    x = x.detach().requires_grad_()
    logits = module(x)
    rows = [torch.autograd.grad(logits[:, k].sum(), x, retain_graph=k + 1 < logits.shape[1])[0] for k in range(10)]
    return torch.stack(rows, 1)


def check_same(name: str, ours: Any, theirs: Any) -> None:
    """Check that both sides agree, except for ReLUs that rounding switches.

    Raises:
        AssertionError: the values differ.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    difference = float(np.median(np.abs(ours - theirs)) / np.abs(ours).max())
    assert ours.shape == theirs.shape and difference < 1e-5, f"{name} differs by {difference}"


def time_all(cores: int, batch: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each round by name. Call it in a new process with `cores` cores."""
    torch.set_num_threads(cores)
    params, (x, labels) = attacks.random_params(CASE.net, CASE.shape), attacks.random_batch(CASE.shape, batch)
    module = attacks.frozen(CASE.module(params["params"]).eval())
    attacks.check_same("MNIST CNN", CASE, params, module)
    images, classes = torch_nets.images(x), torch.from_numpy(labels).long()
    shared = attacks.sharded(params, x, labels)
    candidates: dict[str, Callable[[], Any]] = {name: partial(jax.jit(run), *shared) for name, run in OURS.items()}
    few = jax.device_put((params, x[:FEW], labels[:FEW]), jax.devices()[0])
    for memory_format, (net, pictures) in {
        "": (module, images),
        ", channels last": (attacks.channels_last(module), attacks.channels_last(images)),
    }.items():
        candidates |= {
            f"torch.func gamma{memory_format}": partial(torch_gamma, net, pictures, classes),
            f"ten torch gradients{memory_format}": partial(torch_jacobian, net, pictures),
        }
    found = candidates["gamma"]()
    check_same("Gamma in torch", found, candidates["torch.func gamma"]())
    for name in ("gamma through the library's Jacobian", "gamma through vmap(jacrev)"):
        check_same(name, found, candidates[name]())
    rows = candidates["jacobian"]()
    check_same("the Jacobian by jacrev", rows, candidates["vmap(jacrev)"]())
    check_same("the Jacobian in torch", rows, candidates["ten torch gradients"]().movedim(2, -1))
    forward = partial(jax.jit(forward_jacobian), *few)
    check_same("the Jacobian in forward mode", rows[:FEW], forward())
    times = timing.alternate(candidates, repeats)
    times["forward"] = [batch / FEW * seconds for seconds in timing.alternate({"": forward}, min(repeats, 2))[""]]
    return times


def time_table(cores: int, batch: int, repeats: int) -> list[timing.Row]:
    """The rows of the table for `cores` cores."""
    command = [sys.executable, "-m", "experiments.benchmarks.gamma", "--cores", str(cores)]
    command += ["--batch", str(batch), "--repeats", str(repeats)]
    times = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    about = f"MNIST CNN, batch {batch}, {cores} core(s)"

    def ratio(name, peer, goal=None):
        value = timing.ratio(times, name, peer)
        return timing.row(f"{about}: {name} / {peer}", value, goal=goal if cores == 1 else None)

    forward = f"{about}: Jacobian in forward mode, from {FEW} images / jacobian"
    return [
        timing.milliseconds(f"{about}: gamma", times["gamma"]),
        ratio("gamma", "gamma through vmap(jacrev)", 0.25),
        ratio("gamma", "gamma through the library's Jacobian"),
        ratio("gamma", "one gradient", 1.5),
        ratio("gamma", "torch.func gamma", 0.8),
        ratio("gamma", "torch.func gamma, channels last"),
        timing.milliseconds(f"{about}: jacobian", times["jacobian"]),
        ratio("jacobian", "ten torch gradients", 0.9),
        ratio("jacobian", "ten torch gradients, channels last"),
        ratio("jacobian", "vmap(jacrev)"),
        timing.row(forward, median(times["forward"]) / median(times["jacobian"])),
    ]


def memory_table(batch: int) -> list[timing.Row]:
    """Temporary memory; that of jacfwd is extrapolated from a few images."""
    params = attacks.random_params(CASE.net, CASE.shape)

    def mebibytes(run, size):
        arrays = jax.ShapeDtypeStruct((size, *CASE.shape), jnp.float32), jax.ShapeDtypeStruct((size,), jnp.int32)
        memory: Any = jax.jit(run).lower(params, *arrays).compile().memory_analysis()
        return memory.temp_size_in_bytes / 2**20

    ours, plain = mebibytes(jacobian, batch), mebibytes(jacrev, batch)
    about = f"MNIST CNN, batch {batch}, temporary memory"
    return [
        timing.row(f"{about}: gamma", mebibytes(gamma, batch), "MiB"),
        timing.row(f"{about}: jacobian", ours, "MiB"),
        timing.row(f"{about}: jacobian / vmap(jacrev)", ours / plain, goal=0.2),
        timing.row(f"{about}: vmap(jacfwd), from {FEW} images / jacobian", batch / FEW * mebibytes(jacfwd, FEW) / ours),
        timing.row(f"{about}: the library's forward mode / jacobian", mebibytes(forward_jacobian, batch) / ours),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--cores", "--batch", "--repeats"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    options = timing.parse(__doc__, parser)
    jax.config.update("jax_enable_compilation_cache", False)
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # before JAX counts the cores
        jax.config.update("jax_num_cpu_devices", options.cores)
        print(json.dumps(time_all(options.cores, options.batch, options.repeats)))
        return
    batch, repeats = (4, 2) if options.quick else (128, options.repeats or 9)
    rows = [row for cores in (1, attacks.CORES) for row in time_table(cores, batch, repeats)]
    timing.report("gamma", rows + memory_table(batch), options, ("torch",))


if __name__ == "__main__":
    main()
