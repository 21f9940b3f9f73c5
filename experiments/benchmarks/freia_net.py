"""The fully invertible RevNet in FrEIA (PyTorch): the peer of `freia`. Needs the `bench` extra."""

import math
from collections.abc import Callable, Sequence

import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import ActNorm, InvertibleModule, IRevNetDownsampling
from torch import nn

from invjax.bijectors import dct_matrix


class _VolumePreserving(InvertibleModule):
    """A module with one input and log-determinant 0, which keeps the shape."""

    def forward(self, x_or_z, c=None, rev=False, jac=True):
        return (self._undo(x_or_z[0]) if rev else self._run(x_or_z[0]),), 0.0

    def output_dims(self, input_dims):
        return input_dims


class ReverseChannels(_VolumePreserving):
    """Reverse the order of the channels; FrEIA itself has only random permutations."""

    def _run(self, x):
        return x.flip(1)

    _undo = _run


class AdditiveCoupling(_VolumePreserving):
    """`z2 = x2 + t(x1)`; FrEIA's own additive block is two-sided."""

    def __init__(self, dims_in, dims_c=None, *, hidden):
        super().__init__(dims_in, dims_c)
        channels = dims_in[0][0] // 2
        self.net = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, channels, 3, padding=1)
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def _run(self, x):
        x1, x2 = x.chunk(2, 1)
        return torch.cat((x1, x2 + self.net(x1)), 1)

    def _undo(self, z):
        z1, z2 = z.chunk(2, 1)
        return torch.cat((z1, z2 - self.net(z1)), 1)


class Cosine(_VolumePreserving):
    """The orthonormal DCT-II of each channel."""

    def __init__(self, dims_in, dims_c=None):
        super().__init__(dims_in, dims_c)
        _, height, width = dims_in[0]
        self.register_buffer("rows", torch.tensor(dct_matrix(height), dtype=torch.float32))
        self.register_buffer("columns", torch.tensor(dct_matrix(width), dtype=torch.float32))

    def _run(self, x):
        return self.rows @ x @ self.columns.T

    def _undo(self, z):
        return self.rows.T @ z @ self.columns


def build(shape: Sequence[int], blocks: Sequence[int], hidden: Sequence[Sequence[int]]) -> SequenceINN:
    """The layers of `invjax.models.fi_revnet` with the same arguments."""
    height, width, channels = shape
    net = SequenceINN(channels, height, width)
    for n, (features,) in zip(blocks, hidden, strict=True):
        net.append(IRevNetDownsampling)
        for _ in range(n):
            net.append(ActNorm)
            net.append(ReverseChannels)
            net.append(AdditiveCoupling, hidden=features)
    net.append(Cosine)
    return net


def losses(net: SequenceINN, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean bits per dimension, and mean cross-entropy of the first ten channels at the lowest frequency."""
    z, logdet = net(x)
    dimensions = z[0].numel()
    nats = 0.5 * z.flatten(1).square().sum(1) + 0.5 * dimensions * math.log(2 * math.pi) - logdet
    bits = nats.mean() / (dimensions * math.log(2)) + 8
    return bits, nn.functional.cross_entropy(z[:, :10, 0, 0], labels)


def train_step(net: SequenceINN, x: torch.Tensor, labels: torch.Tensor, learning_rate: float) -> Callable[[], float]:
    """A function that takes one step of Adam in each call."""
    optimizer = torch.optim.Adam(net.parameters(), learning_rate)

    def step():
        optimizer.zero_grad()
        loss = sum(losses(net, x, labels))
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def num_params(net: SequenceINN) -> int:
    """The number of trained parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
