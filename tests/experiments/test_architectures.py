"""The benchmark of architectures: ratios of networks that are bounded, and the error of one that is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import architectures
from experiments.benchmarks.small_nets import ARCHITECTURES
from invjax import bounds

X = jnp.full((1, 3), 0.5)
BOX = bounds.linf_box(X, architectures.EPS)


def linear(x):
    return x @ jnp.array([[1.0, -2.0], [3.0, 0.0], [0.0, 4.0]])


def test_bounds_of_a_linear_network_have_the_range_of_its_corners():
    size = architectures.extent(linear, X, BOX)
    assert size == pytest.approx(6 * 2 * architectures.EPS, rel=1e-4)
    found = architectures.measure(linear, "crown-ibp", BOX, size)
    assert found.ratio == pytest.approx(1, rel=1e-3) and found.seconds > 0 and not found.error


def test_a_network_that_is_refused_has_the_error_in_its_row():
    found = architectures.measure(lambda x: x + jax.random.normal(jax.random.key(0), x.shape), "ibp", BOX, 1.0)
    assert np.isnan(found.ratio) and "random" in found.error


@pytest.mark.slow
def test_every_network_maps_a_batch_to_ten_logits():
    assert len(ARCHITECTURES) >= 30
    for make, shape in ARCHITECTURES.values():
        assert jax.eval_shape(make(), jax.ShapeDtypeStruct((2, *shape), jnp.float32)).shape == (2, 10)
