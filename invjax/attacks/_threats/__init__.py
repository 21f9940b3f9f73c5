"""The threats: each norm has one module and one line in the registry `THREATS`.

A new norm needs a module with a function `(box) -> Threat` and a line in `THREATS` (`_registry.py`). Attacks read
everything that they need from the fields of the record.
"""

from invjax.attacks._threats._l0 import l0
from invjax.attacks._threats._l1 import l1
from invjax.attacks._threats._l2 import l2
from invjax.attacks._threats._linf import linf
from invjax.attacks._threats._masked import allowed, check_mask, masked
from invjax.attacks._threats._registry import THREATS, check_supported, check_threat
from invjax.attacks._threats._threat import Threat

__all__ = [
    "THREATS",
    "Threat",
    "allowed",
    "check_mask",
    "check_supported",
    "check_threat",
    "l0",
    "l1",
    "l2",
    "linf",
    "masked",
]
