"""Networks that are trained to be certified: schedules, starts, and architectures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.invariance_tradeoffs import certified_networks
from invjax import bounds


def test_radius_and_weights_change_in_their_epochs():
    settings = certified_networks.Settings(natural_epochs=1, ramp_epochs=5, train_eps=0.4, natural=0.5, crown=1.0)
    found = certified_networks.schedules(settings, epochs=10, num_steps=100)
    steps = [0, 10, 35, 60, 99]
    np.testing.assert_allclose([found.eps(step) for step in steps], [0, 0, 0.2, 0.4, 0.4], atol=1e-6)
    np.testing.assert_allclose([found.natural(step) for step in steps], [1, 1, 0.75, 0.5, 0.5])
    np.testing.assert_allclose([found.crown(step) for step in steps], [1, 1, 0.5, 0, 0], atol=1e-6)
    rate = certified_networks.learning_rate(settings, common.Train(10, 64, 0.01), 100)
    rates = [float(rate(step)) for step in steps]
    np.testing.assert_allclose(rates[:4], [0.001, 0.01, 0.01, 0.01], rtol=1e-5)
    assert rates[4] < 1e-4
    assert certified_networks.schedules(certified_networks.Settings(), 14, 140).crown == 0.0


def test_seeds_share_the_loss_and_the_optimizer():
    one, two = certified_networks.Settings(), certified_networks.Settings()
    assert certified_networks.loss_of(one, 14, 140) is certified_networks.loss_of(two, 14, 140)
    assert certified_networks.optimizer_of(one) is certified_networks.optimizer_of(two)


def test_networks_start_with_bounds_that_neither_grow_nor_vanish():
    net = certified_networks.network("tiny CNN")
    x = jnp.full((2, 28, 28, 1), 0.5)

    @jax.jit
    def width(key):
        params = net.init(key, x)
        box = bounds.ibp(lambda x: net.apply(params, x), bounds.linf_box(x, 0.1))
        return (box.upper - box.lower).mean()

    assert 0.2 < float(width(jax.random.key(0))) < 5  # all pixels are uncertain between 0 and 1


def test_black_and_white_pixels_are_certain_within_0_4_and_gray_pixels_are_not():
    rounding = certified_networks.network("tiny CNN").init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["rounding"]
    box = bounds.linf_box(jnp.array([[0.0, 1.0, 0.5, 0.9]]), 0.4)
    found = bounds.ibp(lambda x: certified_networks.rounded(rounding, x), box)
    np.testing.assert_allclose(found.lower, [[0, 1, 0, 0.5]], atol=1e-5)
    np.testing.assert_allclose(found.upper, [[0, 1, 1, 1]], atol=1e-5)


@pytest.mark.parametrize(("name", "dense"), [("tiny CNN", 7 * 7 * 8), ("large CNN", 14 * 14 * 128)])
def test_strides_halve_the_sides(name, dense):
    net = certified_networks.network(name)
    x = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    assert params["layers"][-2]["kernel"].shape[0] == dense and jax.eval_shape(net.apply, params, x).shape == (2, 10)
