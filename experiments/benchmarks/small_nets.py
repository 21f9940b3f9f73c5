"""Small networks of many architectures in linen, nnx, equinox and this library, with random parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from invjax import interop, models

IMAGE, SEQUENCE, VECTOR = (6, 6, 2), (4, 8), (12,)
Layers = Callable[[Any], Any]
"""A function that creates linen layers and applies them."""


class Plain(nn.Module):
    """A linen network of one function that creates its layers, and a dense layer of ten logits."""

    body: Layers

    @nn.compact
    def __call__(self, x):
        """`[B, ...] -> [B, 10]`."""
        x = self.body(x)
        return nn.Dense(10)(x.reshape(len(x), -1))


def mlp(activation: Layers) -> Layers:
    return lambda x: activation(nn.Dense(16)(activation(nn.Dense(16)(x))))


def residual_mlp(x: Any) -> Any:
    x = nn.Dense(16)(x)
    for _ in range(3):
        x = x + nn.Dense(16)(nn.relu(nn.Dense(16)(x)))
    return x


def rms_mlp(x: Any) -> Any:
    for _ in range(2):
        x = nn.silu(nn.Dense(16)(nn.RMSNorm()(x)))
    return x


def gated_mlp(x: Any) -> Any:
    x = nn.RMSNorm()(nn.Dense(16)(x))
    return nn.Dense(16)(nn.silu(nn.Dense(24)(x)) * nn.Dense(24)(x))


def experts(x: Any) -> Any:
    gates = nn.softmax(nn.Dense(3)(x))
    return sum(gates[:, i, None] * nn.Dense(16)(nn.relu(nn.Dense(16)(x))) for i in range(3))


def cnn(x: Any) -> Any:
    x = nn.relu(nn.Conv(4, (3, 3))(x))
    return nn.relu(nn.Conv(8, (3, 3), strides=2)(x))


def pooled_cnn(pool: Callable) -> Layers:
    return lambda x: nn.relu(nn.Conv(8, (3, 3))(pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))))


def convolution(**settings: Any) -> Layers:
    return lambda x: nn.relu(nn.Conv(4, (3, 3), **settings)(nn.relu(nn.Conv(4, (3, 3))(x))))


def transposed(x: Any) -> Any:
    x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
    return nn.relu(nn.ConvTranspose(4, (3, 3), strides=(2, 2))(x))


def batch_norm(x: Any) -> Any:
    return nn.BatchNorm(use_running_average=True)(x)


def resnet(norm: Layers) -> Layers:
    def body(x):
        x = nn.relu(norm(nn.Conv(4, (3, 3))(x)))
        x = nn.relu(x + norm(nn.Conv(4, (3, 3))(nn.relu(norm(nn.Conv(4, (3, 3))(x))))))
        return x.mean((1, 2))

    return body


def group_norm(x: Any) -> Any:
    return nn.GroupNorm(2)(x)


def dense_block(x: Any) -> Any:
    for _ in range(3):
        x = jnp.concatenate([x, nn.Conv(2, (3, 3))(nn.relu(x))], -1)
    return x.mean((1, 2))


def convnext(x: Any) -> Any:
    x = nn.Conv(8, (2, 2), strides=2)(x)
    y = nn.LayerNorm()(nn.Conv(8, (3, 3), feature_group_count=8)(x))
    x = x + nn.Dense(8)(nn.gelu(nn.Dense(16)(y)))
    return x.mean((1, 2))


def squeeze_excitation(x: Any) -> Any:
    x = nn.relu(nn.Conv(8, (3, 3))(x))
    return x * nn.sigmoid(nn.Dense(8)(nn.relu(nn.Dense(4)(x.mean((1, 2), keepdims=True)))))


def unet(x: Any) -> Any:
    skip = nn.relu(nn.Conv(4, (3, 3))(x))
    x = nn.relu(nn.Conv(8, (3, 3))(nn.max_pool(skip, (2, 2), (2, 2))))
    x = jnp.concatenate([nn.ConvTranspose(4, (2, 2), strides=(2, 2))(x), skip], -1)
    return nn.Conv(2, (3, 3))(x)


def generalized_mean(x: Any) -> Any:
    x = nn.relu(nn.Conv(8, (3, 3))(x))
    return (jnp.maximum(x, 1e-3) ** 3).mean((1, 2)) ** (1 / 3)


def recurrent(cell: Callable) -> Layers:
    def body(x):
        outputs: Any = nn.RNN(cell(8))(x)
        return outputs[:, -1]

    return body


def attention(x: Any, mask: Any = None) -> Any:
    return nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), mask=mask)


def transformer(blocks: int) -> Layers:
    def body(x):
        for _ in range(blocks):
            x = x + attention(x)
            x = x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(2 * x.shape[-1])(nn.LayerNorm()(x))))
        return x

    return body


def mixer(x: Any) -> Any:
    def mix(x):
        return nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(2 * x.shape[-1])(x)))

    x = x + mix(nn.LayerNorm()(x).swapaxes(1, 2)).swapaxes(1, 2)
    return x + mix(nn.LayerNorm()(x))


class Cosine(nn.Module):
    """Cosines of features and ten vectors."""

    @nn.compact
    def __call__(self, x):
        """`[B, ...] -> [B, 10]`."""
        x = nn.relu(nn.Dense(16)(x))
        weight = self.param("weight", nn.initializers.lecun_normal(), (16, 10))
        return (
            x / jnp.linalg.norm(x, axis=-1, keepdims=True) @ (weight / jnp.linalg.norm(weight, axis=0, keepdims=True))
        )


class Head(nn.Module):
    """A function of the logits of an MLP."""

    function: Layers

    @nn.compact
    def __call__(self, x):
        """`[B, ...] -> [B, 10]`."""
        return self.function(nn.Dense(10)(nn.relu(nn.Dense(16)(x))))


class NnxRecurrent(nnx.Module):
    """A recurrent network of nnx."""

    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(8, 8, rngs=rngs))
        self.head = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        """`[B, T, 8] -> [B, 10]`."""
        return self.head(self.rnn(x)[:, -1])


class NnxNet(nnx.Module):
    """A convolutional network of nnx with group norm."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.GroupNorm(4, 2, rngs=rngs)
        self.head = nnx.Linear(4, 10, rngs=rngs)

    def __call__(self, x):
        """`[B, H, W, 2] -> [B, 10]`."""
        return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def of_linen(module: nn.Module, shape: tuple[int, ...]) -> Layers:
    """A linen network with its own random parameters, and with random statistics of its batch norms."""
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    rng = np.random.default_rng(0)
    draws = {"mean": lambda shape: 0.1 * rng.normal(size=shape), "var": lambda shape: rng.uniform(0.5, 2, shape)}
    statistics = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(draws[path[-1].key](leaf.shape), leaf.dtype), variables.get("batch_stats", {})
    )
    apply: Any = module.apply
    return partial(apply, {**variables, "batch_stats": statistics})


def of_nnx(make: Callable[[nnx.Rngs], Any]) -> Layers:
    """A network of nnx with its own random parameters."""
    apply_fn, params = interop.from_nnx(make(nnx.Rngs(0)))
    return partial(apply_fn, params)


def of_library(net: Any) -> Layers:
    """A network of this library with random parameters."""
    x = jax.random.uniform(jax.random.key(1), (4, *IMAGE))
    shapes, rng = jax.eval_shape(net.init, jax.random.key(0), x), np.random.default_rng(0)
    return partial(
        net.apply, jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)
    )


def of_equinox() -> Layers:
    """An equinox MLP with layer norm."""
    import equinox

    keys = jax.random.split(jax.random.key(0), 2)
    first, last = equinox.nn.Linear(12, 16, key=keys[0]), equinox.nn.Linear(16, 10, key=keys[1])
    norm = equinox.nn.LayerNorm(16)
    return jax.vmap(lambda x: last(jax.nn.gelu(norm(first(x)))))


def causal(x: Any) -> Any:
    return nn.make_causal_mask(x[..., 0])


def padding(x: Any) -> Any:
    return nn.make_attention_mask(jnp.ones(x.shape[:2]), jnp.arange(x.shape[1])[None] < x.shape[1] - 1)


LINEN: dict[str, tuple[Layers, tuple[int, ...]]] = {
    **{f"{f.__name__} MLP": (mlp(f), VECTOR) for f in (nn.relu, nn.gelu, nn.silu, nn.softplus, nn.tanh, nn.sigmoid)},
    "elu MLP": (mlp(nn.elu), VECTOR),
    "residual MLP": (residual_mlp, VECTOR),
    "RMS norm MLP": (rms_mlp, VECTOR),
    "gated MLP (SwiGLU)": (gated_mlp, VECTOR),
    "mixture of experts": (experts, VECTOR),
    "CNN": (cnn, IMAGE),
    "max pooling CNN": (pooled_cnn(nn.max_pool), IMAGE),
    "average pooling CNN": (pooled_cnn(nn.avg_pool), IMAGE),
    "dilated CNN": (convolution(kernel_dilation=2), IMAGE),
    "grouped CNN": (convolution(feature_group_count=2), IMAGE),
    "depthwise CNN": (convolution(feature_group_count=4), IMAGE),
    "transposed CNN": (transposed, IMAGE),
    "ResNet, batch norm": (resnet(batch_norm), IMAGE),
    "ResNet, group norm": (resnet(group_norm), IMAGE),
    "DenseNet block": (dense_block, IMAGE),
    "ConvNeXt block": (convnext, IMAGE),
    "SE net": (squeeze_excitation, IMAGE),
    "U-Net": (unet, IMAGE),
    "GeM pooling": (generalized_mean, IMAGE),
    "LSTM": (recurrent(nn.LSTMCell), SEQUENCE),
    "GRU": (recurrent(nn.GRUCell), SEQUENCE),
    "attention": (attention, SEQUENCE),
    "attention, causal mask": (lambda x: attention(x, causal(x)), SEQUENCE),
    "attention, padding mask": (lambda x: attention(x, padding(x)), SEQUENCE),
    "ViT block": (transformer(1), SEQUENCE),
    "ViT, two layers": (transformer(2), SEQUENCE),
    "MLP-Mixer block": (mixer, SEQUENCE),
}

ARCHITECTURES: dict[str, tuple[Callable[[], Layers], tuple[int, ...]]] = {
    **{name: (partial(of_linen, Plain(body), shape), shape) for name, (body, shape) in LINEN.items()},
    "cosine head": (partial(of_linen, Cosine(), VECTOR), VECTOR),
    "log_softmax head": (partial(of_linen, Head(nn.log_softmax), VECTOR), VECTOR),
    "softmax head, temperature 4": (partial(of_linen, Head(lambda x: nn.softmax(x / 4)), VECTOR), VECTOR),
    "nnx RNN": (partial(of_nnx, NnxRecurrent), SEQUENCE),
    "nnx CNN, group norm": (partial(of_nnx, NnxNet), IMAGE),
    "equinox MLP, layer norm": (of_equinox, VECTOR),
    "invertible network": (
        lambda: of_library(models.fi_revnet(IMAGE, 10, blocks=(2,), hidden=((4,),))),
        IMAGE,
    ),
}
"""For each name a function that makes the network, `[B, ...] -> [B, 10]`, and the shape of an input."""
