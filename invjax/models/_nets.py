"""Small networks: classifiers, nuisance heads and the conditioners of coupling layers.

Each network is a `Net(init, apply)`, and its flax module stays private. No network has mutable state, and every
convolution goes through `invjax._conv`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from invjax import _check
from invjax._conv import conv_general_dilated
from invjax.types import Net

Conv = partial(nn.Conv, conv_general_dilated=conv_general_dilated)
_EXACT = jax.lax.Precision.HIGHEST  # a GPU would round to TF32, and the inverse of a coupling would not be exact


def net_of(module: nn.Module) -> Net:
    """The two pure functions of a flax module."""
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
    """A fully connected network of ReLU layers on flattened inputs: `[B, ...] -> [B, outputs]`.

    Args:
        outputs: size of the last layer.
        hidden: widths of the hidden layers; `()` gives a linear classifier.
        zero_init: start the last layer at zero, so that a coupling layer starts as the identity.
    """
    return net_of(_Mlp(tuple(hidden), outputs, zero_init))


class _ConvNet(nn.Module):
    hidden: Sequence[int]
    outputs: int
    gain: float

    @nn.compact
    def __call__(self, x):
        for width in self.hidden:
            x = nn.relu(Conv(width, (3, 3), precision=_EXACT)(x))
        return self.gain * Conv(self.outputs, (3, 3), precision=_EXACT, kernel_init=nn.initializers.zeros)(x)


def conv_net(outputs: int, hidden: Sequence[int], gain: float = 1.0) -> Net:
    """The conditioner of a coupling layer, 3x3 convolutions with ReLUs: `[B, H, W, C] -> [B, H, W, outputs]`.

    The last layer starts at zero, so that the coupling starts as the identity.

    Args:
        outputs: number of output channels.
        hidden: channels of the layers before the last.
        gain: factor on the output; a value below 1 keeps the inverse of a deep stack well conditioned.
    """
    return net_of(_ConvNet(tuple(hidden), outputs, gain))


class _MnistCnn(nn.Module):
    outputs: int
    channels: Sequence[int]
    dense: int

    @nn.compact
    def __call__(self, x):
        for width in self.channels:
            _check.divisible(f"2x2 pooling of x.shape={x.shape}", x.shape[1:3], 2, "crop or pad the images")
            x = nn.relu(Conv(width, (5, 5))(x))
            batch, height, width, channels = x.shape
            # reshape-and-max: the gradient of reduce_window is 1.6 times slower on CPU
            x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))
        x = nn.relu(nn.Dense(self.dense)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.outputs)(x)


def mnist_cnn(outputs: int = 10, channels: Sequence[int] = (32, 64), dense: int = 1024) -> Net:
    """The MNIST network of Madry et al. 2018: 5x5 convolutions with 2x2 max pooling, then two dense layers.

    It maps `[B, H, W, C]` to `[B, outputs]`. H and W must be divisible by 2 once for each convolution.

    Args:
        outputs: number of classes.
        channels: channels of the convolutions.
        dense: width of the hidden dense layer.
    """
    return net_of(_MnistCnn(outputs, tuple(channels), dense))


def num_params(params) -> int:
    """The number of values in a pytree of arrays.

    Args:
        params: a pytree of arrays.

    Returns:
        The sum of the sizes of all arrays.
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))
