"""Networks of `invjax.models` in PyTorch with the same weights, for the peers in the benchmarks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

Weights = Mapping[str, Any]


class MnistCnn(nn.Module):
    """`invjax.models.mnist_cnn`."""

    def __init__(self, weights: Weights):
        super().__init__()
        first, second = _conv(weights["Conv_0"]), _conv(weights["Conv_1"])
        self.convs = nn.ModuleList([first, second])
        self.hidden = _dense(weights["Dense_0"], channels=second.out_channels)
        self.logits = _dense(weights["Dense_1"])

    def forward(self, x):
        """`[B, C, H, W] -> [B, outputs]`."""
        for conv in self.convs:
            x = nn.functional.max_pool2d(conv(x).relu(), 2)
        return self.logits(self.hidden(x.flatten(1)).relu())


class _Block(nn.Module):
    def __init__(self, weights: Weights, groups: int):
        super().__init__()
        stride = 2 if "Conv_2" in weights else 1  # a block that halves the image also changes its channels
        self.main = nn.Sequential(
            _conv(weights["Conv_0"], stride),
            _norm(weights["GroupNorm_0"], groups),
            nn.ReLU(),
            _conv(weights["Conv_1"]),
            _norm(weights["GroupNorm_1"], groups),
        )
        self.shortcut = nn.Identity()
        if stride > 1:
            shortcut = _conv(weights["Conv_2"], stride), _norm(weights["GroupNorm_2"], groups)
            self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x):
        return (self.shortcut(x) + self.main(x)).relu()


class ResNet(nn.Module):
    """`invjax.models.resnet`.

    A convolution with stride 2 pads an image of odd size equally in both libraries, so the two networks are the same
    function. PyTorch pads an image of even size on both sides, and flax pads it at its end; the amount of work is then
    equal but the logits differ.
    """

    def __init__(self, weights: Weights, groups: int = 8):
        super().__init__()
        self.stem = nn.Sequential(_conv(weights["Conv_0"]), _norm(weights["GroupNorm_0"], groups), nn.ReLU())
        names = sorted((name for name in weights if "Block" in name), key=lambda name: int(name.rpartition("_")[2]))
        self.blocks = nn.Sequential(*[_Block(weights[name], groups) for name in names])
        self.logits = _dense(weights["Dense_0"])

    def forward(self, x):
        """`[B, C, H, W] -> [B, outputs]`."""
        return self.logits(self.blocks(self.stem(x)).mean((2, 3)))


def images(x: np.ndarray) -> torch.Tensor:
    """`[B, H, W, C] -> [B, C, H, W]`, contiguous in that order."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def _conv(weights, stride=1):
    height, width, inputs, outputs = weights["kernel"].shape
    padding = height // 2, width // 2
    conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias="bias" in weights)
    return _fill(conv, weights, np.asarray(weights["kernel"]).transpose(3, 2, 0, 1))


def _norm(weights, groups):
    return _fill(nn.GroupNorm(groups, weights["scale"].size, eps=1e-6), weights, weights["scale"])


def _dense(weights, channels=1):
    """A dense layer whose inputs are an image with `channels` channels, flattened with the channel last."""
    inputs, outputs = weights["kernel"].shape
    kernel = np.asarray(weights["kernel"]).reshape(-1, channels, outputs).transpose(2, 1, 0).reshape(outputs, inputs)
    return _fill(nn.Linear(inputs, outputs), weights, kernel)


def _fill(layer, weights, kernel):
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(kernel)))
        if "bias" in weights:
            layer.bias.copy_(torch.from_numpy(np.array(weights["bias"])))
    return layer
