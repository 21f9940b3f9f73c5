"""Bounds of about forty small architectures: their width over the range of the outputs, or why there are none; CPU.

`python -m experiments.benchmarks.architectures [--quick] [--only NAME ...] [--out FILE]`; needs equinox for one row.

Each network has random parameters (fixed seed) and one input in [0, 1]; the region is its l-infinity ball of radius
0.002. The width is the largest one of the bounds of an output. The range is the largest one of an output over 1000
points, half of them corners, and over the corners that the gradients of the outputs point to. It underestimates the
true range, so that exact bounds have a ratio a little above 1. The time is that of the first call, most of which is
compilation, while a second network is measured on another core.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from experiments.benchmarks import timing
from experiments.benchmarks.small_nets import ARCHITECTURES
from invjax import bounds

EPS, POINTS = 0.002, 1000
GOALS = {"ibp": None, "crown-ibp": 100, "crown": 10}
"""The largest ratio that meets the goal of a method. CROWN-IBP stands for both cheap methods, as it includes IBP."""
FEW = ("relu MLP", "cosine head")


class Found(NamedTuple):
    """The bounds of one network by one method.

    Attributes:
        ratio: width over range; NaN if the method refuses the network.
        seconds: time of the first call.
        error: first line of the error, or empty.
    """

    ratio: float
    seconds: float
    error: str = ""


def extent(fn: Callable, x: jax.Array, box: bounds.Interval) -> float:
    """The largest range of an output over points of a box."""
    low, high = (np.asarray(end) for end in box)
    fraction = np.random.default_rng(0).random((POINTS, *x.shape[1:]))
    fraction[POINTS // 2 :] = fraction[POINTS // 2 :].round()
    ascent = np.asarray(jax.jit(jax.jacrev(lambda x: fn(x)[0]))(x))[:, 0] > 0
    points = np.concatenate([low + fraction * (high - low), *(np.where(a, high, low) for a in (ascent, ~ascent))])
    values = np.asarray(jax.jit(fn)(points.astype(np.float32)))
    return float((values.max(0) - values.min(0)).max())


def measure(fn: Callable, method: str, box: bounds.Interval, range_of_outputs: float) -> Found:
    """The bounds of a network by one method."""
    intermediate = "crown" if method == "crown" else "ibp"
    run = jax.jit(
        lambda box: bounds.ibp(fn, box) if method == "ibp" else bounds.crown(fn, box, intermediate=intermediate)
    )
    start = time.perf_counter()
    try:
        found = jax.block_until_ready(run(box))
    except Exception as error:  # whatever a user would see
        return Found(float("nan"), time.perf_counter() - start, str(error).partition("\n")[0])
    return Found(float((found.upper - found.lower).max()) / range_of_outputs, time.perf_counter() - start)


def of_network(name: str, methods: list[str]) -> dict[str, Found]:
    """The bounds of a network by each method."""
    make, shape = ARCHITECTURES[name]
    fn = make()
    x = jax.random.uniform(jax.random.key(2), (1, *shape))
    box = bounds.linf_box(x, EPS)
    size = extent(fn, x, box)
    return {method: measure(fn, method, box, size) for method in methods}


def table(names: list[str], methods: list[str]) -> dict[str, dict[str, Found]]:
    """Measure two networks at a time, and print a row of a Markdown table for each."""
    print("| architecture |", *(f"{method}: width / range, s |" for method in methods))
    print("|---|" + "---|" * len(methods))
    results = {}
    with ThreadPoolExecutor(2) as pool:
        for name, found in zip(names, pool.map(partial(of_network, methods=methods), names), strict=True):
            results[name] = found
            cells = (each.error or f"{each.ratio:.3g}, {each.seconds:.1f} s" for each in found.values())
            print(f"| {name} |", *(f"{cell} |" for cell in cells), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=list(ARCHITECTURES), help="names of architectures")
    parser.add_argument("--methods", nargs="+", choices=list(GOALS), default=list(GOALS), help="methods of the bounds")
    options = timing.parse(__doc__, parser)
    jax.config.update("jax_enable_compilation_cache", False)
    results = table(options.only or list(FEW if options.quick else ARCHITECTURES), options.methods)
    rows = []
    for name, of_methods in results.items():
        for method, found in of_methods.items():
            about = f"{name}: {method}" + (f", refused: {found.error}" if found.error else "")
            rows.append(timing.row(about, found.ratio, goal=GOALS[method]))
    for method in options.methods:
        seconds = sum(of_methods[method].seconds for of_methods in results.values())
        rows.append(timing.row(f"first calls of {method}, all networks", seconds, "s"))
    timing.report("architectures", rows, options)


if __name__ == "__main__":
    main()
