"""Operations that need more than a monotone rule: their bounds are the extremes over a dense grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from invjax import bounds
from invjax.bounds import Interval, _operations, linf_box
from invjax.bounds._graph import trace

ENDS = np.array([[-3.0, -2.0], [-0.4, 0.3], [0.2, 0.9], [1.0, 8.0]], np.float32)

EXACT = {
    "square of a variable": lambda x: x * x,
    "fractional power": lambda x: jnp.abs(x) ** 1.5,
    "negative power": lambda x: (jnp.abs(x) + 0.1) ** -0.7,
    "sine": jnp.sin,
    "cosine": lambda x: jnp.cos(2 * x),
    "guarded logarithm": lambda x: jnp.where(x > 0.1, jnp.log(jnp.where(x > 0.1, x, 0.1)), jnp.log(0.1)),
    "guarded from the other side": lambda x: jnp.where(x <= 0.1, 0.1, jnp.where(x <= 0.1, 0.1, x)),
    "constant branch": lambda x: jax.lax.cond(True, jnp.tanh, jnp.sin, x),
    "counted loop": lambda x: jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, x))[1],
}


@pytest.mark.parametrize("name", EXACT)
def test_bounds_are_the_extremes(name):
    found = jax.jit(lambda b: bounds.ibp(EXACT[name], b))(Interval(ENDS[:, :1], ENDS[:, 1:]))
    values = np.asarray(EXACT[name](jnp.asarray(np.linspace(ENDS[:, 0], ENDS[:, 1], 20_001))))
    assert (found.lower[:, 0] <= values.min(0) + 1e-6).all() and (found.upper[:, 0] >= values.max(0) - 1e-6).all()
    np.testing.assert_allclose(found.lower[:, 0], values.min(0), rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(found.upper[:, 0], values.max(0), rtol=2e-4, atol=1e-5)


def test_order_statistics_and_positions():
    low, high = jnp.array([[0.0, 2.0, -1.0]]), jnp.array([[1.0, 2.5, 3.0]])
    box = Interval(low, high)
    for k, fn in ((3, lambda x: jnp.sort(x, -1)), (2, lambda x: jax.lax.top_k(x, 2)[0])):
        found = bounds.ibp(fn, box)
        assert found.lower.shape == (1, k)
        np.testing.assert_array_equal(found.lower, fn(low))
        np.testing.assert_array_equal(found.upper, fn(high))
    place = bounds.ibp(lambda x: jnp.argmax(x, -1), box)
    assert place.lower[0] == 0 and place.upper[0] == 2


def test_cumulative_products_and_remainders():
    box = Interval(jnp.array([[0.5, 2.0]]), jnp.array([[1.0, 3.0]]))
    found = bounds.ibp(lambda x: jnp.cumprod(x, -1), box)
    np.testing.assert_allclose(found.lower, [[0.5, 1.0]])
    np.testing.assert_allclose(found.upper, [[1.0, 3.0]])
    found = bounds.ibp(lambda x: jax.lax.rem(x, jnp.full_like(x, 0.8)), box)
    np.testing.assert_allclose(found.lower, [[0, 0]])  # both boxes hold a multiple of 0.8
    np.testing.assert_allclose(found.upper, [[0.8, 0.8]])
    found = bounds.ibp(lambda x: jax.lax.rem(x, jnp.full_like(x, 10.0)), box)
    np.testing.assert_allclose(found.upper, box.upper)


@pytest.mark.slow
def test_products_of_two_uncertain_matrices_get_planes():
    """McCormick's planes are exact at the corners of a box, so a narrow box has bounds near the extremes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 3)).astype(np.float32)
    box = Interval(jnp.asarray(x - 0.01), jnp.asarray(x + 0.01))
    fn = lambda x: x @ (x + 1)  # noqa: E731
    linear, intervals = bounds.crown(fn, box, intermediate="ibp"), bounds.ibp(fn, box)
    points = x + 0.01 * rng.choice([-1, 1], (4000, *x.shape[1:]))
    values = points @ (points + 1)
    assert (values >= linear.lower - 1e-5).all() and (values <= linear.upper + 1e-5).all()
    reached, wide = values.max(0) - values.min(0), intervals.upper - intervals.lower
    assert (linear.upper - linear.lower)[0].sum() < min(1.15 * reached.sum(), 0.95 * wide.sum())


def test_a_recurrent_network_with_unused_keys_has_bounds():
    class Recurrent(nn.Module):
        """Its cell makes its first state by an initializer that gets a key."""

        @nn.compact
        def __call__(self, x):
            """`[B, T, C] -> [B, 2]`."""
            return nn.Dense(2)(nn.RNN(nn.SimpleCell(3))(x)[:, -1])

    net, x = Recurrent(), np.random.default_rng(0).random((2, 3, 2)).astype(np.float32)
    params = net.init(jax.random.key(0), x)
    found = jax.jit(lambda b: bounds.ibp(lambda x: net.apply(params, x), b))(linf_box(x, 0.01))
    for sign in (-1, 1):
        values = net.apply(params, jnp.clip(x + 0.01 * sign, 0, 1))
        assert (values >= found.lower).all() and (values <= found.upper).all()


def test_an_error_names_the_line_of_the_model():
    def model(x):
        return jax.lax.lgamma(x)

    with pytest.raises(NotImplementedError, match=r"'lgamma' \(test_primitives.py:\d+\)"):
        bounds.ibp(model, Interval(jnp.ones(1), jnp.ones(1)))


def test_a_branch_that_depends_on_the_input_is_refused_and_one_that_is_traced_is_followed():
    box = Interval(jnp.array([0.2]), jnp.array([0.4]))
    with pytest.raises(NotImplementedError, match="converts a value to int32"):
        bounds.ibp(lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), box)
    both = jax.jit(lambda choice, b: bounds.ibp(lambda x: jax.lax.cond(choice, jnp.tanh, jnp.negative, x), b))
    assert both(True, box).upper[0] == pytest.approx(np.tanh(0.4))
    assert both(False, box).upper[0] == pytest.approx(-0.2)


def test_a_long_loop_is_refused(monkeypatch):
    def long(x):
        return jax.lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 1, c[1]), (0, x))[1]

    trace(long, jnp.ones(1))
    monkeypatch.setattr(_operations, "_STEPS", 5)
    with pytest.raises(NotImplementedError, match="at most 5 steps"):
        trace(long, jnp.ones(1))
