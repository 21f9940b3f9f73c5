"""Interval bound propagation: every rule holds every value, and those that can be exact are."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from invjax import bounds
from invjax.bounds import Interval, ibp
from invjax.bounds import _interval as rules

W = np.random.default_rng(7).normal(size=(6, 4))
KERNEL = np.random.default_rng(8).normal(size=(3, 3, 2, 3))


@pytest.fixture(autouse=True, scope="module")
def in_double_precision():
    """What should be equal can be compared exactly."""
    with jax.enable_x64(True):
        yield


def conv(x, strides=(1, 1), **more):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, jnp.asarray(KERNEL), strides, "SAME", dimension_numbers=layout, **more)


def scanned(x):
    return lax.scan(lambda c, w: (jax.nn.relu(c * w), c.sum()), x, jnp.array([1.0, -2.0, 0.5]), reverse=True)


@jax.custom_vjp
def twice(x):
    return 2 * x


twice.defvjp(lambda x: (twice(x), None), lambda _, g: (g,))

AFFINE, EACH = "affine", "of one value each"
# name: (function, shape of its input, reason why its bounds are exact, lowest and highest input)
FUNCTIONS = {
    "dense": (lambda x: x @ W + 1.0, (5, 6), AFFINE, -2, 2),
    "dense from the left": (lambda x: W @ x, (4, 5), AFFINE, -2, 2),
    "conv": (conv, (2, 5, 4, 2), AFFINE, -2, 2),
    "strided conv": (partial(conv, strides=(2, 2)), (2, 5, 4, 2), AFFINE, -2, 2),
    "dilated conv": (partial(conv, rhs_dilation=(2, 2)), (2, 5, 4, 2), AFFINE, -2, 2),
    "relu": (jax.nn.relu, (9,), EACH, -2, 2),
    "relu6": (jax.nn.relu6, (9,), EACH, -2, 8),
    "leaky relu": (jax.nn.leaky_relu, (9,), EACH, -2, 2),
    "falling leaky relu": (lambda x: jax.nn.leaky_relu(x, -0.5), (99,), EACH, -2, 2),
    "elu": (jax.nn.elu, (9,), EACH, -2, 2),
    "selu": (jax.nn.selu, (9,), EACH, -2, 2),
    "celu": (jax.nn.celu, (9,), EACH, -2, 2),
    "softplus": (jax.nn.softplus, (9,), EACH, -2, 2),
    "log sigmoid": (jax.nn.log_sigmoid, (9,), EACH, -2, 2),
    "silu": (jax.nn.silu, (99,), EACH, -5, 2),
    "gelu": (jax.nn.gelu, (9,), None, -5, 2),
    "hard tanh": (jax.nn.hard_tanh, (9,), None, -2, 2),
    "tanh": (jnp.tanh, (9,), EACH, -2, 2),
    "sigmoid": (jax.nn.sigmoid, (9,), EACH, -2, 2),
    "exp": (jnp.exp, (9,), EACH, -2, 2),
    "log": (jnp.log, (9,), EACH, 0.1, 2),
    "sqrt": (jnp.sqrt, (9,), EACH, 0.1, 2),
    "rsqrt": (lax.rsqrt, (9,), EACH, 0.1, 2),
    "erf": (lax.erf, (9,), EACH, -2, 2),
    "erfc": (lax.erfc, (9,), EACH, -2, 2),
    "abs": (jnp.abs, (99,), EACH, -2, 2),
    "square": (jnp.square, (99,), EACH, -2, 2),
    "cube": (lambda x: x**3, (99,), EACH, -2, 2),
    "fourth power": (lambda x: x**4, (99,), EACH, -2, 2),
    "reciprocal": (lambda x: 1 / x, (9,), EACH, 0.1, 2),
    "negative reciprocal": (lambda x: -3 / x**2, (9,), None, -2, -0.1),
    "negative, scaled, shifted": (lambda x: (1 - x) / -4 * np.arange(-4, 5), (9,), AFFINE, -2, 2),
    "subtraction": (lambda x: x[:4] - x[4:], (8,), AFFINE, -2, 2),
    "product": (lambda x: x[:4] * x[4:], (8,), None, -2, 2),
    "quotient": (lambda x: x[:4] / x[4:], (8,), None, 0.5, 2),
    "product of matrices": (lambda x: x[:3] @ x[3:].T, (6, 4), None, -2, 2),
    "maximum of two": (lambda x: jnp.maximum(x[:4], x[4:]), (8,), None, -2, 2),
    "minimum": (lambda x: jnp.minimum(x.min(), 1.0), (8,), None, -2, 2),
    "clip": (lambda x: jnp.clip(x, -1, 1), (9,), EACH, -2, 2),
    "max pooling": (lambda x: nn.max_pool(x, (2, 2), (1, 2)), (1, 4, 4, 2), None, -2, 2),
    "max over axes": (lambda x: x.reshape(1, 2, 2, 2, 2, 2).max((2, 4)), (1, 4, 4, 2), None, -2, 2),
    "mean pooling": (lambda x: nn.avg_pool(x, (2, 2), (2, 2)), (1, 4, 4, 2), AFFINE, -2, 2),
    "sums": (lambda x: x.sum(0) + x.mean(1) + jnp.cumsum(x, 0)[1], (3, 3), None, -2, 2),
    "moved": (lambda x: jnp.flip(jnp.pad(x.T, ((0, 1), (2, 0)))[1:, None], 2), (3, 4), AFFINE, -2, 2),
    "taken": (lambda x: x[np.array([2, 0, 0])] + lax.dynamic_slice(x, (1, 0), (3, 4)), (4, 4), None, -2, 2),
    "filled": (lambda x: x.at[np.array([1, 9])].get(mode="fill", fill_value=-5.0), (4, 4), AFFINE, -2, 2),
    "written": (lambda x: jnp.ones((5, 4)).at[1:4].set(x), (3, 4), AFFINE, -2, 2),
    "joined": (lambda x: jnp.concatenate([x, jnp.ones((1, 4)), *jnp.split(x, 3)]), (3, 4), AFFINE, -2, 2),
    "repeated": (lambda x: x.repeat(3, 1), (3, 4), AFFINE, -2, 2),
    "chosen": (lambda x: jnp.where(np.arange(4)[None] > 1, x, -1.0), (3, 4), AFFINE, -2, 2),
    "chosen by its value": (lambda x: jnp.where(x > 0.5, 2.0, jnp.where(x <= -1, -3.0, 1.0)), (99,), EACH, -2, 2),
    "chosen by two comparisons": (lambda x: jnp.where((x > -1) & ~(x > 1), x, 0.0), (99,), None, -2, 2),
    "unequal": (lambda x: jnp.where(jnp.isnan(x), 0.0, x), (9,), None, -2, 2),
    "log softmax": (lambda x: jax.nn.log_softmax(x), (2, 4), None, -2, 2),
    "scaled and shifted channels": (lambda x: (x - W[None, 0]) * jnp.exp(W[None, 1]), (3, 4), AFFINE, -2, 2),
    "jitted": (jax.jit(lambda x: jax.jit(jnp.tanh)(x)), (9,), EACH, -2, 2),
    "checkpointed": (jax.checkpoint(lambda x: jnp.tanh(x @ W)), (2, 6), None, -2, 2),
    "with a derivative of its own": (twice, (9,), EACH, -2, 2),
    "not to be differentiated": (lambda x: lax.stop_gradient(x) + 1, (9,), EACH, -2, 2),
    "scanned": (lambda x: scanned(x)[0], (9,), EACH, -2, 2),
    "scanned, all steps": (lambda x: scanned(x)[1], (9,), None, -2, 2),
}
EVERY = pytest.mark.parametrize("name", FUNCTIONS)


def boxes(name):
    """A box, and points of it: corners, points on its faces, points inside."""
    _, shape, _, low, high = FUNCTIONS[name]
    rng = np.random.default_rng(len(name))
    a, b = rng.uniform(low, high, (2, *shape))
    box = Interval(np.minimum(a, b), np.maximum(a, b))
    fraction = rng.random((600, *shape)).round()
    fraction[300:] = np.where(rng.random((300, *shape)) < 0.5, fraction[300:], rng.random((300, *shape)))
    return box, box.lower + fraction * (box.upper - box.lower)


@cache
def bounds_of(name):
    """The bounds of a function over its box, as NumPy arrays."""
    return in_numpy(partial(ibp, FUNCTIONS[name][0]), boxes(name)[0])


def in_numpy(run, *arguments):
    return jax.tree.map(np.asarray, jax.jit(run)(*arguments))


@EVERY
def test_every_value_is_inside_the_bounds(name):
    function, points, found = FUNCTIONS[name][0], boxes(name)[1], bounds_of(name)
    values = in_numpy(jax.vmap(function), points)
    assert found.lower.shape == values.shape[1:] and found.lower.dtype == np.float64
    assert (values >= found.lower[None] - 1e-12).all() and (values <= found.upper[None] + 1e-12).all()
    assert (found.lower <= found.upper).all()


@pytest.mark.parametrize("name", [name for name, member in FUNCTIONS.items() if member[2] == EACH])
def test_bounds_of_a_function_of_one_value_are_its_extremes(name):
    (box, _), found = boxes(name), bounds_of(name)
    grid = box.lower + np.linspace(0, 1, 4001)[:, None] * (box.upper - box.lower)
    values = in_numpy(jax.vmap(FUNCTIONS[name][0]), grid)
    np.testing.assert_allclose(found.lower, values.min(0), atol=1e-3)
    np.testing.assert_allclose(found.upper, values.max(0), atol=1e-3)


@pytest.mark.parametrize("name", [name for name, member in FUNCTIONS.items() if member[2] == AFFINE])
def test_bounds_of_an_affine_function_are_exact(name):
    """With J its matrix, the value in the middle plus and minus |J| times the half widths."""
    function, shape, *_ = FUNCTIONS[name]
    (box, _), found = boxes(name), bounds_of(name)
    at = (box.lower + box.upper) / 2
    matrix, middle = in_numpy(lambda x: (jax.jacfwd(function)(x), function(x)), at)
    reach = np.tensordot(np.abs(matrix), (box.upper - box.lower) / 2, len(shape))
    np.testing.assert_allclose(found.lower, middle - reach, atol=1e-12)
    np.testing.assert_allclose(found.upper, middle + reach, atol=1e-12)


def test_a_tiny_network_by_hand():
    """Hidden: x1 - x2 in [-1, 1], x1 + 2 x2 - 1 in [-1, 2]; relu: [0, 1], [0, 2]; output: h1 - h2 + 0.5."""

    def net(x):
        hidden = jax.nn.relu(x @ jnp.array([[1.0, 1.0], [-1.0, 2.0]]) + jnp.array([0.0, -1.0]))
        return hidden @ jnp.array([1.0, -1.0]) + 0.5

    found = in_numpy(partial(ibp, net), Interval(np.zeros(2), np.ones(2)))
    assert (float(found.lower), float(found.upper)) == (-1.5, 1.5)


def test_values_that_do_not_depend_on_the_input_are_exact():
    fixed = jnp.sin(jnp.arange(4.0))  # constants need no rule for sin
    found = ibp(lambda x: {"fixed": jnp.sin(jnp.arange(4.0)), "sum": x + fixed}, Interval(jnp.zeros(4), jnp.ones(4)))
    assert isinstance(found["fixed"], Interval)
    np.testing.assert_array_equal(found["fixed"].lower, fixed)
    np.testing.assert_array_equal(found["fixed"].upper, fixed)
    np.testing.assert_array_equal(found["sum"].upper, fixed + 1)


def test_unused_operations_need_no_rule():
    found = ibp(lambda x: (x + 1, jnp.sin(x))[0], Interval(jnp.zeros(4), jnp.ones(4)))
    np.testing.assert_array_equal(found.upper, 2)


def test_a_pole_inside_the_box_is_unbounded():
    found = ibp(lambda x: 1 / x, Interval(jnp.array([-1.0, 0.5]), jnp.array([1.0, 1.0])))
    assert found.lower.tolist() == [-np.inf, 1] and found.upper.tolist() == [np.inf, 2]


def test_a_point_is_mapped_to_a_point():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 2))
    net = lambda x: jnp.tanh(conv(x)).sum((1, 2)) @ W[:3]  # noqa: E731
    found, value = in_numpy(lambda x: (ibp(net, Interval(x, x)), net(x)), x)
    np.testing.assert_allclose(found.lower, found.upper, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.lower, value, atol=1e-12)


def test_bounds_have_the_gradient_that_differences_show():
    box, _ = boxes("dense")

    @jax.jit
    @jax.value_and_grad
    def width(scale):
        found = ibp(lambda x: jax.nn.softplus(jax.nn.relu(x @ (scale * W))), Interval(*map(jnp.asarray, box)))
        return (found.upper - found.lower).sum()

    difference = (width(1.3 + 1e-6)[0] - width(1.3 - 1e-6)[0]) / 2e-6
    np.testing.assert_allclose(width(1.3)[1], difference, rtol=1e-6)


def test_bounds_keep_float32_and_do_not_trust_the_name_of_a_function():
    @jax.jit
    def elu(x):  # a decreasing function with the name of one of jax.nn
        return 3 - x

    found = ibp(elu, Interval(jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.float32)))
    assert found.lower.dtype == jnp.float32
    assert found.lower.tolist() == [2, 2] and found.upper.tolist() == [3, 3]


def test_an_activation_has_the_same_bounds_after_the_precision_changes():
    box = Interval(jnp.full(11, -1, jnp.float32), jnp.full(11, 1, jnp.float32))
    for x64 in (False, True, False):
        with jax.enable_x64(x64):
            np.testing.assert_allclose(ibp(jax.nn.elu, box).lower, np.expm1(-1), rtol=1e-6)


OUT_OF_ITS_DOMAIN = {
    # a box that exceeds the domain of the function, and a point of the box inside the domain
    "root": (lambda x: jnp.sqrt(x - 0.5), (0.0, 1.0), 0.75),
    "log": (jnp.log, (-1.0, 1.0), 0.5),
    "inverse error function": (lax.erf_inv, (0.0, 2.0), 0.5),
    "choice by a log": (lambda x: jnp.where(jnp.log(x - 0.2) < -1, -100.0, 1.0), (0.0, 1.2), 0.3),
    "choice by an inverse root": (lambda x: jnp.where(lax.rsqrt(x) > 2, -100.0, 1.0), (-1.0, 3.0), 0.1),
    "inverse root up to -0": (lambda x: lax.rsqrt(-x), (-1.0, 0.0), -0.01),
}


@pytest.mark.parametrize("name", OUT_OF_ITS_DOMAIN)
def test_bounds_are_infinite_where_a_function_may_be_undefined(name):
    function, (low, high), point = OUT_OF_ITS_DOMAIN[name]
    sign = -1 if "choice" in name else 1

    def logits(x):
        return jnp.stack([jnp.full(len(x), 3.0), sign * function(x[:, 0])], 1)

    def run(low, high, point):
        box = Interval(low[None], high[None])
        margins = [bounds.margins(logits, box, np.zeros(1, int), method=method) for method in bounds.METHODS]
        return ibp(function, Interval(low, high)), function(point), margins

    found, value, margins = in_numpy(run, np.full(1, low), np.full(1, high), np.full(1, point))
    nothing = np.isnan(found.lower) & np.isnan(found.upper)
    assert ((found.lower <= value) & (value <= found.upper) | nothing).all(), found
    assert not np.concatenate([bounds.certified(margin) for margin in margins]).any()


# Bad input


def test_a_primitive_without_a_rule_is_named_and_can_be_given_one(monkeypatch):
    box = Interval(jnp.full(2, 2.0), jnp.full(2, 3.0))
    with pytest.raises(NotImplementedError, match=r"primitive 'lgamma'.*bounds.register_rule\('lgamma', rule\)"):
        ibp(lax.lgamma, box)
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    bounds.register_rule(lax.lgamma_p, bounds.increasing)  # from 1.47 on
    np.testing.assert_allclose(ibp(lax.lgamma, box).upper, np.log(2))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.ones(3)[x.astype(int)], "converts a value to int"),
        (lambda x: x[x.argmax()], "array positions that depend on the input"),
        (lambda x: lax.reduce(x, 0.0, lambda a, b: jnp.sqrt(a * a + b * b), (0,)), "'reduce'"),
        (lambda x: lax.while_loop(lambda v: v.sum() < 1, lambda v: v + 1, x), "'while'"),
    ],
)
def test_functions_without_interval_bounds_are_refused(function, message):
    with pytest.raises(NotImplementedError, match=message):
        ibp(function, Interval(jnp.zeros(2), jnp.ones(2)))


def test_dropout_is_refused():
    dropout = nn.Dropout(0.5, deterministic=False)
    with pytest.raises(ValueError, match=r"draws random numbers \(random_\w+\).*switch off dropout"):
        ibp(lambda x: dropout.apply({}, x, rngs={"dropout": jax.random.key(0)}), Interval(jnp.zeros(2), jnp.ones(2)))


@pytest.mark.parametrize(
    "noise",
    [
        lambda key: lax.cond(True, lambda: jax.random.normal(key, (2,)), lambda: jnp.zeros(2)),
        lambda key: jax.random.gamma(key, 1.0, (2,)),
    ],
)
def test_noise_inside_of_other_operations_is_refused(noise):
    key = jax.random.key(0)  # made outside, because a new key is refused, too
    with pytest.raises(ValueError, match="draws random numbers"):
        ibp(lambda x: x + noise(key), Interval(jnp.zeros(2), jnp.ones(2)))


def test_a_ball_is_refused():
    with pytest.raises(ValueError, match=r"ibp needs an Interval; got Ball; use linf_box"):
        ibp(jnp.tanh, bounds.l2_ball(jnp.ones((1, 2)), 0.1))


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0.0, 2.0], [1.0, 1.0], "upper must be at least lower; got 1 of 2 values below"),
        ([0.0, np.nan], [1.0, 1.0], "lower holds 1 NaN or infinite values of 2"),
        ([0.0, 0.0], [1.0, np.inf], "upper holds 1 NaN or infinite values of 2"),
        ([0, 0], [1, 1], "lower must be floating point; got dtype int64"),
        ([0.0], [1.0, 1.0], "lower and upper must have the same shape and dtype; got (1,) float64 and (2,) float64"),
    ],
)
def test_bad_input_bounds_are_refused(lower, upper, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ibp(jnp.tanh, Interval(np.array(lower), np.array(upper)))
