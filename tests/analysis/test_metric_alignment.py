"""Distances and definition 3: against loops over all pairs, and lemma 4 on distances that are aligned."""

import itertools

import jax
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from invjax.analysis import NORMS, beyond_nearest_other, distances, one_point_accuracy, order_violations
from invjax.attacks import THREATS

LABELS, REFERENCES = np.array([0, 1, 2, 0]), np.array([0, 0, 1, 1, 1, 2, 2, 0, 1])


def aligned(seed):
    """A random distance under which every image of the same class is nearer than any of another."""
    noise = np.random.default_rng(seed).random((len(LABELS), len(REFERENCES)))
    return noise + (LABELS[:, None] != REFERENCES[None])


@pytest.mark.parametrize(("norm", "metric"), [("l1", "cityblock"), ("l2", "euclidean"), ("linf", "chebyshev")])
def test_distances_are_those_of_scipy(norm, metric):
    generator = np.random.default_rng(0)
    x, references = (generator.random((n, 3, 2, 2), np.float32) for n in (4, 7))
    expected = cdist(x.reshape(4, -1), references.reshape(7, -1), metric)
    np.testing.assert_allclose(distances(x, references, norm=norm), expected, rtol=1e-5)


def test_l0_counts_positions_in_whatever_channels_they_differ():
    x = np.zeros((1, 2, 2, 3), np.float32)
    references = np.zeros((3, 2, 2, 3), np.float32)
    references[1, 0, 0] = 0.5
    references[2, 0, 0, 1] = references[2, 1, 0, 2] = -1e-6
    assert distances(x, references, norm="l0").tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("levels", [3, 1000])  # with few levels there are ties
def test_shares_are_those_of_all_pairs(levels):
    found = np.random.default_rng(levels).integers(0, levels, (len(LABELS), len(REFERENCES))).astype(float)
    for row, label, wrong, tied, beyond in zip(
        found,
        LABELS,
        *order_violations(found, LABELS, REFERENCES),
        beyond_nearest_other(found, LABELS, REFERENCES),
        strict=True,
    ):
        same = np.equal(REFERENCES, label)
        own, other = row[same], row[~same]
        assert wrong == pytest.approx(np.mean([a > b for a, b in itertools.product(own, other)]))
        assert tied == pytest.approx(np.mean([a == b for a, b in itertools.product(own, other)]), abs=1e-12)
        assert beyond == pytest.approx(np.mean([any(a >= b for b in other) for a in own]))


@pytest.mark.parametrize("seed", range(3))
def test_lemma_4_an_aligned_distance_solves_the_task_from_one_point_a_class(seed):
    found = aligned(seed)
    assert not np.any(order_violations(found, LABELS, REFERENCES))
    assert (beyond_nearest_other(found, LABELS, REFERENCES) == 0).all()
    assert (one_point_accuracy(jax.random.key(seed), found, LABELS, REFERENCES, draws=20) == 1).all()


def test_lemma_4_a_perfect_classifier_gives_an_aligned_distance():
    found = (LABELS[:, None] != REFERENCES[None]).astype(float)
    assert not np.any(order_violations(found, LABELS, REFERENCES))


def test_one_point_a_class_is_drawn_anew_from_its_class():
    # one of the three references of its class misclassifies the first example, which is wrong if it is drawn
    found = aligned(0)
    found[0, 7] = 5
    accuracies = one_point_accuracy(jax.random.key(1), found, LABELS, REFERENCES, draws=300)
    assert set(accuracies.tolist()) == {0.75, 1.0}
    assert (accuracies == 0.75).mean() == pytest.approx(1 / 3, abs=0.1)
    assert order_violations(found, LABELS, REFERENCES).wrong.tolist() == pytest.approx([1 / 3, 0, 0, 0])


def test_the_norms_are_those_of_the_threats():
    change = np.array([[[0.5, 0.0]], [[0.0, 0.0]], [[-1.0, 0.25]]], np.float32)  # 3 pixels of 2 channels
    expected = {"l0": 2, "l1": 1.75, "l2": np.sqrt(1.3125), "linf": 1}
    assert list(NORMS) == sorted(THREATS)
    assert {name: float(norm(change)) for name, norm in NORMS.items()} == pytest.approx(expected)


def test_arrays_that_do_not_fit_together_are_refused():
    images = np.zeros((2, 3, 3, 1), np.float32)
    with pytest.raises(ValueError, match="norm must be one of 'l0', 'l1', 'l2', 'linf'; got 'l3'"):
        distances(images, images, norm="l3")
    with pytest.raises(ValueError, match=r"have the shape of x, \(3, 3, 1\); got \(2, 3, 1\)"):
        distances(images, images[:, :2], norm="l2")
    with pytest.raises(ValueError, match=r"distances must be \[4, 9\], a row for each label .*; got \(9, 4\)"):
        order_violations(aligned(0).T, LABELS, REFERENCES)
    with pytest.raises(ValueError, match=r"of each label's class and of other classes; got the classes \[0, 1, 2\]"):
        beyond_nearest_other(aligned(0), np.array([0, 1, 2, 3]), REFERENCES)
    with pytest.raises(ValueError, match="draws must be positive"):
        one_point_accuracy(jax.random.key(0), aligned(0), LABELS, REFERENCES, draws=0)
