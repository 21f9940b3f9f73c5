"""The registry of the threats, and the checks of what a user gives as a threat."""

from collections.abc import Callable
from typing import Any

from invjax import _explain
from invjax.attacks._threats._l0 import l0
from invjax.attacks._threats._l1 import l1
from invjax.attacks._threats._l2 import l2
from invjax.attacks._threats._linf import linf
from invjax.attacks._threats._threat import Threat

THREATS: dict[str, Callable[..., Threat]] = {
    "linf": linf,
    "l2": l2,
    "l1": l1,
    "l0": l0,
}
"""The threats by name: `THREATS["l2"]().distance(z, x)` is the Euclidean distance."""


def check_threat(threat: Any) -> Threat:
    """Refuse anything but a `Threat`, and return it.

    Args:
        threat: what the user gave as a threat.

    Raises:
        ValueError: it is the name of a threat, the function that makes it, a model, or something else.
    """
    if isinstance(threat, Threat):
        return threat
    name = getattr(threat, "__name__", threat)
    if isinstance(name, str) and name in THREATS:
        fix = f"{'write' if threat == name else 'call it:'} attacks.{name}()"
    elif isinstance(getattr(threat, "threat", None), Threat):
        fix = "pass attack.threat"
    elif callable(threat):
        fix = "make the attack first, as in pgd(linf()), and give it the model when it runs"
    else:
        fix = "make one with attacks.linf()"
    raise ValueError(f"threat must be an attacks.Threat; got {_explain.described(threat)}; {fix}")


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
