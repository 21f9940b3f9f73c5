"""Classifiers that are too sensitive and too invariant: a library of pure functions.

Start with `invjax.types` for the vocabulary, `invjax.bijectors` and `invjax.models` for invertible classifiers,
`invjax.losses` and `invjax.training` to train them, `invjax.attacks` to fool any classifier.
"""

import importlib
from collections.abc import Callable
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "analysis",
    "attacks",
    "bijectors",
    "bounds",
    "data",
    "evaluation",
    "fast_convs",
    "features",
    "figures",
    "interop",
    "losses",
    "models",
    "theory",
    "training",
    "types",
]

fast_convs: Callable[..., Any]  # `__getattr__` loads it on first use
"""`fast_convs(function)` gives the same function with convolutions whose gradients are fast inside loops on a CPU."""


def __getattr__(name: str) -> Any:
    """Packages are imported when they are first used, so that importing the library stays light."""
    if name == "fast_convs":
        from invjax._conv import fast_convs

        return fast_convs
    if name in __all__:
        return importlib.import_module(f"invjax.{name}")
    raise AttributeError(f"module 'invjax' has no attribute {name!r}; its packages are {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
