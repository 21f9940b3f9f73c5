"""Time and accuracy of a gradient step that rebuilds its activations, against the same step that keeps them.

`python -m experiments.benchmarks.reversible_step [--quick] [--out FILE]`

The benchmark uses one CPU device, float32 and images of noise. The round trip is `max |f^-1(f(x)) - x|`. The error of a
gradient is its relative l2 distance from plain automatic differentiation. `gain` scales the last kernel of each
coupling network. Occasionally a rounding error switches one ReLU of a rebuilt activation, which alone changes
the gradient of a small batch by 1e-4.
"""

from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks import stacks, timing
from invjax.bijectors import additive_coupling, affine_coupling

COUPLINGS = {"additive": additive_coupling, "affine": affine_coupling}
REBUILT = [mode for mode in stacks.MODES if mode != "chain"]
SEEDS = 3


def images(batch: int) -> jax.Array:
    """Images of uniform noise in the shape of MNIST."""
    return jax.random.uniform(jax.random.key(0), (batch, 28, 28, 1))


def time_table(name: str, net, depths: list[int], batch: int, repeats: int) -> list[timing.Row]:
    """Time of a step at each depth, divided by that of `chain`."""
    rows = []
    for depth in depths:
        x = images(batch)
        params = jax.jit(net(depth, "chain").init)(jax.random.key(1), x)
        steps = {mode: jax.jit(stacks.gradient_step(net(depth, mode))) for mode in stacks.MODES}
        times = timing.alternate({mode: partial(step, params, x) for mode, step in steps.items()}, repeats)
        rows.append(timing.milliseconds(f"{name}, depth {depth}: step, chain", times["chain"]))
        rows += [
            timing.row(f"{name}, depth {depth}: step, {mode} / chain", timing.ratio(times, mode, "chain"), goal=1.2)
            for mode in REBUILT
        ]
    return rows


def accuracy_table(name: str, depth: int, gain: float, goals: dict[str, float]) -> list[timing.Row]:
    """Median errors over the seeds, of the inversion and of the gradients."""
    net = partial(stacks.one_level, depth, coupling=COUPLINGS[name], gain=gain)
    x, plain = images(32), net("chain")
    init = jax.jit(plain.init)
    back = jax.jit(lambda params, x: plain.inverse(params, plain.forward(params, x)[0])[0])
    steps = {mode: jax.jit(stacks.gradient_step(net(mode))) for mode in stacks.MODES}

    def errors(seed):
        params = init(jax.random.key(seed), x)
        gradients = {mode: step(params, x)[1] for mode, step in steps.items()}
        exact = gradients["chain"]
        found = {
            mode: optax.tree.norm(optax.tree.sub(gradients[mode], exact)) / optax.tree.norm(exact) for mode in REBUILT
        }
        return {"round trip": jnp.abs(back(params, x) - x).max()} | found

    runs = [errors(seed) for seed in range(SEEDS)]
    return [
        timing.row(
            f"{name}, depth {depth}, gain {gain:g}: {'' if kind == 'round trip' else 'gradient, '}{kind}",
            float(median(run[kind] for run in runs)),
            "max error" if kind == "round trip" else "relative l2",
            goals.get(kind),
        )
        for kind in ("round trip", *REBUILT)
    ]


def main() -> None:
    options = timing.parse(__doc__)
    nets: dict[str, Any] = {
        f"one level, {name}": partial(stacks.one_level, coupling=layer) for name, layer in COUPLINGS.items()
    }
    nets["mnist preset"] = stacks.mnist
    depths, batch, repeats, deepest = [8, 16, 32], 64, 15, 64
    if options.quick:
        nets, depths, batch, repeats, deepest = dict(list(nets.items())[:1]), [2], 4, 2, 8
    rows = [row for name, net in nets.items() for row in time_table(name, net, depths, batch, repeats)]
    near_identity = {"round trip": 1e-5} | dict.fromkeys(REBUILT, 1e-4)
    rows += accuracy_table("additive", deepest, 0.05, near_identity)
    if not options.quick:
        rows += accuracy_table("additive", deepest, 1.0, {"default anchors": 1e-3})
        rows += accuracy_table("affine", deepest, 0.05, near_identity)
        rows += accuracy_table("affine", deepest, 1.0, {})
    timing.report("reversible_step", rows, options)


if __name__ == "__main__":
    main()
