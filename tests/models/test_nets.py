"""The small networks: their shapes, their values by hand, and the errors that name a fix."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from invjax.models import conv_net, mlp, mnist_cnn, num_params, resnet

NETS = {  # name: (net, shape of the input, shape of the output, number of parameters)
    "mlp": (mlp(10), (3, 28, 28, 1), (3, 10), 784 * 512 + 512 + 512 * 512 + 512 + 5130),
    "mlp-of-vectors": (mlp(3, (4,)), (3, 5), (3, 3), 24 + 15),
    "linear": (mlp(3, ()), (2, 2, 2, 2), (2, 3), 27),
    "conv_net": (conv_net(6, (8, 4)), (2, 5, 7, 3), (2, 5, 7, 6), 27 * 8 + 8 + 72 * 4 + 4 + 36 * 6 + 6),
    "conv_net-of-one-layer": (conv_net(6, ()), (2, 5, 7, 3), (2, 5, 7, 6), 27 * 6 + 6),
    "mnist_cnn": (mnist_cnn(), (2, 28, 28, 1), (2, 10), 832 + 51264 + 49 * 64 * 1024 + 1024 + 10250),
    "mnist_cnn-small": (mnist_cnn(4, (2, 3, 5), 7), (2, 16, 24, 3), (2, 4), 152 + 153 + 380 + 30 * 7 + 7 + 32),
    # 11,173,962 is known for a ResNet-18 with this stem on CIFAR-10: batch norm has as many parameters as group norm
    "resnet": (resnet(), (2, 32, 32, 3), (2, 10), 11_173_962),
    "resnet-of-gray-images": (resnet(), (2, 28, 28, 1), (2, 10), 11_173_962 - 2 * 9 * 64),
    "resnet-8": (
        resnet(10, (16, 32, 64), (1, 1, 1)),
        (2, 28, 28, 1),
        (2, 10),
        9 * 16
        + 9 * (2 * 16**2 + 16 * 32 + 32**2 + 32 * 64 + 64**2)
        + 16 * 32
        + 32 * 64  # kernels
        + 2 * (16 + 2 * 16 + 3 * 32 + 3 * 64)
        + 64 * 10
        + 10,  # norms, the linear layer
    ),
}


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.result_type(float))


def drawn(net, x):
    """Random parameters, zero-initialised layers included."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: 0.3 * normal(leaf.size, leaf.shape), shapes)


@pytest.mark.parametrize("name", NETS)
def test_shapes_and_number_of_parameters(name):
    net, input_shape, output_shape, count = NETS[name]
    x = jax.ShapeDtypeStruct(input_shape, jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    outputs = jax.eval_shape(net.apply, params, x)
    assert (outputs.shape, outputs.dtype) == (output_shape, jnp.float32)
    assert num_params(params) == count


@pytest.mark.parametrize(
    ("net", "shape"),
    [(mlp(4, (5,), zero_init=True), (3, 6)), (conv_net(4, (5,)), (3, 4, 4, 2))],
    ids=["mlp", "conv_net"],
)
def test_a_new_network_with_zero_init_has_zero_outputs(net, shape):
    x = normal(0, shape)
    params = jax.jit(net.init)(jax.random.key(0), x)
    np.testing.assert_array_equal(jax.jit(net.apply)(params, x), 0)
    assert np.abs(jax.jit(net.apply)(drawn(net, x), x)).max() > 0.1


def test_mlp_starts_away_from_zero_unless_told():
    x = normal(0, (3, 6))
    assert (
        np.abs(jax.jit(lambda key, x: mlp(4, (5,)).apply(mlp(4, (5,)).init(key, x), x))(jax.random.key(0), x)).max()
        > 0.01
    )


def test_zero_init_reaches_only_the_last_layer():
    params = jax.jit(mlp(4, (5,), zero_init=True).init)(jax.random.key(0), jnp.ones((1, 6)))["params"]
    assert np.abs(params["Dense_0"]["kernel"]).min() > 0
    assert np.abs(params["Dense_1"]["kernel"]).max() == 0


def test_mlp_without_hidden_layers_is_linear():
    net, x = mlp(3, ()), normal(0, (4, 2, 3, 1))
    params = drawn(net, x)
    layer = params["params"]["Dense_0"]
    by_hand = np.asarray(x).reshape(4, 6) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    np.testing.assert_allclose(jax.jit(net.apply)(params, x), by_hand, atol=1e-6)


def test_mlp_has_a_relu_after_each_hidden_layer():
    net, x = mlp(2, (5, 4)), normal(0, (7, 3))
    params = drawn(net, x)
    first, second, last = (jax.tree.map(np.asarray, params["params"][f"Dense_{i}"]) for i in range(3))
    hidden = np.maximum(np.asarray(x) @ first["kernel"] + first["bias"], 0)
    hidden = np.maximum(hidden @ second["kernel"] + second["bias"], 0)
    np.testing.assert_allclose(jax.jit(net.apply)(params, x), hidden @ last["kernel"] + last["bias"], atol=1e-5)


def linen_conv_net(params, x):
    params = params["params"]
    for i in range(len(params) - 1):
        x = nn.relu(nn.Conv(params[f"Conv_{i}"]["bias"].size, (3, 3)).apply({"params": params[f"Conv_{i}"]}, x))
    last = params[f"Conv_{len(params) - 1}"]
    return nn.Conv(last["bias"].size, (3, 3)).apply({"params": last}, x)


def linen_mnist_cnn(params, x):
    """The same network with flax's own pooling."""
    params = params["params"]
    for i in range(2):
        x = nn.relu(nn.Conv(params[f"Conv_{i}"]["bias"].size, (5, 5)).apply({"params": params[f"Conv_{i}"]}, x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
    x = x.reshape(x.shape[0], -1)
    x = nn.relu(nn.Dense(params["Dense_0"]["bias"].size).apply({"params": params["Dense_0"]}, x))
    return nn.Dense(params["Dense_1"]["bias"].size).apply({"params": params["Dense_1"]}, x)


class LinenResNet(nn.Module):
    """A residual network layer by layer, in flax's own words: (16 channels, 1 block), (24 channels, 2 blocks)."""

    @nn.compact
    def __call__(self, x):
        def conv(x, channels, kernel, stride=1):
            layer = nn.Conv(channels, (kernel, kernel), (stride, stride), padding="SAME", use_bias=False)
            return nn.GroupNorm(num_groups=4)(layer(x))

        x = nn.relu(conv(x, 16, 3))
        x = nn.relu(x + conv(nn.relu(conv(x, 16, 3)), 16, 3))
        y = conv(nn.relu(conv(x, 24, 3, 2)), 24, 3)
        x = nn.relu(y + conv(x, 24, 1, 2))
        x = nn.relu(x + conv(nn.relu(conv(x, 24, 3)), 24, 3))
        return nn.Dense(3)(jnp.mean(x, axis=(1, 2)))


def linen_resnet(params, x):
    """Its parameters are ours, layer by layer in the order of their names."""

    def order(tree):
        blocks = [tree[name] for name in sorted(tree) if name.startswith("_Block")]
        layers = {name: leaf for name, leaf in tree.items() if not name.startswith("_Block")}
        return [layers, *blocks]

    copied, count = {}, {"Conv": 0, "GroupNorm": 0, "Dense": 0}
    for part in order(params["params"]):
        for name in sorted(part):
            kind = name.split("_")[0]
            copied[f"{kind}_{count[kind]}"] = part[name]
            count[kind] += 1
    return LinenResNet().apply({"params": copied}, x)


@pytest.mark.parametrize(
    ("net", "reference", "shape"),
    [
        (mnist_cnn(3, (4, 5), 6), linen_mnist_cnn, (2, 8, 12, 1)),
        (conv_net(3, (4, 5)), linen_conv_net, (2, 4, 5, 2)),
        pytest.param(resnet(3, (16, 24), (1, 2), groups=4), linen_resnet, (2, 6, 5, 2), marks=pytest.mark.slow),
    ],
    ids=["mnist_cnn", "conv_net", "resnet"],
)
def test_values_and_gradients_equal_plain_flax(float64, net, reference, shape):
    x = normal(0, shape)
    params = jax.tree.map(lambda leaf: leaf.astype("float64"), drawn(net, x))

    def loss(apply, params, x):
        return jnp.sin(apply(params, x)).sum()

    ours, theirs = (
        jax.jit(jax.value_and_grad(partial(loss, apply), (0, 1)))(params, x) for apply in (net.apply, reference)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10), ours, theirs)


@pytest.mark.parametrize("name", [name for name in NETS if "conv" in name or "cnn" in name or "resnet" in name])
def test_every_convolution_is_the_fast_one(name):
    net, shape, *_ = NETS[name]
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    program = str(jax.make_jaxpr(net.apply)(params, x))
    assert "canonical_conv" in program and "conv_general_dilated" not in program


@pytest.mark.parametrize("shape", [(2, 28, 28, 1), (2, 8, 7, 3)])
def test_mnist_cnn_needs_sizes_that_pool(shape):
    net = mnist_cnn(10, (4, 4, 4))
    with pytest.raises(ValueError, match=r"2x2 pooling of x\.shape=\(2, (7|8), 7, (3|4)\).*crop or pad the images"):
        jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_the_gain_of_a_conditioner_scales_its_output():
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 2))
    plain, damped = conv_net(3, (4,)), conv_net(3, (4,), gain=0.25)
    params = jax.tree.map(lambda leaf: leaf + 0.1, plain.init(jax.random.key(1), x))
    np.testing.assert_allclose(damped.apply(params, x), plain.apply(params, x) / 4, rtol=1e-6)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_each_stage_of_a_resnet_halves_the_image(shape):
    net = resnet(channels=(8, 8, 8, 8), blocks=(1, 1, 1, 1))
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    program = jax.make_jaxpr(net.apply)(params, x)
    sizes = [eqn.outvars[0].aval.shape[1] for eqn in program.eqns if eqn.primitive.name == "canonical_conv"]
    side = shape[0]
    halved = [math.ceil(side / 2**stage) for stage in (1, 2, 3)]
    assert sizes == [side] * 3 + [size for size in halved for _ in range(3)]


def test_the_gradient_of_a_resnet_reaches_every_parameter_and_pixel():
    net, x = resnet(3, (8, 16), (1, 1)), normal(0, (2, 6, 6, 1))
    params = jax.jit(net.init)(jax.random.key(0), x)
    loss = jax.jit(jax.grad(lambda params, x: jnp.sin(net.apply(params, x)).sum(), (0, 1)))
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(loss(params, x)[0]))
    assert (np.asarray(loss(params, x)[1]) != 0).all()


def test_an_image_has_the_same_logits_in_any_batch():
    net, x = resnet(3, (8, 16), (1, 1)), normal(0, (4, 6, 6, 1))
    params = drawn(net, x)
    apply = jax.jit(net.apply)
    np.testing.assert_allclose(apply(params, x)[2:], apply(params, x[2:] + 0), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": (16, 12), "blocks": (1, 1)}, "group norm in 8 groups needs sizes divisible by 8; got (16, 12)"),
        ({"groups": 0}, "groups must be positive; got groups=0"),
        ({"channels": (8, 8)}, "for each stage, with 1 block or more; got channels=(8, 8) and blocks=(2, 2, 2, 2)"),
        ({"channels": (8, 8), "blocks": (1, 0)}, "got channels=(8, 8) and blocks=(1, 0)"),
        ({"channels": (), "blocks": ()}, "got channels=() and blocks=()"),
    ],
)
def test_a_resnet_that_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        resnet(**arguments)
