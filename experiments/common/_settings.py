"""What the fields of a configuration mean to a run: axes of its trials, figures, or everything else.

A trial is identified by its place on the axes and by all settings except those that only list places on axes (`axis`),
that only concern figures (`for_figures`), or that belong to the machine (`for_machine`). One more seed therefore adds
one trial, and a wider figure computes nothing.
"""

import dataclasses
from typing import Annotated, Any, Literal, TypeVar

import tyro

from invjax.data import Dataset, load

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


T = TypeVar("T")
Flat = Annotated[T, tyro.conf.arg(name="")]
"""Marks nested settings whose flags have no prefix: `data: Flat[Data]` gives `--dataset`, not `--data.dataset`."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Settings of the images."""

    dataset: Literal["digits", "mnist", "cifar10"] = "mnist"  # Data set of the images.
    data_dir: str | None = for_machine(None)
    """Folder of the data; by default INVJAX_DATA, then TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    train_size: int | None = None  # Number of training images, the first ones; None uses all.
    test_size: int | None = None  # Number of test images, the first ones; None uses all.

    @property
    def size(self) -> str:
        """The number of training images in words."""
        return "all" if self.train_size is None else f"{self.train_size:,}"

    def load(self) -> tuple[Dataset, Dataset]:
        """The training and the test set, as bytes."""
        train, test = (load(self.dataset, split, self.data_dir) for split in ("train", "test"))
        return first(train, self.train_size), first(test, self.test_size)


def first(data: Dataset, count: int | None) -> Dataset:
    """The first `count` images; all for None."""
    return data._replace(images=data.images[:count], labels=data.labels[:count])


def name_of_data(config: Any) -> str:
    """The name of the data set of a configuration, for the folder of a run."""
    return config.data.dataset if hasattr(config, "data") else config.dataset


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


def role_of(field: dataclasses.Field) -> str | None:
    """What a field means to a run, or None for a setting of the trials."""
    return field.metadata.get("role")


def identity(config: Any) -> dict[str, Any]:
    """The settings that all trials of a run share, nested as the configuration is."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found[field.name] = identity(value)
        elif role_of(field) is None:
            found[field.name] = value
    return found


def recorded(config: Any) -> dict[str, Any]:
    """All settings except those of the machine, nested as the configuration is."""
    return {
        field.name: recorded(value) if dataclasses.is_dataclass(value) else value
        for field in dataclasses.fields(config)
        for value in [getattr(config, field.name)]
        if role_of(field) is not MACHINE
    }


def restored(default: Any, settings: dict[str, Any]) -> Any:
    """The configuration with these recorded settings, and the defaults for those of the machine."""
    wanted = recorded(default).keys()
    if settings.keys() != wanted:
        name = min(settings.keys() ^ wanted)
        verb = "has" if name in settings else "lacks"
        raise ValueError(f"the run {verb} the setting {name!r}: another version made it; run its command again")
    changes = {}
    for name, value in settings.items():
        now = getattr(default, name)
        changes[name] = restored(now, value) if dataclasses.is_dataclass(now) else _tuples(value)
    return dataclasses.replace(default, **changes)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def of_trials(config: Any) -> Any:
    """The configuration as a trial may read it: axes and settings of figures raise an error when they are used.

    It is equal for all trials of a run, so functions that are cached by it, such as compiled training steps, serve all.
    """
    changes = {}
    for field in dataclasses.fields(config):
        value, role = getattr(config, field.name), role_of(field)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = of_trials(value)
        elif role in (AXIS, FIGURES):
            changes[field.name] = Unreadable(field.name, role)
    return dataclasses.replace(config, **changes)
