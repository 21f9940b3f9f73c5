"""Losses of logits and codes: one value for each example.

- Classification: `cross_entropy`, `entropy` and `error_rate`.
- Attacks maximise `log_odds`, `margin`, `dlr` or `targeted_dlr`.
- Densities: `dequantize` makes integers continuous and `bits_per_dim` measures their likelihood.
- Independence cross-entropy (iCE): `independence_cross_entropy` for two players, `gradient_reversal_ice` for one
  backward pass, and its published variants in `ADVERSARIES`.
"""

from invjax.losses._adversarial import dlr, log_odds, margin, targeted_dlr
from invjax.losses._classification import cross_entropy, entropy, error_rate
from invjax.losses._density import bits_per_dim, dequantize
from invjax.losses._independence import (
    ADVERSARIES,
    Adversary,
    IndependenceLoss,
    gradient_reversal_ice,
    independence_cross_entropy,
    negated_permuted,
    permuted,
    reversal,
    reverse_gradient,
    uniform,
)

__all__ = [
    "ADVERSARIES",
    "Adversary",
    "IndependenceLoss",
    "bits_per_dim",
    "cross_entropy",
    "dequantize",
    "dlr",
    "entropy",
    "error_rate",
    "gradient_reversal_ice",
    "independence_cross_entropy",
    "log_odds",
    "margin",
    "negated_permuted",
    "permuted",
    "reversal",
    "reverse_gradient",
    "targeted_dlr",
    "uniform",
]
