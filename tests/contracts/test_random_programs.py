"""Random programs: no value leaves its bounds, and linear bounds are never outside of interval bounds.

A program is a list of random operations on a vector, each applied to earlier values. Its bounds are computed in
float32 from a region in float32, float16 or bfloat16, and its values in float64 at random points and corners. The
constants of the programs are the same numbers in all these dtypes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax import bounds
from invjax.bounds import Interval
from invjax.bounds._graph import trace
from invjax.bounds._interval import propagate

WIDTH, STEPS = 4, 6

ONE = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "relu6": jax.nn.relu6,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "gelu, exact": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "sine": jnp.sin,
    "cosine": jnp.cos,
    "abs": jnp.abs,
    "square": lambda x: x * x,
    "cube": lambda x: x**3,
    "exp of a small value": lambda x: jnp.exp(0.25 * jnp.clip(x, -16, 16)),
    "log": lambda x: jnp.log(jnp.abs(x) + 0.125),
    "root": lambda x: jnp.sqrt(jnp.abs(x)),
    "power": lambda x: (jnp.abs(x) + 0.125) ** 1.75,
    "reciprocal": lambda x: 1 / (1 + x * x),
    "norm": lambda x: x / jnp.sqrt(0.0625 + jnp.square(x).sum(-1, keepdims=True)),
    "layer norm": lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 0.0625),
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "logsumexp": lambda x: x - jax.nn.logsumexp(x, -1, keepdims=True),
    "sort": jnp.sort,
    "cumulative sum": lambda x: jnp.cumsum(x, -1),
    "reversed": lambda x: x[..., ::-1],
    "maximum": lambda x: x.max(-1, keepdims=True) - x,
    "guarded log": lambda x: jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), 0),
    "loop": lambda x: jax.lax.fori_loop(0, 2, lambda _, c: jnp.tanh(1.5 * c), x),
}
TWO = {
    "sum": jnp.add,
    "difference": jnp.subtract,
    "product": jnp.multiply,
    "larger": jnp.maximum,
    "smaller": jnp.minimum,
    "choice": lambda x, y: jnp.where(x > y, x - y, 0),  # continuous, so that rounding does not choose another case
    "quotient": lambda x, y: x / (1 + jnp.abs(y)),
}


ROUNDED = {"gelu", "gelu, exact", "leaky_relu"}
"""Operations whose constants are other numbers in half precision."""


def random_program(rng):
    """A function of `[B, WIDTH]`, and the names of its operations."""
    steps = []
    for i in range(STEPS):
        kind = rng.choice(["one", "one", "two", "affine"])
        first, second = rng.integers(max(0, i - 1), i + 1), rng.integers(0, i + 1)
        if kind == "one":
            steps.append((str(rng.choice(list(ONE))), first, None))
        elif kind == "two":
            steps.append((str(rng.choice(list(TWO))), first, second))
        else:
            scale = rng.choice([1 / 64, 0.5, 0.5, 16])
            parts = scale * rng.integers(-16, 17, size=(WIDTH, WIDTH)) / 8, rng.integers(-16, 17, size=WIDTH) / 8
            steps.append(("affine", first, parts))

    def program(x):
        values = [x]
        for name, first, second in steps:
            if name == "affine":
                matrix, offset = (jnp.asarray(part, x.dtype) for part in second)
                values.append(values[first] @ matrix + offset[None])
            elif second is None:
                values.append(ONE[name](values[first]))
            else:
                values.append(TWO[name](values[first], values[second]))
        return values[-1]

    return program, [name for name, *_ in steps]


def random_region(rng, batch, names):
    """A box for each example: negative, crossing zero, a point, tiny or huge; in one of three dtypes."""
    dtype = rng.choice([jnp.float32, jnp.float32, jnp.float16, jnp.bfloat16])
    dtype = jnp.float32 if ROUNDED.intersection(names) else dtype
    center = rng.normal(size=(batch, WIDTH)) * rng.choice([0.1, 1, 10, 1e3], size=(batch, 1))
    radius = np.abs(rng.normal(size=(batch, WIDTH))) * rng.choice([0, 1e-4, 0.1, 1, 100], size=(batch, 1))
    low, high = (np.asarray(jnp.asarray(end, jnp.float32).astype(dtype)) for end in (center - radius, center + radius))
    return Interval(low, np.maximum(low, high))


def points_of(rng, region, count):
    """Corners and random points of the box, `[count, B, WIDTH]`, in float64."""
    low, high = (np.asarray(end, np.float64) for end in region)
    fraction = rng.random((count, *low.shape))
    return low + np.where(rng.random(fraction.shape) < 0.5, fraction, fraction.round()) * (high - low)


def size_of(program, region):
    """The largest value between two operations according to their intervals, `[B]`: what rounding is relative to."""

    def of_example(low, high):
        graph, _ = trace(lambda x: program(x[None])[0], low)
        found = propagate(graph, Interval(low, high))
        ends = [jnp.abs(end).max() for interval in found.values() for end in interval if interval.lower.dtype != bool]
        return jnp.stack([jnp.where(jnp.isfinite(end), end, 0) for end in ends]).max()

    return jax.vmap(of_example)(*(end.astype(np.float32) for end in region))


def check(seed, examples, points):
    """Check the bounds of one random program; the number of values that were compared."""
    rng = np.random.default_rng(seed)
    program, names = random_program(rng)
    region = random_region(rng, examples, names)

    def run(region):
        return (
            bounds.ibp(program, region),
            bounds.crown(program, region, intermediate="ibp"),
            bounds.crown(program, region) if seed % 4 == 0 else None,
            size_of(program, region),
        )

    *found, size = jax.tree.map(np.asarray, jax.jit(run)(region))
    inside = points_of(rng, region, points)
    with jax.enable_x64(True):
        values = np.asarray(jax.jit(jax.vmap(program))(inside))
    slack = 1e-5 * np.maximum(1, size)[:, None]
    for interval in found:
        if interval is None:
            continue
        known = ~np.isnan(interval.lower) & ~np.isnan(interval.upper)  # NaN says that nothing is known
        outside = (values < interval.lower - slack) | (values > interval.upper + slack)
        assert not (outside & known).any(), (names, region.lower.dtype, size[(outside & known).any((0, 2))])
    intervals, *linear = (each for each in found if each is not None)
    for interval in linear:
        assert not np.isnan(interval.lower).any() and not np.isnan(interval.upper).any(), names
        known = ~np.isnan(intervals.lower) & ~np.isnan(intervals.upper)
        assert (interval.lower >= intervals.lower - slack)[known].all(), names
        assert (interval.upper <= intervals.upper + slack)[known].all(), names
    return values.size


@pytest.mark.parametrize("seed", range(6))
def test_no_value_of_a_random_program_leaves_its_bounds(seed):
    assert check(seed, examples=8, points=60) >= 1900


@pytest.mark.slow
def test_no_value_of_many_random_programs_leaves_its_bounds():
    assert sum(check(seed, examples=8, points=60) for seed in range(6, 24)) >= 30_000
