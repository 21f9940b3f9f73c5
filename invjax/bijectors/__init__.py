"""Invertible functions: `Bijector(init, forward, inverse)`, the layers, and how to compose them."""

from invjax.bijectors._bijector import Bijector, Reversible
from invjax.bijectors._chain import chain, invert
from invjax.bijectors._code import logit_coupling, soft_tails
from invjax.bijectors._coupling import additive_coupling, affine_coupling
from invjax.bijectors._linear import actnorm, conv1x1, dct2, dct_matrix, permute, reverse
from invjax.bijectors._logit_box import logit_box
from invjax.bijectors._marginals import decision_marginals
from invjax.bijectors._repeat import repeat
from invjax.bijectors._reshape import factor_out, flatten, pad_channels, roll, squeeze
from invjax.bijectors._reversible import memory_saving
from invjax.bijectors._whitening import decision_whitening

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
    "logit_box",
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
