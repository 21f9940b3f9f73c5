"""Memory and compile time of one gradient step against the depth of an invertible net.

`python -m experiments.benchmarks.memory [--quick] [--out FILE]`

Memory is XLA's temporary memory of the compiled step, without arguments and results. The benchmark runs no step.
"""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import stacks, timing
from invjax.bijectors import Bijector, additive_coupling, affine_coupling

BATCH = 64
NETS: dict[str, Callable[..., Bijector]] = {
    "one level, additive": partial(stacks.one_level, coupling=additive_coupling),
    "one level, affine": partial(stacks.one_level, coupling=affine_coupling),
    "mnist preset": stacks.mnist,
}


def measure(bijector: Bijector) -> tuple[float, float, float]:
    """`(temporary MiB, seconds to trace and lower, seconds to compile)` of a gradient step."""
    x = jax.ShapeDtypeStruct((BATCH, 28, 28, 1), jnp.float32)
    params = jax.eval_shape(bijector.init, jax.random.key(0), x)
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(stacks.gradient_step(bijector)).lower(params, x)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    memory: Any = compiled.memory_analysis()
    return memory.temp_size_in_bytes / 2**20, middle - start, end - middle


def table(net: str, depths: list[int], repeats: int) -> list[timing.Row]:
    """The rows of the table for one net."""
    memory, rows, first, last = {}, [], depths[0], depths[-1]
    for mode in stacks.MODES:
        for depth in depths:
            runs = [measure(NETS[net](depth, mode)) for _ in range(repeats if depth == last else 1)]
            memory[mode, depth] = runs[0][0]
            rows.append(timing.row(f"{net}, {mode}, depth {depth}: temporary memory", memory[mode, depth], "MiB"))
        _, lower, compile_ = (median(values) for values in zip(*runs, strict=True))
        about = f"{net}, {mode}, depth {last}"
        rows += [
            timing.row(f"{about}: trace and lower", lower, "s"),
            timing.row(f"{about}: compile", compile_, "s"),
            timing.row(f"{about}: trace, lower and compile", lower + compile_, "s", goal=1.0),
        ]
    goals = [
        ("no anchors", (f"itself at depth {first}", ("no anchors", first)), 1.05),
        ("no anchors", ("chain", ("chain", last)), 1 / 20),
        ("default anchors", ("chain", ("chain", last)), 1 / 15),
    ]
    for mode, (peer, key), goal in goals:
        value = memory[mode, last] / memory[key]
        rows.append(timing.row(f"{net}, {mode}, depth {last}: temporary memory / {peer}", value, goal=goal))
    return rows


def main() -> None:
    options = timing.parse(__doc__)
    jax.config.update("jax_enable_compilation_cache", False)
    depths, repeats, nets = ([8, 64], 1, list(NETS)[:1]) if options.quick else ([8, 16, 32, 64], 3, list(NETS))
    timing.report("memory", [row for net in nets for row in table(net, depths, repeats)], options)


if __name__ == "__main__":
    main()
