"""What a user gave in the place of an attack, and how to make an attack of it."""

from typing import Any

from invjax import _explain
from invjax.attacks._threats import Threat


def instead_of_attack(attack: Any) -> tuple[str, str]:
    """A few words on a value that is no `Attack`, and the fix."""
    got, fix = _explain.described(attack), "make one with attacks.pgd()"
    if getattr(attack, "__qualname__", "").startswith("jit_attack."):
        got, fix = "a result of jit_attack", "pass the attack itself, which is compiled where it runs"
    elif isinstance(attack, Threat):
        fix = "make an attack in it, such as attacks.pgd(threat)"
    elif isinstance(attack, str):
        fix = f"write attacks.{attack if attack.isidentifier() else 'pgd'}()"
    elif (
        getattr(attack, "__module__", "").startswith("invjax.attacks._")
        and getattr(attack, "__qualname__", ".").isidentifier()
    ):
        fix = f"call it: attacks.{attack.__name__}()"
    elif callable(attack):
        fix = "wrap a function as Attack(function, threat, targeted, recipe)"
    return got, fix
