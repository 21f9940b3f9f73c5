"""The chart of fractions shows the fractions it is given."""

import numpy as np
import pytest

from invjax import figures


def test_stacked_fractions_fill_each_bar_with_its_parts_in_order():
    first = {"a": np.array([1, 0, 0, 0], bool), "b": np.array([0, 1, 1, 1], bool)}
    second = {"a": np.array([1, 1], bool), "b": np.array([0, 0], bool)}
    chart = figures.stacked_fractions({"one": first, "two": second}, "Fractions")
    (axes,) = chart.axes
    bars = [(bar.get_x(), bar.get_width(), round(bar.get_y() + bar.get_height() / 2)) for bar in axes.patches]
    assert bars == [(0, 25, 0), (25, 75, 0), (0, 100, 1), (100, 0, 1)]
    assert [text.get_text() for text in axes.texts] == ["25", "75", "100"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]


@pytest.mark.parametrize(
    "parts",
    [
        {"a": np.array([True, True]), "b": np.array([True, False])},
        {"a": np.array([False, True]), "b": np.array([False, False])},
        {str(i): np.array([i == 0]) for i in range(6)},
    ],
    ids=["twice", "nowhere", "six"],
)
def test_parts_that_do_not_add_up_are_refused(parts):
    with pytest.raises(ValueError, match=r"in exactly one part|colors for 5 parts"):
        figures.stacked_fractions({"one": parts}, "Fractions")
