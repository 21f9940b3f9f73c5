"""Invertible functions: `Bijector(init, forward, inverse)`, the layers, and how to compose them."""

from invjax.bijectors.base import Bijector, Reversible, chain, invert, memory_saving, repeat
from invjax.bijectors.coupling import additive_coupling, affine_coupling
from invjax.bijectors.linear import actnorm, conv1x1, dct2, dct_matrix, permute, reverse
from invjax.bijectors.reshape import factor_out, pad_channels, roll, squeeze

__all__ = [
    "Bijector",
    "Reversible",
    "actnorm",
    "additive_coupling",
    "affine_coupling",
    "chain",
    "conv1x1",
    "dct2",
    "dct_matrix",
    "factor_out",
    "invert",
    "memory_saving",
    "pad_channels",
    "permute",
    "repeat",
    "reverse",
    "roll",
    "squeeze",
]
