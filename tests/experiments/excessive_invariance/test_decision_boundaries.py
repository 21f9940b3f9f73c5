"""Decisions on the plane through images and metamers."""

import numpy as np
import pytest

from experiments.excessive_invariance import decision_boundaries
from invjax.training import data_mesh


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_the_decision_boundaries_leaves_its_shares_and_figures(smoke):
    measured = smoke.measured
    assert all(0 <= value <= 100 for value in measured.values()) and len(measured) == 12
    # a metamer has the logits of one image and the nuisance of the other by construction
    assert measured["classifier of the logits: metamers x* decided as x is"] == 100
    assert measured["classifier of the nuisance: metamers x* decided as y is, the source of their nuisance"] == 100
    assert smoke.pictures == {"slices-images", "slices-metamers"}


def larger(x):
    """A classifier of images of two pixels: which one is larger."""
    return x.reshape(len(x), 2)


X, Y = np.array([[1.0, 0.2]], np.float32), np.array([[0.2, 1.0]], np.float32)


@pytest.mark.parametrize(("metamer", "like_x", "on_line"), [((3.0, 0.5), 1, 1), ((0.2, 1.0), 0, 11 / 21)])
def test_decisions_on_lines_are_compared_with_those_at_their_ends(metamer, like_x, on_line):
    ends = {"images": Y, "metamers": np.array([metamer], np.float32)}
    found = decision_boundaries.on_lines(larger, X, ends, data_mesh())
    expected = {"metamers": like_x, "sources": 1 - like_x, "lines": on_line, "plain lines": 11 / 21}
    assert found == pytest.approx(expected, abs=1 / 21)  # a tie in the middle of a line


@pytest.mark.parametrize(("metamer", "expected"), [((4.0, 0.5), 1), ((0.5, 4.0), 0), ((3.0, 3.0), 0.5)])
def test_the_disc_round_a_metamer_counts_the_decision_of_the_image(metamer, expected):
    found = decision_boundaries.on_discs(larger, X, np.array([metamer], np.float32), data_mesh())
    assert found == pytest.approx(expected, abs=0.05)
