"""Small networks: classifiers, nuisance heads and the conditioners of coupling layers.

This is the only module that knows flax modules; everything else sees `Net(init, apply)`. No network here has a mutable
state, and every convolution goes through `invjax._conv`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from invjax import _check
from invjax._conv import conv_general_dilated
from invjax.types import ApplyFn, Net

_Conv = partial(nn.Conv, conv_general_dilated=conv_general_dilated)
_EXACT = jax.lax.Precision.HIGHEST  # what is inverted by computing it again must not be rounded to TF32 on a GPU


def _net(module: nn.Module) -> Net:
    apply: Any = module.apply
    return Net(module.init, apply)


class _Mlp(nn.Module):
    hidden: Sequence[int]
    outputs: int
    zero_init: bool

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        last = {"kernel_init": nn.initializers.zeros} if self.zero_init else {}
        return nn.Dense(self.outputs, **last)(x)


def mlp(outputs: int, hidden: Sequence[int] = (512, 512), zero_init: bool = False) -> Net:
    """Fully connected: flatten, `hidden` ReLU layers, a linear layer. `[B, ...] -> [B, outputs]`.

    Args:
        outputs: size of the last layer.
        hidden: widths; `()` is a linear classifier.
        zero_init: start the last layer at zero, so that a coupling layer starts as the identity.
    """
    return _net(_Mlp(tuple(hidden), outputs, zero_init))


class _ConvNet(nn.Module):
    hidden: Sequence[int]
    outputs: int
    gain: float

    @nn.compact
    def __call__(self, x):
        for width in self.hidden:
            x = nn.relu(_Conv(width, (3, 3), precision=_EXACT)(x))
        return self.gain * _Conv(self.outputs, (3, 3), precision=_EXACT, kernel_init=nn.initializers.zeros)(x)


def conv_net(outputs: int, hidden: Sequence[int], gain: float = 1.0) -> Net:
    """The conditioner of a coupling layer: 3x3 convolutions, ReLU between. `[B, H, W, C] -> [B, H, W, outputs]`.

    The last layer starts at zero, so that the coupling starts as the identity.

    Args:
        outputs: output channels.
        hidden: channels of the layers before the last.
        gain: multiplies the output; below 1 it keeps the inverse of a deep stack well conditioned.
    """
    return _net(_ConvNet(tuple(hidden), outputs, gain))


class _MnistCnn(nn.Module):
    outputs: int
    channels: Sequence[int]
    dense: int

    @nn.compact
    def __call__(self, x):
        for width in self.channels:
            _check.divisible(f"2x2 pooling of x.shape={x.shape}", x.shape[1:3], 2, "crop or pad the images")
            x = nn.relu(_Conv(width, (5, 5))(x))
            batch, height, width, channels = x.shape
            # reshape-and-max: the gradient of reduce_window is 1.6 times slower on CPU
            x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))
        x = nn.relu(nn.Dense(self.dense)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.outputs)(x)


def mnist_cnn(outputs: int = 10, channels: Sequence[int] = (32, 64), dense: int = 1024) -> Net:
    """The MNIST network of Madry et al. 2018: 5x5 convolutions with 2x2 max pooling, then two dense layers.

    `[B, H, W, C] -> [B, outputs]`; H and W are divisible by 2 for each convolution.

    Args:
        outputs: number of classes.
        channels: channels of the convolutions.
        dense: width of the hidden dense layer.
    """
    return _net(_MnistCnn(outputs, tuple(channels), dense))


class GroupNorm(nn.Module):
    """Flax's group norm, in three quarters of the time of a small ResNet's gradient.

    Positions are summed before channels, and the result is one multiplication and one addition a value: XLA reads the
    images half as often, and never with the channels split in groups.
    """

    groups: int

    @nn.compact
    def __call__(self, x):
        """`[B, ..., C] -> [B, ..., C]`."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        def group_mean(values):
            of_channels = values.reshape(x.shape[0], -1, channels).mean(1)
            return of_channels.reshape(x.shape[0], self.groups, -1).mean(2).repeat(channels // self.groups, 1)

        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, square = group_mean(wide), group_mean(wide**2)
        factor = scale[None] * jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + 1e-6)
        expand = lambda values: jnp.expand_dims(values, tuple(range(1, x.ndim - 1))).astype(x.dtype)  # noqa: E731
        return x * expand(factor) + expand(bias[None] - mean * factor)


class _Block(nn.Module):
    channels: int
    stride: int
    groups: int

    @nn.compact
    def __call__(self, x):
        conv, norm = partial(_Conv, self.channels, use_bias=False), partial(GroupNorm, self.groups)
        strides = (self.stride, self.stride)
        y = nn.relu(norm()(conv((3, 3), strides)(x)))
        y = norm()(conv((3, 3))(y))
        if x.shape != y.shape:
            x = norm()(conv((1, 1), strides)(x))
        return nn.relu(x + y)


class _ResNet(nn.Module):
    outputs: int
    channels: Sequence[int]
    blocks: Sequence[int]
    groups: int

    @nn.compact
    def __call__(self, x):
        x = _Conv(self.channels[0], (3, 3), use_bias=False)(x)
        x = nn.relu(GroupNorm(self.groups)(x))
        for stage, (width, count) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for block in range(count):
                x = _Block(width, 2 if stage and not block else 1, self.groups)(x)
        return nn.Dense(self.outputs)(x.mean((1, 2)))


def resnet(
    outputs: int = 10,
    channels: Sequence[int] = (64, 128, 256, 512),
    blocks: Sequence[int] = (2, 2, 2, 2),
    groups: int = 8,
) -> Net:
    """A residual network of basic blocks for small images, by default a ResNet-18. `[B, H, W, C] -> [B, outputs]`.

    A 3x3 stem without pooling; stages of blocks of two 3x3 convolutions, all but the first stage at half the height and
    width of the one before; a mean over positions; a linear layer. Group norm stands in for batch norm, so an image's
    logits depend on no other image and on no running average. Shortcuts that change shape are a 1x1 convolution.
    `channels=(16, 32, 64), blocks=(1, 1, 1)` is a ResNet-8. Source: He et al. 2016; Wu & He 2018, *Group
    Normalization*.

    Args:
        outputs: number of classes.
        channels: of each stage, multiples of `groups`.
        blocks: of each stage, at least 1.
        groups: into which group norm divides the channels.

    Raises:
        ValueError: channels that do not divide by `groups`; no stage, a stage without blocks, or channels and blocks of
            different lengths.
    """
    _check.positive(groups=groups)
    _check.divisible(f"group norm in {groups} groups", tuple(channels), groups, "change channels or groups")
    if len(channels) != len(blocks) or not len(blocks) or min(blocks) < 1:
        raise ValueError(
            f"channels and blocks need one entry a stage, with 1 block or more; got channels={tuple(channels)} and "
            f"blocks={tuple(blocks)}"
        )
    return _net(_ResNet(outputs, tuple(channels), tuple(blocks), groups))


def penultimate(net: Net) -> ApplyFn:
    """What a network's last dense layer reads: its representation, `(params, x [B, ...]) -> [B, F]`.

    >>> net = mlp(10, hidden=(7,))
    >>> x = jnp.ones((2, 4))
    >>> penultimate(net)(net.init(jax.random.key(0), x), x).shape
    (2, 7)

    Args:
        net: one that ends in a dense layer (`mlp`, `mnist_cnn`, `resnet`, or a linen module's `Net(init, apply)`), not
            compiled. After a ReLU where there is one, as in all of these.

    Raises:
        ValueError: it does not end in a dense layer of flax (when called).
    """

    def features(params, x):
        seen = []

        def note(call, arguments, keywords, context):
            out = call(*arguments, **keywords)
            if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
                seen.append((arguments[0], out))
            return out

        with nn.intercept_methods(note):
            logits = net.apply(params, x)
        if not seen or seen[-1][1] is not logits:
            raise ValueError(
                f"penultimate needs a network whose logits are those of a dense layer of flax; got {net.apply}; "
                "write the representation as a function (params, x) by hand, and give a network that is not jitted"
            )
        return seen[-1][0]

    return features


def num_params(params) -> int:
    """The number of values in a pytree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
