"""Optimized slopes: equal to closed forms and to linear programs, sound, and never worse than CROWN."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax import bounds, evaluation
from invjax.attacks import linf, pgd
from invjax.bounds import Interval
from tests.bounds.test_linear import apply, in_double_precision, l2_ball, least, linf_box, mlp  # noqa: F401

INFINITE, EPS = (-np.inf, np.inf), 0.6


def one_kink(x):
    """Functions with one kink minus half of x (or the reverse), `[B, 6] -> [B, 6]`."""
    a, b, c, d, e, f = (x[:, i] for i in range(6))
    return jnp.stack(
        [jax.nn.relu(a), jnp.abs(b), jax.nn.leaky_relu(c, 0.1), jnp.maximum(0.3, d), e, 1.5 * f], 1
    ) - jnp.stack([a / 2, b / 2, c / 2, d / 2, jnp.minimum(e, 0.3) + e / 2, jax.nn.leaky_relu(f, 2.0)], 1)


def test_one_kink_gets_the_best_slope():
    """The least value is that at the kink; CROWN has the slope at the middle, which gives less."""
    box = Interval(np.full((1, 6), -1.0), np.full((1, 6), 3.0))

    def logits(x):
        return jnp.concatenate([jnp.zeros((len(x), 1)), -one_kink(x)], 1)

    def run(box):
        return [bounds.margins(logits, box, np.array([0]), method=m, steps=200) for m in ("crown", "alpha-crown")]

    crown, found = map(np.asarray, jax.jit(run)(box))
    best = np.array([[0, 0, 0, 0.15, -0.15, 0]])
    np.testing.assert_allclose(found, best, atol=3e-3)
    assert (found <= best + 1e-6).all() and (crown < best - 0.1).all()


@cache
def one_hidden_layer():
    """Compiled once: margins of the output of a network of one hidden layer, against a logit of zero."""

    def run(layers, box):
        model = lambda x: jnp.pad(apply(layers, x), ((0, 0), (0, 1)))  # noqa: E731
        return [
            bounds.margins(model, box, np.array([0]), method=method, steps=200) for method in ("crown", "alpha-crown")
        ]

    return jax.jit(run)


@pytest.mark.slow
def test_slopes_of_one_hidden_layer_reach_the_linear_program():
    gains = []
    for seed in range(4):
        layers = mlp((5, 9, 1), seed)
        layers[1] = (layers[1][0], np.zeros(1))
        box = linf_box(0.5 * np.random.default_rng(seed).normal(size=(1, 5)), 0.8, box=INFINITE)
        crown, found = (float(margin[0, 0]) for margin in one_hidden_layer()(layers, box))
        best = least(layers[1][0][:, 0], box, layers)
        assert crown - 1e-9 <= found <= best + 1e-9
        np.testing.assert_allclose(found, best, atol=2e-3)
        gains.append(found - crown)
    assert max(gains) > 0.05


@cache
def deep(region):
    """Layers, images, labels, and compiled margins by CROWN and by optimized slopes, of a network of two layers."""
    layers, x = mlp((3, 8, 7, 4)), np.random.default_rng(1).normal(size=(3, 3))
    labels = np.asarray(apply(layers, x).argmax(1))
    around = region(x, EPS, box=INFINITE)
    run = jax.jit(
        lambda around, method: bounds.margins(partial(apply, layers), around, labels, method=method), static_argnums=1
    )
    return layers, x, labels, run(around, "crown"), run(around, "alpha-crown")


@pytest.mark.slow
@pytest.mark.parametrize("region", [linf_box, l2_ball])
def test_optimized_slopes_are_better_than_those_of_crown_and_hold_for_sampled_points(region):
    layers, x, labels, crown, found = deep(region)
    assert (found >= crown - 1e-12).all() and (found > crown + 0.02).any()
    rng = np.random.default_rng(0)
    shift = np.where(
        rng.random((20_000, 1, 3)) < 0.5, rng.uniform(-1, 1, (20_000, 3, 3)), rng.choice([-1, 1], (20_000, 3, 3))
    )
    if region is l2_ball:
        shift = shift / np.maximum(np.linalg.norm(shift, axis=-1, keepdims=True), 1)
    values = x + EPS * shift
    for i, (w, b) in enumerate(layers):
        values = (np.maximum(values, 0) if i else values) @ w + b
    for i, y in enumerate(labels):
        others = [k for k in range(4) if k != y]
        margin = values[:, i, [y]] - values[:, i, others]
        assert (margin.min(0) >= found[i] - 1e-9).all()


@pytest.mark.slow
def test_the_gradient_is_that_of_the_bound_with_the_slopes_found():
    """A larger scale of the last layer changes no slope, so the margins and their gradient are proportional to it."""
    (first, (w, b)), x = mlp((3, 6, 3)), np.random.default_rng(1).normal(size=(2, 3))
    around = linf_box(x, 0.4, box=INFINITE)

    @jax.jit
    @jax.value_and_grad
    def total(scale):
        layers = [first, (scale * w, scale * b)]
        return bounds.margins(partial(apply, layers), around, np.array([0, 1]), method="alpha-crown", steps=5).sum()

    value, gradient = total(2.0)
    np.testing.assert_allclose(gradient, value / 2, rtol=1e-9)


@pytest.mark.slow
def test_curves_and_reports_take_the_method():
    layers = [(w.astype(np.float32), b.astype(np.float32)) for w, b in mlp((2, 4, 2))]
    x = np.random.default_rng(0).random((4, 2)).astype(np.float32)
    labels = np.asarray(apply(layers, x).argmax(1))
    crown, alpha = (
        evaluation.certificate_curve(apply, layers, x, labels, epsilons=[0.1, 0.3], method=method)
        for method in ("crown", "alpha-crown")
    )
    assert (alpha.broken_at >= crown.broken_at).all() and (alpha.broken_at > 0.1).any()
    threat = evaluation.ThreatModel(pgd(linf(), steps=2), 0.1, certify="alpha-crown", bisections=1)
    found = evaluation.report(jax.random.key(0), apply, layers, x, labels, threats=[threat])
    np.testing.assert_array_equal(found.certified["linf"], alpha.broken_at > 0.1)
