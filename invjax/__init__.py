"""Classifiers that are too sensitive and too invariant: a library of pure functions.

Start with `invjax.types` for the vocabulary, `invjax.bijectors` and `invjax.models` for invertible classifiers,
`invjax.losses` and `invjax.training` to train them, `invjax.attacks` to fool any classifier.
"""

from invjax import analysis, attacks, bijectors, data, evaluation, features, interop, losses, models, training, types
from invjax._conv import fast_convs

__all__ = [
    "analysis",
    "attacks",
    "bijectors",
    "data",
    "evaluation",
    "fast_convs",
    "features",
    "interop",
    "losses",
    "models",
    "training",
    "types",
]
