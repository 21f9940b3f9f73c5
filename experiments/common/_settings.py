"""What the fields of a configuration mean to a run: axes of its trials, figures, or everything else.

A trial is identified by its place on the axes and by all settings except those that only list places on axes (`axis`),
that only concern figures (`for_figures`), or that belong to the machine (`for_machine`). One more seed therefore adds
one trial, and a wider figure computes nothing.
"""

import dataclasses
from typing import Any

AXIS, FIGURES, MACHINE = "axis", "figures", "machine"


def axis(values: tuple) -> Any:
    """A field that lists places on an axis, such as seeds; a trial gets one of them as an argument."""
    return dataclasses.field(default_factory=lambda: values, metadata={"role": AXIS})


def for_figures(value: Any) -> Any:
    """A field that only concerns figures."""
    return dataclasses.field(default_factory=lambda: value, metadata={"role": FIGURES})


def for_machine(value: Any) -> Any:
    """A field that depends on the machine and not on the result, such as the folder of the data."""
    return dataclasses.field(default_factory=lambda: value, metadata={"role": MACHINE})


class Unreadable:
    """Stands in a trial's settings for a field on which the trial must not depend."""

    def __init__(self, name: str, role: str):
        self._name, self._role = name, role

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unreadable) and self._name == other._name

    def __hash__(self) -> int:
        return hash(self._name)

    def _refuse(self, *arguments: Any) -> Any:
        raise TypeError(
            f"a trial must not read {self._name!r}, a field of the role {self._role!r}: "
            "a trial gets its place on each axis as an argument, and figures have a function of their own"
        )

    __bool__ = __iter__ = __len__ = __getitem__ = __int__ = __float__ = __index__ = __str__ = __format__ = _refuse
    __lt__ = __gt__ = __le__ = __ge__ = __add__ = __mul__ = __sub__ = __truediv__ = __contains__ = _refuse


def _role(field: dataclasses.Field) -> str | None:
    # data_dir is the folder of the data in every experiment
    return MACHINE if field.name == "data_dir" else field.metadata.get("role")


def identity(config: Any) -> dict[str, Any]:
    """The settings that all trials of a run share, nested as the configuration is.

    Args:
        config: a frozen dataclass; its fields may be dataclasses.
    """
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found[field.name] = identity(value)
        elif _role(field) is None:
            found[field.name] = value
    return found


def of_trials(config: Any) -> Any:
    """The configuration as a trial may read it: axes and settings of figures raise an error when they are used.

    It is equal for all trials of a run, so functions that are cached by it, such as compiled training steps, serve all.
    """
    changes = {}
    for field in dataclasses.fields(config):
        value, role = getattr(config, field.name), _role(field)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = of_trials(value)
        elif role in (AXIS, FIGURES):
            changes[field.name] = Unreadable(field.name, role)
    return dataclasses.replace(config, **changes)
