"""Residual networks with group norm in place of batch norm."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from invjax import _check
from invjax._dtypes import wide_dtype
from invjax.models._nets import Conv, net_of
from invjax.types import Net


class GroupNorm(nn.Module):
    """Group norm with the parameters and values of flax's layer, and a faster gradient.

    The mean over positions comes before the mean over channels, and the result is one multiplication and one addition
    per value. XLA then reads the images half as often, and the gradient of a small ResNet takes three quarters of the
    time.
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

        wide = x.astype(wide_dtype(x.dtype))
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
        conv, norm = partial(Conv, self.channels, use_bias=False), partial(GroupNorm, self.groups)
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
        x = Conv(self.channels[0], (3, 3), use_bias=False)(x)
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
    """A residual network of basic blocks for small images, by default a ResNet-18: `[B, H, W, C] -> [B, outputs]`.

    The stem is a 3x3 convolution without pooling. Each stage is a sequence of blocks of two 3x3 convolutions, and each
    stage after the first halves height and width. A mean over positions and a linear layer give the logits. Group norm
    replaces batch norm, so the logits of an image depend on no other image and on no running average. A shortcut that
    changes shape is a 1x1 convolution. `channels=(16, 32, 64), blocks=(1, 1, 1)` is a ResNet-8.

    Args:
        outputs: number of classes.
        channels: channels of each stage, multiples of `groups`.
        blocks: number of blocks of each stage, at least 1.
        groups: number of groups of group norm.

    Raises:
        ValueError: the channels are not divisible by `groups`, there is no stage, a stage has no block, or `channels`
            and `blocks` have different lengths.

    Source: He et al. 2016, *Deep Residual Learning for Image Recognition*; Wu & He 2018, *Group Normalization*.
    """
    _check.positive(groups=groups)
    _check.divisible(f"group norm in {groups} groups", tuple(channels), groups, "change channels or groups")
    if len(channels) != len(blocks) or not len(blocks) or min(blocks) < 1:
        raise ValueError(
            f"channels and blocks need one entry for each stage, with 1 block or more; got channels={tuple(channels)} "
            f"and blocks={tuple(blocks)}"
        )
    return net_of(_ResNet(outputs, tuple(channels), tuple(blocks), groups))
