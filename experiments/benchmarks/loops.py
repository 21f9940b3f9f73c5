"""Loops that XLA compiles as one program, against Python loops of the jitted step; convolutional models, CPU.

`python -m experiments.benchmarks.loops [--quick] [--out FILE]`

The library's loops must not be slower than the plain Python loop; `invjax/_conv` explains why XLA's loops can be slow.
The rows without a goal show a flax network without `_conv`. If these ratios fall to about 1 with a new version of JAX,
`_conv` can be deleted.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from experiments.benchmarks import stacks, timing
from invjax import fast_convs
from invjax.bijectors import additive_coupling, chain, squeeze
from invjax.losses import cross_entropy
from invjax.models import mnist_cnn
from invjax.types import ApplyFn, Net, Params

GOAL = 1.2


class PlainCnn(nn.Module):
    """A user's network with the usual flax convolutions, two of them with stride 2."""

    @nn.compact
    def __call__(self, x):
        """`[B, H, W, C] -> [B, 10]`."""
        for width, stride in ((32, 1), (32, 2), (64, 1), (64, 2)):
            x = nn.relu(nn.Conv(width, (3, 3), strides=stride)(x))
        return nn.Dense(10)(x.mean((1, 2)))


def noise(shapes: Params) -> Params:
    """Small random parameters. The compilation of the network's own initialisation would dominate."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.05 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def sign_step(apply: ApplyFn) -> Callable:
    """`(x, (params, labels)) -> x`: a step of the iterated sign-gradient attack, without a projection."""

    def step(x, data):
        params, labels = data
        gradient = jax.grad(lambda x: cross_entropy(apply(params, x), labels).sum())(x)
        return jnp.clip(x + 0.01 * jnp.sign(gradient), 0, 1)

    return step


def sgd_step(apply: ApplyFn) -> Callable:
    """`(params, (x, labels)) -> params`: a step of gradient descent on one batch."""

    def step(params, data):
        x, labels = data
        gradient = jax.grad(lambda params: cross_entropy(apply(params, x), labels).mean())(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)

    return step


def python_loop(step: Callable, steps: int) -> Callable:
    """A Python loop of `steps` calls of the jitted step."""
    step = jax.jit(step)

    def run(carry, data):
        for _ in range(steps):
            carry = step(carry, data)
        return carry

    return run


def fori_loop(step: Callable, steps: int) -> Callable:
    """One compiled call with a `lax.fori_loop` inside."""
    return jax.jit(lambda carry, data: lax.fori_loop(0, steps, lambda i, carry: step(carry, data), carry))


def scan(step: Callable, steps: int) -> Callable:
    """One compiled call with a `lax.scan` inside."""
    return jax.jit(lambda carry, data: lax.scan(lambda carry, _: (step(carry, data), None), carry, length=steps)[0])


def stack_table(depth: int, batch: int, repeats: int) -> list[timing.Row]:
    """The gradient of a scanned stack of blocks against that of the same blocks one after another."""
    scanned = stacks.one_level(depth, "chain", additive_coupling)
    block = stacks.block(additive_coupling)
    unrolled = chain([squeeze(), *[block] * depth])
    x = jax.random.uniform(jax.random.key(0), (batch, 28, 28, 1))
    params = noise(jax.eval_shape(scanned.init, jax.random.key(1), x))
    blocks = [params[0], *(jax.tree.map(lambda leaf, i=i: leaf[i], params[1]) for i in range(depth))]
    candidates = {
        "chain": partial(jax.jit(stacks.gradient_step(unrolled)), blocks, x),
        "repeat": partial(jax.jit(stacks.gradient_step(scanned)), params, x),
    }
    times = timing.alternate(candidates, repeats)
    name = f"gradient of repeat(block, {depth}) / of the same blocks in chain()"
    return [timing.row(name, timing.ratio(times, "repeat", "chain"), goal=GOAL)]


def loop_table(batch: int, steps: int, repeats: int, with_plain: bool) -> list[timing.Row]:
    """Loops of input gradients and of weight gradients, for the library's network and for a user's.

    Args:
        batch: number of images.
        steps: number of steps in each loop.
        repeats: number of rounds.
        with_plain: whether to time the user's network also without `fast_convs`, which is slow.
    """
    x = jax.random.uniform(jax.random.key(0), (batch, 28, 28, 1))
    labels = jax.random.randint(jax.random.key(1), (batch,), 0, 10)
    module: Any = PlainCnn()
    ours, plain = mnist_cnn(), Net(module.init, module.apply)
    nets: dict[str, tuple[Net, ApplyFn, int, float | None]] = {  # net, apply_fn of the compiled loop, rounds, goal
        "mnist_cnn": (ours, ours.apply, repeats, GOAL),
        "a flax CNN through fast_convs": (plain, fast_convs(plain.apply), repeats, GOAL),
    }
    if with_plain:
        nets["a flax CNN as it is"] = (plain, plain.apply, min(repeats, 3), None)
    rows = []
    for name, (net, loop_apply, rounds, goal) in nets.items():
        params = noise(jax.eval_shape(net.init, jax.random.key(2), x))
        kinds: dict[str, tuple[Callable, Callable, Any]] = {
            f"{steps} input-gradient steps in fori_loop": (sign_step, fori_loop, (x, (params, labels))),
            f"{steps} weight-gradient steps in scan": (sgd_step, scan, (params, (x, labels))),
        }
        for kind, (make_step, loop, arguments) in kinds.items():
            runs = {"python": python_loop(make_step(net.apply), steps), "loop": loop(make_step(loop_apply), steps)}
            times = timing.alternate({way: partial(run, *arguments) for way, run in runs.items()}, rounds)
            rows.append(timing.row(f"{name}, {kind} / Python loop", timing.ratio(times, "loop", "python"), goal=goal))
    return rows


def main() -> None:
    options = timing.parse(__doc__)
    depth, batch, steps, repeats = (2, 4, 2, 2) if options.quick else (8, 64, 20, 9)
    rows = stack_table(depth, batch, repeats) + loop_table(batch, steps, repeats, with_plain=not options.quick)
    timing.report("loops", rows, options)


if __name__ == "__main__":
    main()
