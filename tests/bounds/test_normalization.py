"""Normalizations are found in programs of three libraries, and no value leaves their bounds."""

import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from scipy import optimize

from invjax import bounds
from invjax.bounds import Interval
from invjax.bounds._graph import trace
from invjax.bounds._normalization_rules import squares
from invjax.bounds._operations import Variable

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 8)).astype(np.float32)
SCALE = RNG.normal(size=8).astype(np.float32)
NAME = "normalization"


def in_linen(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), X)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return lambda x: module.apply(params, x)


def each(layer):
    return jax.vmap(jax.vmap(layer))


def of_channels(layer):
    return jax.vmap(lambda x: layer(x.T).T)


def by_hand(x):
    return SCALE[None, None] * (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 0.01)


def rms_norm(x):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)


FOUND = {
    "linen layer norm": in_linen(nn.LayerNorm()),
    "linen layer norm, slow variance": in_linen(nn.LayerNorm(use_fast_variance=False)),
    "linen layer norm, no parameters": in_linen(nn.LayerNorm(use_bias=False, use_scale=False)),
    "linen layer norm over two axes": in_linen(nn.LayerNorm(reduction_axes=(1, 2), feature_axes=(1, 2))),
    "linen group norm": in_linen(nn.GroupNorm(4)),
    "linen instance norm": in_linen(nn.InstanceNorm()),
    "linen RMS norm": in_linen(nn.RMSNorm()),
    "nnx layer norm": nnx.LayerNorm(8, rngs=nnx.Rngs(0)),
    "nnx group norm": nnx.GroupNorm(8, 2, rngs=nnx.Rngs(0)),
    "nnx RMS norm": nnx.RMSNorm(8, rngs=nnx.Rngs(0)),
    "equinox layer norm": each(eqx.nn.LayerNorm(8)),
    "equinox group norm": of_channels(eqx.nn.GroupNorm(4, 8)),
    "equinox RMS norm": each(eqx.nn.RMSNorm(8)),
    "jax.nn.standardize": jax.nn.standardize,
    "by hand": by_hand,
    "layer norm by rsqrt": layer_norm,
    "length": lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
    "length, at least": lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6),
    "scaled before and after": lambda x: 3 * rms_norm(2 * x),
    "standard deviation and eps": lambda x: (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-3),
}


def traced(fn, x=X):
    return trace(fn, x)[0]


def names(fn, x=X):
    return [operation.name for operation in traced(fn, x).operations]


def evaluated(fn, x):
    """The value of the traced program."""
    graph = traced(fn, x)
    values = {graph.source: x}
    for operation in graph.operations:
        outputs = operation.function(*(values[o] if isinstance(o, Variable) else o for o in operation.operands))
        values |= zip(operation.outputs, outputs if operation.several else [outputs], strict=True)
    return values[graph.outputs[0]]


@pytest.mark.parametrize("name", FOUND)
def test_normalizations_are_found_and_keep_their_values(name):
    fn = FOUND[name]
    assert names(fn).count(NAME) == 1 and "rsqrt" not in names(fn)
    # one compilation instead of one for each operation
    found, wanted = jax.jit(lambda x: (evaluated(fn, x), fn(x)))(X)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(1, keepdims=True) + 0.1),
        lambda x: (x - x.mean(1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 0.1),
        lambda x: x[:, ::-1] * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 0.1),
        lambda x: (x - 2 * x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 0.1),
        lambda x: x / (jnp.square(x).mean(-1, keepdims=True) + 0.1),
        lambda x: x / jnp.sqrt(jnp.linalg.norm(x, axis=-1, keepdims=True)),
        lambda x: x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) - 0.1),
        lambda x: x / (jnp.linalg.norm(x, axis=-1, keepdims=True) - 0.1),
        lambda x: -x.mean(-1, keepdims=True) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 0.1),
        lambda x: (x / jnp.linalg.norm(x.astype(jnp.float16), axis=-1, keepdims=True)).astype(jnp.float32),
    ],
)
def test_other_products_are_no_normalizations(fn):
    assert NAME not in names(fn)


def corners(low, high):
    ends = np.stack([low.ravel(), high.ravel()])
    picks = np.array(list(itertools.product([0, 1], repeat=low.size)))
    return ends[picks, np.arange(low.size)].reshape(-1, *low.shape)


def random_boxes(seed, count, n):
    """Narrow and wide boxes, points, and boxes around equal values."""
    rng = np.random.default_rng(seed)
    center = rng.normal(size=(count, n)) * rng.choice([0, 1, 30], size=(count, 1)) + rng.choice([0, 5], size=(count, 1))
    radius = np.abs(rng.normal(size=(count, n))) * rng.choice([0, 0.01, 0.5, 3], size=(count, 1))
    return (center - radius).astype(np.float32), (center + radius).astype(np.float32)


@pytest.mark.parametrize("centered", [True, False])
def test_the_sum_of_squares_over_a_box_has_its_exact_minimum(centered):
    """The minimum by a convex program, and the largest value at the corners below the upper bound."""
    low, high = random_boxes(1, 60, 5)
    found = jax.jit(lambda box: squares(box, (1,), centered))(Interval(low, high))
    of = lambda x: np.square(x - x.mean(-1, keepdims=True) * centered).sum(-1)  # noqa: E731
    for i, (a, b) in enumerate(zip(low.astype(np.float64), high.astype(np.float64), strict=True)):
        if centered:  # each value is the one next to a common value
            distance = lambda t, a=a, b=b: np.square(np.clip(t, a, b) - t).sum()  # noqa: E731
            least = optimize.minimize_scalar(distance, bounds=(a.min(), b.max()), options={"xatol": 1e-9}).fun
        else:
            least = np.square(np.clip(0, a, b)).sum()
        scale = 1e-5 * max(np.abs(a).max(), np.abs(b).max()) ** 2 + 1e-6
        assert least - 0.01 * least - scale <= found.lower[i, 0] <= least + scale
        largest = of(corners(a, b)).max()
        assert largest - scale <= found.upper[i, 0] <= 1.5 * largest + scale


@pytest.mark.slow
@pytest.mark.parametrize("fn", [layer_norm, rms_norm])
def test_no_value_of_a_normalization_leaves_its_bounds(fn):
    low, high = random_boxes(2, 100, 5)

    def run(box):
        return bounds.ibp(fn, box), bounds.crown(fn, box, intermediate="ibp"), bounds.crown(lambda x: fn(2 * x), box)

    found = jax.tree.map(np.asarray, jax.jit(run)(Interval(low, high)))
    fraction = np.random.default_rng(3).random((300, 1, 5))
    points = np.concatenate([low + fraction * (high - low), np.stack([corners(*b) for b in zip(low, high)], 1)])  # noqa: B905
    with jax.enable_x64(True):
        once, twice = (np.asarray(jax.vmap(fn)(factor * points.astype(np.float64))) for factor in (1, 2))
    largest = np.sqrt(4 if fn is layer_norm else 5)
    for interval, values in zip(found, (once, once, twice), strict=True):
        slack = 2e-5 * np.maximum(1, np.abs(points).max((0, 2)))[:, None]  # the deviations of large values cancel
        narrow = np.abs(points - points.mean(-1, keepdims=True)).max((0, 2)) < 0.1  # equal values, to rounding
        slack = np.where(narrow[:, None], np.maximum(slack, 0.02), slack)
        outside = np.maximum(interval.lower - values, values - interval.upper).max(0)
        assert (outside <= slack).all(), (outside - slack).max()
        assert (interval.lower >= -largest - 1e-4).all() and (interval.upper <= largest + 1e-4).all()
    exact = (low == high).all(-1) & ~narrow
    np.testing.assert_allclose(found[0].lower[exact], found[0].upper[exact], atol=1e-4)
    assert (found[1].lower >= found[0].lower - slack).all() and (found[1].upper <= found[0].upper + slack).all()


def test_values_are_at_most_the_root_of_their_number():
    """An interval of the quotient alone would be 1000 times as wide, because the variance may vanish."""
    box = Interval(jnp.full((1, 17), -5.0), jnp.full((1, 17), 5.0))
    found = bounds.ibp(layer_norm, box)
    np.testing.assert_allclose(found.upper, 4, rtol=1e-5)
    np.testing.assert_allclose(found.lower, -4, rtol=1e-5)
    one_against_others = np.where(np.arange(17) == 0, 5.0, -5.0)[None]
    assert layer_norm(one_against_others)[0, 0] == pytest.approx(4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("layer", [nn.LayerNorm, nn.RMSNorm])
def test_normalizations_of_half_precision_models_are_bounded(dtype, layer):
    fn = in_linen(layer(dtype=dtype))
    x = jnp.asarray(X, dtype)
    box = Interval(x - jnp.asarray(0.25, dtype), x + jnp.asarray(0.25, dtype))
    found = jax.tree.map(np.asarray, jax.jit(lambda box: bounds.ibp(fn, box))(box))
    fraction = RNG.random((200, *X.shape)).round()
    points = np.asarray(box.lower, np.float32) * (1 - fraction) + np.asarray(box.upper, np.float32) * fraction
    values = np.asarray(jax.jit(jax.vmap(fn))(points.astype(dtype)), np.float32)
    assert np.isfinite(found.lower).all() and (found.upper - found.lower < 20).all()
    assert (values >= found.lower - 0.05).all() and (values <= found.upper + 0.05).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fn", "x"),
    [
        (lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), jnp.zeros((1, 3))),  # NaN at 0
        (rms_norm, jnp.full((1, 3), 1e25)),  # its squares overflow
        (in_linen(nn.LayerNorm(use_bias=False, use_scale=False)), jnp.full((1, 1, 8), 1e25)),
    ],
)
def test_what_may_not_be_a_number_is_not_bounded(fn, x):
    for method in bounds.METHODS:
        box = Interval(x - 0.1, x + 0.1)
        of = lambda x: fn(x).reshape(1, -1)  # noqa: E731
        found = bounds.ibp(of, box) if method == "ibp" else bounds.margins(of, box, np.array([0]), method=method)
        assert not np.isfinite(jax.tree.leaves(found)[0]).any()


class Block(nn.Module):
    """A block of a vision transformer, and logits."""

    @nn.compact
    def __call__(self, x):
        """`[B, tokens, width] -> [B, 10]`."""
        width = x.shape[-1]
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = x + nn.Dense(width)(nn.gelu(nn.Dense(2 * width)(nn.LayerNorm()(x))))
        return nn.Dense(10)(x.reshape(len(x), -1))


@pytest.mark.slow
def test_a_transformer_block_has_useful_bounds():
    """The width of the bounds against the range of corners of the box, with the default parameters of flax."""
    x = np.random.default_rng(0).random((1, 8, 16), np.float32)
    net = Block()
    params = net.init(jax.random.key(0), x)
    fn = partial(net.apply, params)
    low, high = bounds.linf_box(x, 0.002)
    points = np.where(np.random.default_rng(1).random((1000, 8, 16)) < 0.5, low, high)
    values = np.asarray(jax.jit(fn)(points))
    extent = (values.max(0) - values.min(0)).max()
    for intermediate, goal in (("ibp", 100), ("crown", 10)):
        found = jax.jit(lambda box, i=intermediate: bounds.crown(fn, box, intermediate=i))(Interval(low, high))
        assert (values >= found.lower - 1e-4).all() and (values <= found.upper + 1e-4).all()
        assert (found.upper - found.lower).max() <= goal * extent
