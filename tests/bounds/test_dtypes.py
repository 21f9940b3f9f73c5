"""Bounds of models in half precision, and of values that overflow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax import bounds
from invjax.bounds import Interval

HALF, BRAIN, SINGLE = jnp.float16, jnp.bfloat16, jnp.float32
LARGE = [(HALF, 4e4), (BRAIN, 2e38), (SINGLE, 2e38)]


def box(end, dtype, low=None):
    return Interval(jnp.full((1, 1), -end if low is None else low, dtype), jnp.full((1, 1), end, dtype))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "end"), LARGE)
@pytest.mark.parametrize("fn", [jax.nn.relu, jax.nn.leaky_relu, jax.nn.elu, jax.nn.softplus, jax.nn.silu])
def test_an_activation_of_a_wide_interval_reaches_its_end(fn, dtype, end):
    found = bounds.crown(fn, box(end, dtype), intermediate="ibp")
    at_end, at_low = (float(fn(jnp.float32(sign * box(end, dtype).upper[0, 0].astype(SINGLE)))) for sign in (1, -1))
    assert found.upper.dtype == jnp.float32
    assert found.upper[0, 0] >= at_end * (1 - 1e-5)
    assert found.lower[0, 0] <= max(at_low, -0.2) + 1e-6 and np.isfinite(found.lower[0, 0])


@pytest.mark.slow
def test_a_classifier_in_half_precision_is_not_certified_where_a_corner_flips_it():
    """Pixels in [0, 255] and weights of 300: the sum overflows float16, and the bounds do not."""
    weights = jnp.array([[300.0, -300.0], [-300.0, 300.0]], HALF)

    def logits(x):
        return jax.nn.relu(x.astype(HALF) @ weights) * jnp.asarray(1e-3, HALF)

    x = np.array([[140.0, 110.0]], np.float32)
    for method in bounds.METHODS:
        margin = bounds.margins(logits, bounds.linf_box(x, 20.0, box=(0, 255)), np.array([0]), method=method)
        assert margin[0, 0] == pytest.approx(-3, abs=0.01)  # at (120, 130) the second logit is larger by 3
        near = bounds.margins(logits, bounds.linf_box(x, 1.0, box=(0, 255)), np.array([0]), method=method)
        assert near[0, 0] == pytest.approx(0.3 * 28, rel=1e-3)


@pytest.mark.slow
def test_a_value_that_may_overflow_its_own_dtype_is_unbounded():
    def grows(x):
        return (x * jnp.asarray(100, x.dtype)) * jnp.asarray(0.01, x.dtype)

    for fn in (lambda b: bounds.ibp(grows, b), lambda b: bounds.crown(grows, b)):
        assert fn(box(1000.0, HALF)).upper[0, 0] == jnp.inf
        assert fn(box(100.0, HALF)).upper[0, 0] == pytest.approx(100, rel=1e-2)
        assert fn(box(1000.0, BRAIN)).upper[0, 0] == pytest.approx(1000, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [HALF, BRAIN])
def test_images_in_single_precision_and_logits_in_half(dtype):
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    x, labels = np.random.default_rng(1).random((2, 4)).astype(np.float32), np.array([0, 1])

    def logits(dtype):
        return lambda x: jnp.tanh(x.astype(dtype) @ jnp.asarray(weights, dtype))

    for method in bounds.METHODS:
        found, wanted = (
            bounds.margins(logits(d), bounds.linf_box(x, 0.01), labels, method=method) for d in (dtype, SINGLE)
        )
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, wanted, atol=0.03)


@pytest.mark.slow
def test_crown_is_finite_where_intervals_are():
    """At the end of a square root's domain the tangent is vertical, and exp(100) overflows float32."""
    root = bounds.crown(jnp.sqrt, Interval(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])))
    np.testing.assert_allclose(root.lower, [[0, 0]], atol=1e-6)
    np.testing.assert_allclose(root.upper, [[1, 0]], atol=1e-6)
    sigmoid = bounds.crown(lambda x: 1 / (1 + jnp.exp(x)), box(100.0, SINGLE))
    np.testing.assert_allclose([sigmoid.lower[0, 0], sigmoid.upper[0, 0]], [0, 1], atol=1e-6)


@pytest.mark.slow
def test_a_unit_without_bounds_does_not_remove_the_certificates_of_the_others():
    def logits(x):  # the square root of the first value may be NaN; the second output does not depend on it
        return jnp.stack([jnp.sqrt(x[:, 0]), x[:, 1], x[:, 1] - 1], -1)

    region = Interval(jnp.array([[-1.0, 0.2]]), jnp.array([[1.0, 0.4]]))
    for method in bounds.METHODS:
        margin = bounds.margins(logits, region, np.array([1]), method=method)
        assert margin[0, 0] == -jnp.inf and margin[0, 1] == pytest.approx(1, abs=0.21)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("eps", [1e-4, 0.0101, 0.3])
def test_regions_in_half_precision_are_rounded_outward(dtype, eps):
    """A radius below the spacing of the numbers would leave a box of one point, which says nothing about its ball."""
    x = jax.random.uniform(jax.random.key(0), (200, 8)).astype(dtype)
    exact = np.asarray(x, np.float64)
    region, ball = bounds.linf_box(x, eps, box=(-np.inf, np.inf)), bounds.l2_ball(x, eps)
    lower, upper = (np.asarray(end, np.float64) for end in region)
    assert region.lower.dtype == ball.radius.dtype == dtype
    assert (lower <= exact - eps + 1e-7).all() and (upper >= exact + eps - 1e-7).all()
    spacing = float(jnp.finfo(dtype).eps)
    assert (exact - eps - lower).max() <= spacing and (upper - exact - eps).max() <= 2 * spacing
    assert eps <= float(ball.radius[0]) <= eps * (1 + spacing)
    inside = bounds.linf_box(x, eps)
    assert (inside.lower >= 0).all() and (inside.upper <= 1).all()
    np.testing.assert_array_equal(bounds.linf_box(x, 0.0).lower, x)
