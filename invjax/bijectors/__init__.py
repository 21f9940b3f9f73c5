"""Invertible functions: `Bijector(init, forward, inverse)`, the layers, and how to compose them."""

from invjax.bijectors._base import Bijector, Reversible, chain, invert, memory_saving, repeat
from invjax.bijectors._conditional import decision_marginals, decision_whitening, logit_coupling, soft_tails
from invjax.bijectors._coupling import additive_coupling, affine_coupling
from invjax.bijectors._linear import actnorm, conv1x1, dct2, dct_matrix, permute, reverse
from invjax.bijectors._reshape import factor_out, flatten, pad_channels, roll, squeeze

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
    "decision_marginals",
    "decision_whitening",
    "factor_out",
    "flatten",
    "invert",
    "logit_coupling",
    "memory_saving",
    "pad_channels",
    "permute",
    "repeat",
    "reverse",
    "roll",
    "soft_tails",
    "squeeze",
]
