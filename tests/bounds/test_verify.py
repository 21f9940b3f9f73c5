"""Branch and bound: equal to linear programs over all activation patterns, and to dense grids."""

from functools import cache
from itertools import pairwise, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax import lax

from invjax import bounds
from invjax.bounds import Interval, _splits
from invjax.bounds._crown import prepared

INFINITE = (-np.inf, np.inf)


def mlp(widths, seed):
    rng = np.random.default_rng(seed)
    return [
        (
            (rng.normal(size=pair) * 1.5 / np.sqrt(pair[0])).astype(np.float32),
            (0.3 * rng.normal(size=pair[1])).astype(np.float32),
        )
        for pair in pairwise(widths)
    ]


def apply(layers, x):
    for i, (w, b) in enumerate(layers):
        x = (jax.nn.relu(x) if i else x) @ w + b[None]
    return x


def in_numpy(layers, x):
    for i, (w, b) in enumerate(layers):
        x = (np.maximum(x, 0) if i else x) @ w + b
    return x


def least_margin(layers, box, label, other):
    """The exact minimum over a box: the least of the linear programs of all patterns of two hidden layers."""
    (w1, b1), (w2, b2), (w3, b3) = [(w.astype(float), b.astype(float)) for w, b in layers]
    ends, found = list(zip(*box, strict=True)), np.inf
    cost, constant = w3[:, label] - w3[:, other], b3[label] - b3[other]
    for first in product((0, 1), repeat=len(b1)):
        on = np.array(first)
        sign = 1 - 2 * on  # sign * z <= 0
        rows, right = sign[:, None] * w1.T, -sign * b1
        if not scipy.optimize.linprog(np.zeros(len(w1)), rows, right, bounds=ends).success:
            continue
        matrix, offset = (w1 * on) @ w2, (b1 * on) @ w2 + b2
        for second in product((0, 1), repeat=len(b2)):
            on = np.array(second)
            sign = 1 - 2 * on
            all_rows, all_right = np.vstack([rows, sign[:, None] * matrix.T]), np.concatenate([right, -sign * offset])
            solved = scipy.optimize.linprog((matrix * on) @ cost, all_rows, all_right, bounds=ends)
            if solved.success:
                found = min(found, solved.fun + (offset * on) @ cost + constant)
    return found


@cache
def problem(widths, seed, eps=1.0):
    """A network of two classes, an image, its class, the box around it, and the exact least margin."""
    layers = mlp(widths, seed)
    x = (0.5 * np.random.default_rng(seed).normal(size=(1, widths[0]))).astype(np.float32)
    box = bounds.Interval(x - np.float32(eps), x + np.float32(eps))
    return layers, x, box, least_margin(layers, (box.lower[0], box.upper[0]), 0, 1)


def shifted(layers, change):
    """The network with the margin of class 0 moved by a constant."""
    *rest, (w, b) = layers
    return [*rest, (w, b + np.array([change, 0], np.float32))]


SMALL = (3, 4, 4, 2)
SEEDS = [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 12))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("margin", [0.1, 0.003, -0.003])
def test_every_small_network_is_decided(seed, margin):
    """The least margin is just above or just below zero; CROWN certifies none of the hard ones."""
    layers, x, box, least = problem(SMALL, seed)
    layers = shifted(layers, margin - least)
    found = bounds.verify(apply, layers, x, np.array([0]), box, budget=600)
    assert found.verdict[0] == ("certified" if margin > 0 else "attacked")
    assert found.bound[0] <= margin + 1e-4 and found.splits[0] < 600
    if margin < 0:
        assert in_numpy(layers, found.x)[0].argmax() == 1
        assert (found.x >= box.lower).all() and (found.x <= box.upper).all()
    else:
        np.testing.assert_array_equal(found.x, x)


def test_only_splits_decide_some_of_them():
    """CROWN with optimized slopes certifies none of the networks whose least margin is just above zero."""
    for seed in (0, 1, 2):
        layers, x, box, least = problem(SMALL, seed)
        layers = shifted(layers, 0.003 - least)
        found = bounds.verify(apply, layers, x, np.array([0]), box, budget=600)
        assert found.splits[0] > 1 and found.verdict[0] == "certified"
        few = bounds.verify(apply, layers, x, np.array([0]), box, budget=1)
        assert few.verdict[0] == "unknown" and few.splits[0] == 1 and few.bound[0] <= 1e-4
        np.testing.assert_array_equal(few.x, x)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_wider_networks_are_decided(seed):
    layers, x, box, least = problem((2, 6, 6, 2), seed)
    for margin in (0.003, -0.003):
        found = bounds.verify(apply, shifted(layers, margin - least), x, np.array([0]), box, budget=1000)
        assert found.verdict[0] == ("certified" if margin > 0 else "attacked")


@pytest.mark.slow
def test_several_images_and_classes_agree_with_a_dense_grid():
    """Boxes and balls of two inputs and three classes; an image that is misclassified itself is returned."""
    layers, rng = mlp((2, 6, 5, 3), 5), np.random.default_rng(5)
    x = rng.normal(size=(6, 2)).astype(np.float32)
    labels = in_numpy(layers, x).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 301)] * 2), -1).reshape(-1, 1, 2)
    for around, points in (
        (bounds.linf_box, grid),
        (bounds.l2_ball, grid / np.maximum(np.linalg.norm(grid, axis=-1, keepdims=True), 1)),
    ):
        found = bounds.verify(apply, layers, x, labels, around(x, 0.4, box=INFINITE), budget=300)
        logits = in_numpy(layers, x + 0.4 * points)
        broken = (logits.argmax(-1) != labels).any(0)
        assert not (broken & (found.verdict == "certified")).any()
        assert (found.verdict != "unknown").all()
        attacked = found.verdict == "attacked"
        assert attacked[0] and 0 < attacked.sum() < 6
        assert (in_numpy(layers, found.x).argmax(1) != labels)[attacked].all()
        np.testing.assert_array_equal(found.x[0], x[0])
        np.testing.assert_array_equal(found.x[~attacked], x[~attacked])
        change = np.abs(found.x - x).max(1) if around is bounds.linf_box else np.linalg.norm(found.x - x, axis=1)
        assert (change <= 0.4 + 1e-6).all()


def test_a_bound_holds_where_the_signs_do():
    """For any signs, slopes and multipliers, at sampled points of the box, with and without optimization."""
    layers, rng, count = mlp((3, 6, 5, 3), 1), np.random.default_rng(0), 12
    box = Interval(np.full(3, -0.7, np.float32), np.full(3, 0.9, np.float32))
    signs = rng.choice([-1, 0, 0, 1], (count, 11)).astype(np.float32)
    slopes, multipliers = rng.random((2, count, 11)).astype(np.float32)
    problems = _splits.Subproblems(rng.choice([0, 2], count), signs, slopes, multipliers)

    @jax.jit
    def run(box):
        region, graph = prepared(lambda x: apply(layers, x), Interval(*(end[None] for end in box)))
        box = Interval(*(end[0] for end in region))
        return _splits.bounded(graph, box, jnp.array(1), _splits.intervals_of_relus(graph, box), problems, 3)

    found = jax.tree.map(np.asarray, run(box))
    x = rng.uniform(-0.7, 0.9, (50_000, 3))
    first = x @ layers[0][0] + layers[0][1]
    inputs = np.concatenate([first, np.maximum(first, 0) @ layers[1][0] + layers[1][1]], 1)
    logits, tried = in_numpy(layers, x), 0
    for i in range(count):
        inside = (inputs * signs[i] >= 0).all(1)
        margin = (logits[:, 1] - logits[:, problems.target[i]])[inside]
        tried += inside.any()
        assert (margin >= found.bound[i] - 1e-5).all()
        unit = found.unit[i]
        assert signs[i, unit] == 0 and inputs[:, unit].min() < 0 < inputs[:, unit].max()
    assert tried > 3


def test_a_convolutional_network_with_a_residual_connection_is_decided():
    rng = np.random.default_rng(0)
    params = {
        "conv": (0.6 * rng.normal(size=(3, 3, 1, 2))).astype(np.float32),
        "dense": (0.4 * rng.normal(size=(32, 2))).astype(np.float32),
    }

    def cnn(params, x):
        y = lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y = jnp.maximum(0.0, y) + x
        return y.reshape(len(x), -1) @ params["dense"]

    x = rng.random((3, 4, 4, 1)).astype(np.float32)
    labels = np.asarray(cnn(params, x).argmax(1))
    region = bounds.linf_box(x, 0.12)
    found = bounds.verify(cnn, params, x, labels, region, budget=200)
    assert (found.verdict != "unknown").all()
    attacked = found.verdict == "attacked"
    assert (np.asarray(cnn(params, found.x).argmax(1)) != labels).tolist() == attacked.tolist()
    assert ((found.x >= region.lower) & (found.x <= region.upper)).all()


BOX = Interval(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))
X, LABELS = np.full((1, 3), 0.5, np.float32), np.array([0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, "budget must be positive; got budget=0"),
        ({"x": X + 1}, "x must lie in the region; 1 of 1 images"),
        ({"region": bounds.Ball(X + 0.3, np.array([0.5], np.float32), BOX)}, "x must lie in the region; 1 of 1 images"),
        ({"x": X[:, :2]}, "x must have the shape of the region"),
        ({"labels": np.array([2])}, r"labels must be in \[0, 2\)"),
        ({"slack": -1.0}, "slack"),
        ({"apply_fn": lambda p, x: jnp.tanh(x[:, :2])}, "the model also has 'tanh' .*alpha-crown"),
        ({"apply_fn": lambda p, x: jnp.maximum(x[:, :2], 0.5)}, "the model also has 'max'"),
        ({"apply_fn": lambda p, x: x[:, :2] * x[:, 1:]}, "the model also has 'mul'"),
        ({"apply_fn": lambda p, x: jnp.ones((len(x), 2))}, "logits depend on the image"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"apply_fn": apply, "x": X, "labels": LABELS, "region": BOX, "budget": 5} | change
    fn, x, labels, region = (given.pop(name) for name in ("apply_fn", "x", "labels", "region"))
    with pytest.raises(ValueError, match=message):
        bounds.verify(fn, mlp((3, 4, 2), 0), x, labels, region, **given)
