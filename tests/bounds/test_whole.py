"""Functions that are bounded as a whole: equal to closed forms, and found in programs that compute them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from invjax import bounds
from invjax.bounds import Interval
from invjax.bounds._graph import trace

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 5)).astype(np.float32)


def names(fn, x=X):
    return [operation.name for operation in trace(fn, x)[0].operations]


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (jax.nn.softmax, "jax.nn.softmax"),
        (lambda x: jax.nn.softmax(x, (0, 2)), "jax.nn.softmax"),
        (lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True), None),  # it may overflow, and a softmax does not
        (lambda x: jnp.exp(x) / jnp.exp(x).sum((0, 1), keepdims=True).sum(-1, keepdims=True), None),
        (jax.nn.log_softmax, None),
        (lambda x: jax.nn.logsumexp(x, 1), "jax.nn.logsumexp"),
        (lambda x: jax.nn.logsumexp(x, 1, keepdims=True), "jax.nn.logsumexp"),
        (lambda x: x.var(-1), "jnp.var"),
        (lambda x: x.var((0, 2), keepdims=True), "jnp.var"),
        (jax.nn.gelu, "jax.nn.gelu, approximate"),
        (lambda x: jax.nn.gelu(x, approximate=False), "jax.nn.gelu"),
        (jax.jit(lambda x: nn.dot_product_attention(x, x, x)), "jax.nn.softmax"),
    ],
)
def test_functions_are_found_in_programs(fn, name):
    found = [operation for operation in names(fn) if operation.startswith("j")]
    assert found == ([name] if name else [])


def test_a_shift_by_another_value_is_no_softmax():
    def shifted(x):  # the sum runs over other entries than the numerator's
        e = jnp.exp(x)
        return e / e.sum(-1, keepdims=True)[..., ::-1, :]

    assert "jax.nn.softmax" not in names(shifted)


def test_the_interval_of_a_softmax_is_exact():
    """Entry i is largest where x_i is at its upper end and all others are at their lower ends."""
    low, high = X[0] - 1, X[0] + np.abs(X[1])
    found = jax.jit(lambda box: bounds.ibp(jax.nn.softmax, box))(Interval(low, high))
    of_ends = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)  # noqa: E731
    for i in range(low.shape[-1]):
        own = np.arange(low.shape[-1]) == i
        np.testing.assert_allclose(found.upper[:, i], of_ends(np.where(own, high, low))[:, i], atol=2e-6)
        np.testing.assert_allclose(found.lower[:, i], of_ends(np.where(own, low, high))[:, i], atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [10, 60, 200])
def test_a_softmax_stays_between_zero_and_one_for_large_logits(scale):
    box = Interval(jnp.full((1, 3), -float(scale)), jnp.full((1, 3), float(scale)))
    for found in (bounds.ibp(jax.nn.softmax, box), bounds.crown(jax.nn.softmax, box, intermediate="ibp")):
        assert np.min(found.lower) >= 0 and np.max(found.upper) <= 1 + 1e-6


@pytest.mark.slow
def test_a_masked_entry_of_a_softmax_is_zero():
    mask = jnp.array([True, False, True])
    box = Interval(jnp.full((1, 3), -1.0), jnp.full((1, 3), 1.0))
    found = bounds.crown(lambda x: jax.nn.softmax(jnp.where(mask, x, -jnp.inf)), box, intermediate="ibp")
    assert found.lower[0, 1] == found.upper[0, 1] == 0
    np.testing.assert_allclose(found.upper[0, ::2], 1 / (1 + np.exp(-2)), rtol=1e-5)


def test_the_interval_of_a_logsumexp_is_that_of_its_ends():
    found = bounds.ibp(lambda x: jax.nn.logsumexp(x, -1), Interval(X - 2, X + 1))
    for end, x in zip(found, (X - 2, X + 1), strict=True):
        np.testing.assert_allclose(end, np.log(np.exp(x).sum(-1)), rtol=1e-5)


@pytest.mark.slow
def test_a_variance_is_enclosed_by_its_tangent():
    """At the corners of a box around equal values, the variance reaches its upper bound."""
    point = jnp.zeros((1, 4))
    found = bounds.crown(lambda x: x.var(-1), Interval(point - 0.5, point + 0.5), intermediate="ibp")
    assert found.lower[0] == 0 and found.upper[0] == pytest.approx(0.25)
    assert np.var([-0.5, 0.5, -0.5, 0.5]) == 0.25
    far = jnp.array([[0.0, 10.0, 0.0, 10.0]])
    found = bounds.crown(lambda x: x.var(-1), Interval(far - 0.1, far + 0.1), intermediate="ibp")
    # its extremes move every value towards the mean, or away from it
    assert found.lower[0] <= 4.9**2 and found.lower[0] == pytest.approx(4.9**2, abs=0.011)
    assert found.upper[0] >= 5.1**2 and found.upper[0] == pytest.approx(5.1**2, abs=0.011)


@pytest.mark.parametrize("fn", [jax.nn.gelu, lambda x: jax.nn.gelu(x, approximate=False), jax.nn.silu])
def test_the_interval_of_an_activation_holds_its_extremes_and_no_more(fn):
    ends = np.array([[-9.0, -3.0], [-1.0, -0.5], [-1.0, 2.0], [0.5, 4.0], [-50.0, 90.0]], np.float32)
    found = bounds.ibp(fn, Interval(ends[:, :1], ends[:, 1:]))
    with jax.enable_x64(True):
        values = np.asarray(fn(np.linspace(ends[:, 0], ends[:, 1], 200_001, dtype=np.float64)))
    np.testing.assert_allclose(found.lower[:, 0], values.min(0), atol=1e-5)
    np.testing.assert_allclose(found.upper[:, 0], values.max(0), atol=1e-5)


@pytest.mark.slow
def test_a_softmax_that_may_overflow_is_not_certified():
    def logits(x):
        exponentials = jnp.exp(x)
        return exponentials / exponentials.sum(-1, keepdims=True)

    x = jnp.array([[100.0, 99.0]])
    assert jnp.isnan(logits(x)).all()
    for method in bounds.METHODS:
        found = bounds.margins(logits, bounds.linf_box(x, 0.1, box=(-200, 200)), np.array([0]), method=method)
        assert not bounds.certified(found).any()
    assert np.isinf(bounds.ibp(lambda x: jnp.log(jnp.exp(x).sum(-1)), Interval(x, x)).upper).all()
