"""The penultimate representation of a network is the input of its last dense layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.models import mlp, mnist_cnn, penultimate, resnet
from invjax.types import Net

NET = mlp(4, (12,))


@pytest.mark.parametrize(
    "net", [mlp(3, (7,)), mnist_cnn(3, (2, 2), 5), resnet(3, (8,), (1,))], ids=["mlp", "mnist_cnn", "resnet"]
)
def test_the_last_dense_layer_reads_the_penultimate_representation(net):
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    weights = jax.jit(net.init)(jax.random.key(1), x)
    found, logits = jax.jit(lambda p, x: (penultimate(net)(p, x), net.apply(p, x)))(weights, x)
    last = weights["params"][max(name for name in weights["params"] if name.startswith("Dense"))]
    expected = np.asarray(found) @ np.asarray(last["kernel"]) + np.asarray(last["bias"])
    np.testing.assert_allclose(expected, logits, atol=1e-5)
    assert (np.asarray(found) >= 0).all() and found.ndim == 2


def test_a_network_without_a_last_dense_layer_has_no_penultimate_representation():
    x = jnp.ones((2, 4))
    for net in (Net(NET.init, lambda p, x: 2 * NET.apply(p, x)), Net(NET.init, lambda p, x: x)):
        weights = jax.jit(NET.init)(jax.random.key(0), x)
        with pytest.raises(ValueError, match="penultimate needs a network"):
            penultimate(net)(weights, x)
