"""Linear bounds: equal to an independent CROWN, to linear programs and to closed forms where those exist."""

from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax import lax

from invjax import bounds
from invjax.bounds import Ball, Interval, _backwards

INFINITE = (-np.inf, np.inf)


@pytest.fixture(autouse=True, scope="module")
def in_double_precision():
    """What should be equal can be compared exactly."""
    with jax.enable_x64(True):
        yield


def in_numpy(run, *arguments):
    """What a function returns, compiled as a whole, as NumPy arrays: no test compiles its own comparisons."""
    return jax.tree.map(np.asarray, jax.jit(run)(*arguments))


def crown(fn, region, **choices):
    return in_numpy(lambda region: bounds.crown(fn, region, **choices), region)


def ibp(fn, interval):
    return in_numpy(lambda interval: bounds.ibp(fn, interval), interval)


def margins(fn, region, labels, **choices):
    return in_numpy(lambda region, labels: bounds.margins(fn, region, labels, **choices), region, labels)


def linf_box(x, eps, box=(0.0, 1.0)):
    """`bounds.linf_box` in NumPy, which `test_base` tests: it would be compiled for every shape."""
    return Interval(np.clip(x - eps, *box), np.clip(x + eps, *box))


def l2_ball(x, eps, box=(0.0, 1.0)):
    return Ball(x, np.full(len(x), eps), linf_box(x, eps, box))


def mlp(widths, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=pair) / np.sqrt(pair[0]), rng.normal(size=pair[1])) for pair in pairwise(widths)]


def apply(layers, x):
    for i, (w, b) in enumerate(layers):
        x = (jax.nn.relu(x) if i else x) @ w + b[None]
    return x


def bounds_by_hand(layers, x, eps, intermediate):
    """CROWN for a ReLU network and one image, in NumPy: matrices and loops, layer by layer.

    Returns the bounds of the last layer's outputs; `intermediate` is "crown" or "ibp".
    """
    known = []  # bounds of the inputs of each ReLU layer

    def backwards(last, rows):
        """Lower bounds of rows @ (output of the layer `last`)."""
        matrix, offset = rows @ layers[last][0].T, rows @ layers[last][1]
        for i in reversed(range(last)):
            for r in range(len(rows)):
                for j in range(matrix.shape[1]):
                    low, high = known[i][0][j], known[i][1][j]
                    if low >= 0:
                        continue
                    if high <= 0:
                        matrix[r, j] = 0
                    elif matrix[r, j] > 0:
                        matrix[r, j] *= 1 if high > -low else 0
                    else:
                        offset[r] += matrix[r, j] * -low * high / (high - low)
                        matrix[r, j] *= high / (high - low)
            offset = offset + matrix @ layers[i][1]
            matrix = matrix @ layers[i][0].T
        return matrix @ x + offset - eps * np.abs(matrix).sum(1)

    low, high = x - eps, x + eps
    for i, (w, b) in enumerate(layers):
        if i:
            low, high = np.maximum(low, 0), np.maximum(high, 0)
        positive, negative = np.maximum(w, 0), np.minimum(w, 0)
        low, high = low @ positive + high @ negative + b, high @ positive + low @ negative + b
        if intermediate == "crown" or i == len(layers) - 1:
            eye = np.eye(w.shape[1])
            low, high = np.maximum(low, backwards(i, eye)), np.minimum(high, -backwards(i, -eye))
        known.append((low, high))
    return low, high


@cache
def crown_of_a_network(intermediate):
    """Compiled once for all radii."""
    return jax.jit(partial(bounds.crown, partial(apply, mlp((6, 8, 7, 4))), intermediate=intermediate))


@pytest.mark.parametrize("intermediate", ["crown", "ibp"])
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.5])
def test_crown_equals_an_independent_implementation(intermediate, eps):
    layers, x = mlp((6, 8, 7, 4)), np.random.default_rng(1).normal(size=(3, 6))
    found = jax.tree.map(np.asarray, crown_of_a_network(intermediate)(linf_box(x, eps, box=INFINITE)))
    for i in range(3):
        low, high = bounds_by_hand(layers, x[i], eps, "ibp")
        if intermediate == "crown":  # either bound can be the better one
            low_by_crown, high_by_crown = bounds_by_hand(layers, x[i], eps, "crown")
            low, high = np.maximum(low, low_by_crown), np.minimum(high, high_by_crown)
        np.testing.assert_allclose(found.lower[i], low, rtol=1e-10)
        np.testing.assert_allclose(found.upper[i], high, rtol=1e-10)


def test_methods_are_ordered_and_differ():
    layers, x = mlp((6, 8, 7, 4)), np.random.default_rng(1).normal(size=(3, 6))
    region, labels = linf_box(x, 0.2, box=INFINITE), np.array([0, 1, 3])
    run = partial(margins, partial(apply, layers), region, labels)
    found = [np.asarray(run(method=method)) for method in bounds.METHODS]
    assert len(found) == 4 and found[0].shape == (3, 3)
    for cheap, dear in pairwise(found):
        assert (cheap <= dear + 1e-12).all() and (cheap < dear - 1e-3).any()


def least(objective, box, layers):
    """The linear program of one hidden layer with the triangle relaxation of its ReLUs: least `objective @ relu`."""
    (w, b), inputs, units = layers[0], layers[0][0].shape[0], layers[0][0].shape[1]
    middle, reach = (box.lower + box.upper)[0] / 2, (box.upper - box.lower)[0] / 2
    low, high = middle @ w + b - reach @ np.abs(w), middle @ w + b + reach @ np.abs(w)
    rows, right = [], []
    for j in range(units):  # variables x, then h: h >= 0, h >= w x + b, h <= chord
        unit = np.eye(units)[j]
        rows.append(np.concatenate([w[:, j], -unit]))
        right.append(-b[j])
        slope = (max(high[j], 0) - max(low[j], 0)) / (high[j] - low[j])
        rows.append(np.concatenate([-slope * w[:, j], unit]))
        right.append(max(low[j], 0) + slope * (b[j] - low[j]))
    limits = [*zip(box.lower[0], box.upper[0], strict=True), *[(0, None)] * units]
    cost = np.concatenate([np.zeros(inputs), objective])
    return scipy.optimize.linprog(cost, np.array(rows), np.array(right), bounds=limits).fun


@jax.jit
def one_hidden_layer(layers, box):
    """The bounds of CROWN and of IBP, compiled once for all weights."""
    return bounds.crown(partial(apply, layers), box), bounds.ibp(partial(apply, layers), box)


@pytest.mark.parametrize("seed", range(3))
def test_crown_equals_the_linear_program_if_only_chords_matter(seed):
    """With negative weights after the ReLUs a lower bound uses their upper lines, of which there is one choice."""
    layers = mlp((5, 9, 1), seed)
    layers[1] = (-np.abs(layers[1][0]), np.zeros(1))
    box = linf_box(np.random.default_rng(seed).normal(size=(1, 5)), 0.4, box=INFINITE)
    found, outer = jax.tree.map(np.asarray, one_hidden_layer(layers, box))
    expected = least(layers[1][0][:, 0], box, layers)
    np.testing.assert_allclose(found.lower[0, 0], expected, rtol=1e-7)
    assert found.lower[0, 0] > outer.lower[0, 0] + 1e-3


def test_crown_is_never_tighter_than_the_linear_program():
    layers = mlp((5, 9, 1), 4)
    layers[1] = (layers[1][0], np.zeros(1))
    box = linf_box(np.random.default_rng(4).normal(size=(1, 5)), 0.4, box=INFINITE)
    found = np.asarray(one_hidden_layer(layers, box)[0].lower)[0, 0]
    assert found <= least(layers[1][0][:, 0], box, layers) + 1e-9


@pytest.mark.parametrize("method", bounds.METHODS)
@pytest.mark.parametrize("threat", ["linf", "l2"])
def test_margins_of_a_linear_network_are_exact(method, threat):
    """The least margin over a ball is the margin minus eps times the dual norm of the difference of two columns."""
    ((w, b),), x, labels = mlp((6, 4)), np.random.default_rng(1).normal(size=(3, 6)), np.array([2, 0, 3])
    region = (linf_box if threat == "linf" else l2_ball)(x, 0.3, box=INFINITE)
    found = margins(lambda x: x @ w + b[None], region, labels, method=method)
    for i, y in enumerate(labels):
        others = [k for k in range(4) if k != y]
        direction = w[:, [y]] - w[:, others]
        norm = np.abs(direction).sum(0) if threat == "linf" else np.sqrt((direction**2).sum(0))
        expected = x[i] @ direction + b[y] - b[others] - 0.3 * norm
        np.testing.assert_allclose(found[i], expected, rtol=1e-12)


def test_a_ball_is_also_clipped_to_the_box():
    x = np.full((1, 4), 0.1)
    clipped = crown(lambda x: x.sum(1, keepdims=True), l2_ball(x, 1.0))
    assert float(clipped.lower[0, 0]) == 0.0  # the ball alone gives 0.4 - 2
    np.testing.assert_allclose(clipped.upper[0, 0], 0.4 + 2)


def test_a_ball_gives_better_bounds_than_its_box_and_holds_all_samples():
    layers, x = mlp((6, 8, 7, 4)), np.random.default_rng(1).normal(size=(3, 6))
    ball = l2_ball(x, 0.3, box=INFINITE)
    found, of_box = crown(partial(apply, layers), ball), crown_of_a_network("crown")(ball.box)
    assert (found.lower >= of_box.lower).all() and (found.upper < of_box.upper).all()
    steps = np.random.default_rng(2).normal(size=(500, 3, 6))
    points = x + 0.3 * steps / np.linalg.norm(steps, axis=-1, keepdims=True)
    values = in_numpy(jax.vmap(partial(apply, layers)), points)
    assert (values >= found.lower[None]).all() and (values <= found.upper[None]).all()


# Functions of each operation: x [B, 6] -> [B, n]
PIECES = {
    "cancelled": lambda x: x * 3 - 2 * x - x + 1,
    "leaky relu": jax.nn.leaky_relu,
    "steep leaky relu": lambda x: jax.nn.leaky_relu(x, 3.0),
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "erf": lax.erf,
    "relu6": lambda x: jax.nn.relu6(4 * x),
    "exp": jnp.exp,
    "log": lambda x: jnp.log(x + 5),
    "sqrt": lambda x: jnp.sqrt(x + 5),
    "abs": jnp.abs,
    "square": jnp.square,
    "cube": lambda x: x**3,
    "reciprocal": lambda x: 1 / (x + 5),
    "product": lambda x: x[:, :3] * x[:, 3:],
    "quotient": lambda x: x[:, :3] / (x[:, 3:] + 5),
    "maximum of two": lambda x: jnp.maximum(x[:, :3], x[:, 3:]),
    "minimum": lambda x: jnp.minimum(x, 0.2),
    "max over axes": lambda x: x.reshape(-1, 2, 3).max(1),
    "overlapping windows": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 1), "VALID"),
    "mean in windows": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2), (1, 2), "VALID") / 2,
    "log softmax": jax.nn.log_softmax,
    "normalised": lambda x: (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 0.1),
    "split and joined": lambda x: jnp.concatenate([*jnp.split(jnp.tanh(x), 2, 1), jnp.ones((len(x), 1))], 1),
    "chosen": lambda x: jnp.where(np.arange(6)[None] > 2, x, -1.0),
    "chosen by its value": lambda x: jnp.where(x > 0.1, x, x**2),
    "scanned": lambda x: lax.scan(lambda c, w: (jax.nn.relu(c * w), None), x, jnp.array([1.0, -2.0, 0.5]))[0],
}


# one operation of each kind of rule; the slow tier tests the others
FAST = ("cancelled", "leaky relu", "elu", "gelu", "tanh", "exp", "abs", "cube", "reciprocal", "product", "quotient",
        "maximum of two", "max over axes", "log softmax", "normalised", "split and joined", "chosen by its value",
        "scanned")  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in PIECES])
def test_linear_bounds_hold_every_value_and_are_inside_interval_bounds(name):
    """Between layers that mix: its inputs depend on each other, and what is subtracted from it depends on them, too."""
    (w, _), piece = mlp((6, 6))[0], PIECES[name]
    rng = np.random.default_rng(len(name))
    slopes = rng.normal(size=(6, jax.eval_shape(piece, jnp.zeros((1, 6))).shape[1]))

    def function(x):
        value = piece(x @ w)
        return jnp.concatenate([value, value - x @ slopes, value[:, :6] - (x @ w)[:, : value.shape[1]]], 1)

    x = rng.normal(size=(4, 6))
    box = Interval(x - rng.random((4, 6)), x + rng.random((4, 6)) ** 3)
    found, outer = in_numpy(lambda box: (bounds.crown(function, box), bounds.ibp(function, box)), box)
    assert (found.lower >= outer.lower - 1e-12).all() and (found.upper <= outer.upper + 1e-12).all()
    ends = rng.random((1000, 4, 6)) < 0.7
    fraction = np.where(ends, rng.random((1000, 4, 6)).round(), rng.random((1000, 4, 6)))
    values = in_numpy(jax.vmap(function), box.lower + fraction * (box.upper - box.lower))
    assert (values >= found.lower[None] - 1e-12).all() and (values <= found.upper[None] + 1e-12).all()


@pytest.mark.parametrize(
    "name", ["tanh", "softplus", "square", "exp", "max over axes", "product", "normalised", "log softmax", "elu"]
)
def test_lines_are_tighter_than_intervals_where_values_depend_on_each_other(name):
    """The difference of a piece and its own linear part: intervals forget that both move together."""
    (w, _), piece = mlp((6, 6))[0], PIECES[name]
    x = np.random.default_rng(3).normal(size=(4, 6))
    box = linf_box(x, 0.05, box=INFINITE)

    @jax.jit
    def both(box):
        push = jax.vmap(jax.jacrev(lambda v: piece(v[None] @ w)[0]))
        slopes = push((box.lower + box.upper) / 2).mean(0)
        function = lambda x: piece(x @ w) - x @ slopes.T  # noqa: E731
        return bounds.crown(function, box, intermediate="ibp"), bounds.ibp(function, box)

    found, outer = jax.tree.map(np.asarray, both(box))
    assert ((found.upper - found.lower) < 0.9 * (outer.upper - outer.lower)).mean() > 0.5


def test_a_maximum_with_a_certain_winner_is_exact():
    """Of (x1, x2) the first is at least 2 and the second at most 1; a tie has no certain winner."""
    box = Interval(np.array([[2.0, 0.0]]), np.array([[4.0, 1.0]]))
    found = crown(lambda x: x.max(1, keepdims=True) - x[:, :1], box)
    assert float(found.lower[0, 0]) == float(found.upper[0, 0]) == 0
    tied = crown(lambda x: x.max(1, keepdims=True), Interval(np.zeros((1, 2)), np.array([[1.0, 2.0]])))
    assert float(tied.upper[0, 0]) == 2


def test_a_log_softmax_does_not_change_the_margins():
    layers, x = mlp((6, 8, 4)), np.random.default_rng(1).normal(size=(3, 6))
    region, labels = linf_box(x, 0.1, box=INFINITE), np.array([0, 1, 3])
    plain = margins(partial(apply, layers), region, labels)
    normalised = margins(lambda x: jax.nn.log_softmax(apply(layers, x)), region, labels)
    np.testing.assert_allclose(plain, normalised, rtol=1e-9)


def test_many_rows_go_in_batches(monkeypatch):
    layers, box = mlp((6, 8, 7, 4)), linf_box(np.zeros((3, 6)), 0.3, box=INFINITE)
    expected = crown_of_a_network("crown")(box)
    monkeypatch.setattr(_backwards, "_BATCH_SIZE", 4)
    found = crown(partial(apply, layers), box)
    np.testing.assert_allclose(found.lower, expected.lower, rtol=1e-12)
    np.testing.assert_allclose(found.upper, expected.upper, rtol=1e-12)


def test_a_new_primitive_falls_back_on_intervals_and_can_be_given_lines():
    box = Interval(np.full((1, 3), -0.2), np.full((1, 3), 0.3))
    function = lambda x: lax.sinh(x) - x  # noqa: E731
    coarse = crown(function, box)
    np.testing.assert_allclose(coarse.upper, np.sinh(0.3) + 0.2)

    def lines(function, interval):  # the slope of sinh is least at 0, where it is 1
        low, high = interval
        return bounds.Between(lambda x: function(low) + x - low, lambda x: function(high) + x - high)

    bounds.register_enclosure("sinh", lines)
    try:
        np.testing.assert_allclose(crown(function, box).upper, np.sinh(0.3) - 0.3, rtol=1e-9)
    finally:
        bounds.register_enclosure("sinh", lambda function, *intervals: None)


def test_constant_logits_have_constant_margins():
    region = linf_box(np.full((2, 3), 0.5), 0.1)
    found = margins(lambda x: jnp.array([[3.0, 1.0]]).repeat(len(x), 0), region, np.array([0, 1]))
    np.testing.assert_array_equal(found, [[2.0], [-2.0]])


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_margins_have_the_gradient_that_differences_show(method):
    layers, x = mlp((6, 8, 7, 4)), np.random.default_rng(1).normal(size=(3, 6))
    region, labels = linf_box(x, 0.2, box=INFINITE), np.array([0, 1, 3])

    @jax.jit
    @jax.value_and_grad
    def total(scale):
        scaled = [(scale * w, b) for w, b in layers]
        return bounds.margins(partial(apply, scaled), region, labels, method=method).sum()

    difference = (total(1.1 + 1e-6)[0] - total(1.1 - 1e-6)[0]) / 2e-6
    np.testing.assert_allclose(total(1.1)[1], difference, rtol=1e-5)


def test_gradients_at_a_point_and_of_dead_units_are_numbers():
    layers, x = mlp((6, 8, 4)), np.zeros((1, 6))
    dead = [(w * (np.arange(w.shape[1]) > 2)[None], 0 * b) for w, b in layers]

    @jax.jit
    @jax.grad
    def gradient(params, region):
        return bounds.margins(partial(apply, params), region, np.array([1])).sum()

    for region in (linf_box(x, 0.0), l2_ball(x, 0.0), l2_ball(x, 0.1, box=INFINITE)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(dead, region)))


# Bad input


BOX = linf_box(np.full((2, 6), 0.5), 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: bounds.margins(f, BOX, np.array([0, 1]), method="deeppoly"),
            "method must be one of 'ibp', 'crown-ibp', 'crown', 'alpha-crown'",
        ),
        (lambda f: bounds.margins(f, BOX, np.array([0, 1]), method="alpha-crown", steps=0), "steps must be positive"),
        (lambda f: bounds.crown(f, BOX, intermediate="none"), "intermediate must be one of 'crown', 'ibp'"),
        (lambda f: bounds.margins(f, BOX, np.array([0, 4])), r"labels must be in \[0, 4\)"),
        (lambda f: bounds.margins(f, BOX, np.array([0])), r"labels must have shape \[2\]"),
        (
            lambda f: bounds.margins(lambda x: f(x)[0], BOX, np.array([0, 1])),
            r"the model must map images \(2, 6\) to logits",
        ),
        (
            lambda f: bounds.margins(f, Interval(BOX.upper, BOX.lower), np.array([0, 1])),
            "upper must be at least lower",
        ),
        (lambda f: bounds.crown(f, Interval(BOX.lower * np.nan, BOX.upper)), "lower holds 12 NaN"),
        (lambda f: bounds.crown(f, Ball(BOX.lower, np.full(2, -1.0), BOX)), "radius must be at least 0"),
        (lambda f: bounds.crown(f, Ball(BOX.lower, np.full(3, 1.0), BOX)), "a ball needs a center of"),
        (
            lambda f: bounds.margins(
                lambda x: f(x + jax.random.uniform(jax.random.key(0), x.shape)), BOX, np.array([0, 1])
            ),
            "draws random numbers",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(partial(apply, mlp((6, 4))))


@pytest.mark.parametrize("method", bounds.METHODS)
def test_bounds_include_the_fill_value_of_a_missing_index(method):
    def logits(x):
        return jnp.stack([x[:, 0], x.at[:, 3].get(mode="fill", fill_value=0.9)], 1)

    box = Interval(np.array([[0.5, 0.4]]), np.array([[0.7, 0.6]]))
    np.testing.assert_allclose(margins(logits, box, np.array([0]), method=method), [[0.5 - 0.9]], rtol=1e-6)
