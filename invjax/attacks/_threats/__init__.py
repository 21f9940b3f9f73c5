"""The threats: each norm has one module and one line in the registry `THREATS`.

A new norm needs a module with a function `(box) -> Threat` and a line in `THREATS`. Attacks read everything that they
need from the fields of the record.
"""

from collections.abc import Callable

from invjax.attacks._threats._l0 import l0
from invjax.attacks._threats._l1 import l1
from invjax.attacks._threats._l2 import l2
from invjax.attacks._threats._linf import linf
from invjax.attacks._threats._masked import allowed, check_mask, masked
from invjax.attacks._threats._threat import Threat

__all__ = ["THREATS", "Threat", "allowed", "check_mask", "check_supported", "l0", "l1", "l2", "linf", "masked"]

THREATS: dict[str, Callable[..., Threat]] = {
    "linf": linf,
    "l2": l2,
    "l1": l1,
    "l0": l0,
}
"""The threats by name: `THREATS["l2"]().distance(z, x)` is the Euclidean distance."""


def check_supported(attack: str, threat: Threat, *fields: str) -> None:
    """Refuse a threat without the fields that an attack needs.

    Args:
        attack: the name of the attack.
        threat: the threat that the user chose.
        *fields: the optional fields of `Threat` that must not be None.

    Raises:
        ValueError: one of these fields is None; the message names the threats that have them all.
    """

    def supports(threat: Threat) -> bool:
        return all(getattr(threat, field) is not None for field in fields)

    if not supports(threat):
        names = ", ".join(repr(name) for name, make in THREATS.items() if supports(make()))
        raise ValueError(f"{attack} does not support the threat {threat.name!r}; it supports {names}")
