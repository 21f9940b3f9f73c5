"""The sandwich claims no more than it is given: certificates reach down to smaller radii, attacks up to larger ones."""

import numpy as np
import pytest

from invjax import evaluation, figures

CERTIFIED = (np.array([0.0, 0.2, 0.4]), np.array([0.9, 0.6, 0.3]))
ATTACKED = {"PGD": (np.array([0.0, 0.2, 0.4]), np.array([0.9, 0.8, 0.5]))}
PEOPLE = {"people": (0.25, 0.1, 0.5), "labels": (1.0, 0.9, 1.0)}


def filled(axes, label):
    """Top of a filled region, in %, at each radius."""
    (region,) = [collection for collection in axes.collections if collection.get_label() == label]
    points = region.get_paths()[0].vertices
    return {round(float(x), 4): points[np.isclose(points[:, 0], x), 1].max() for x in np.unique(points[:, 0])}


def test_between_radii_the_certificate_is_that_of_the_next_and_the_attack_that_of_the_last():
    axes, _ = figures.sandwich(CERTIFIED, ATTACKED, PEOPLE, "Sandwich").axes
    proven, open_ = filled(axes, "certified"), filled(axes, "undecided")
    for at, low, high in ((0.0, 90, 90), (0.1, 60, 90), (0.2, 60, 80), (0.3, 30, 80), (0.4, 30, 50)):
        assert proven[at] == pytest.approx(low) and open_[at] == pytest.approx(high)
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["withstands PGD"].get_ydata(), [90, 80, 50])
    assert lines["withstands PGD"].get_drawstyle() == "steps-post"
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-pre"]
    np.testing.assert_allclose(steps.get_ydata(), [90, 60, 30])


def test_the_open_area_ends_at_the_best_attack_at_each_radius():
    both = {**ATTACKED, "ensemble": (np.array([0.0, 0.4]), np.array([0.9, 0.35]))}
    (axes,) = figures.sandwich(CERTIFIED, both, {}, "Sandwich").axes
    open_ = filled(axes, "undecided")
    assert open_[0.3] == pytest.approx(80) and open_[0.4] == pytest.approx(35)


def test_agreement_is_on_the_same_axis_with_its_interval_and_the_published_value():
    axes, aside = figures.sandwich(CERTIFIED, ATTACKED, PEOPLE, "Sandwich", {"people": 0.12}).axes
    assert aside.get_ylim() == axes.get_ylim()
    assert [label.get_text() for label in aside.get_xticklabels()] == ["people", "labels"]
    dots = [line.get_ydata()[0] for line in aside.lines if line.get_marker() == "o"]
    assert dots == [25, 100]
    spans = [list(line.get_ydata()) for line in aside.lines if line.get_marker() == "None"]
    assert spans == [[10, 50], [90, 100]]
    assert [line.get_ydata()[0] for line in aside.lines if line.get_marker() == "*"] == [12]
    (legend,) = axes.figure.legends
    names = ["certified", "undecided", "withstands PGD", "agreement and its interval", "published"]
    assert [text.get_text() for text in legend.get_texts()] == names


def test_published_certified_accuracies_are_stars_at_their_radii():
    (axes,) = figures.sandwich(CERTIFIED, ATTACKED, {}, "Sandwich", published_certified={0.2: 0.87}).axes
    (star,) = [line for line in axes.lines if line.get_marker() == "*"]
    assert (*star.get_xdata(), *star.get_ydata()) == (0.2, 87)
    (legend,) = axes.figure.legends
    assert legend.get_texts()[-1].get_text() == "published"


@pytest.mark.parametrize(
    ("certified", "attacked", "message"),
    [
        (CERTIFIED, {}, "attacked must hold one attack or more"),
        (CERTIFIED, {"PGD": (np.array([0.0, 0.2]), np.array([0.9, 0.5]))}, r"at radius 0\.2, a fraction 0\.6.*PGD"),
        # the certificate at 0.4 also covers 0.3
        (CERTIFIED, {"PGD": (np.array([0.3]), np.array([0.2]))}, r"0\.3 of the images.*only 0\.2 withstand PGD"),
        ((np.array([0.2, 0.1]), np.array([0.5, 0.6])), ATTACKED, "radii must ascend"),
        ((np.array([0.1, 0.2]), np.array([0.5])), ATTACKED, "with one accuracy each"),
    ],
)
def test_bad_curves_of_a_sandwich_are_refused(certified, attacked, message):
    with pytest.raises(ValueError, match=message):
        figures.sandwich(certified, attacked, {}, "Sandwich")


def test_a_sandwich_accepts_the_curves_of_the_library(tmp_path):
    """An image that is certified at 0.1 and broken at 0.3 is open between these radii."""
    grid = np.array([0.0, 0.1, 0.3])
    certified = evaluation.Curve(grid, np.array([0.3, 0.0, np.inf, 0.1]))
    attacked = evaluation.Curve(grid, np.array([0.3, 0.0, np.inf, 0.3]))
    drawn = figures.sandwich(
        (grid, certified.accuracy()), {"PGD": (grid, attacked.accuracy())}, {"people": (0.5, 0.2, 0.8)}, "Curves"
    )
    proven, open_ = filled(drawn.axes[0], "certified"), filled(drawn.axes[0], "undecided")
    assert proven[0.1] == 50 and open_[0.1] == 75 and proven[0.3] == open_[0.3] == 25
    assert figures.save(drawn, tmp_path / "sandwich.png").stat().st_size > 10_000
