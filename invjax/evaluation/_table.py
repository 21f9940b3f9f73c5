"""The numbers of a report as a list."""

from typing import NamedTuple

import numpy as np

from invjax.evaluation._intervals import wilson
from invjax.evaluation._report import Report


class Entry(NamedTuple):
    """One number of a report.

    Attributes:
        name: the quantity and its threat, radius or images, such as 'robust accuracy, linf, eps 0.1'.
        value: a fraction of the images, or a radius.
        interval: the 95 % Wilson interval of a fraction; None for a radius.
        attack: the recipe of the attack behind the number; empty without one.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    attack: str = ""


def table(found: Report) -> list[Entry]:
    """The numbers of a report: fractions with their Wilson intervals, and median smallest radii.

    Args:
        found: the result of `report`.

    Returns:
        The entries, in the order of the report: clean error, then each threat, then each set of changed images.
    """

    def fraction(name, hits, attack=""):
        return Entry(name, float(hits.mean()), wilson(int(hits.sum()), hits.size), attack)

    entries = [fraction("clean error", ~found.correct)]
    for name, s in found.sensitivity.items():
        median = float(np.median(s.smallest_eps))
        entries += [
            fraction(f"adversarial error, {name}, eps {s.eps:g}", s.success & found.correct, s.attack),
            fraction(f"robust accuracy, {name}, eps {s.eps:g}", ~s.success, s.attack),
            Entry(f"median smallest eps, {name}", median, None, s.attack),
        ]
        if name in found.certified:
            entries.append(fraction(f"certified accuracy, {name}, eps {s.eps:g}", found.certified[name]))
    for name, i in found.invariance.items():
        entries.append(fraction(f"invariance error, {name}", found.too_invariant(name)))
        if i.changed.any():
            entries.append(fraction(f"agreement where another class is seen, {name}", i.agrees[i.changed]))
        for threat, s in found.sensitivity.items():
            neither = found.failures(threat, name)["neither"]
            entries.append(fraction(f"right, and neither failure: {threat}, eps {s.eps:g}; {name}", neither, s.attack))
    return entries
