"""Targets are classes, drawn uniformly or the next ones, and exclude the label where that is asked for."""

import jax
import numpy as np
import pytest

from invjax import features
from tests.features.problem import CLASSES, KEY


def test_the_next_class_is_a_derangement_that_keeps_the_classes():
    labels = np.arange(50) % CLASSES
    targets = np.asarray(features.next_targets(labels, num_classes=CLASSES))
    assert (targets != labels).all()
    assert sorted(set(zip(labels.tolist(), targets.tolist(), strict=True))) == [(0, 1), (1, 2), (2, 3), (3, 0)]


def test_random_targets_are_uniform_and_may_leave_out_the_label():
    labels = np.arange(6000, dtype=np.int32) % CLASSES

    @jax.jit
    def draw(labels):
        return [
            features.random_targets(KEY, labels, num_classes=CLASSES, exclude_true=exclude) for exclude in (False, True)
        ]

    free, others = map(np.asarray, draw(labels))
    assert abs((free == labels).mean() - 1 / CLASSES) < 0.03 and not (others == labels).any()
    for targets in (free, others):
        np.testing.assert_allclose(np.bincount(targets, minlength=CLASSES) / 6000, 1 / CLASSES, atol=0.03)
    np.testing.assert_array_equal(draw(labels[:9])[0], free[:9])  # an example's target does not depend on the others


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: features.next_targets(np.array([0, 4]), num_classes=4), r"labels must be in \[0, 4\)"),
        (lambda: features.random_targets(KEY, np.array([0]), num_classes=1), "num_classes must be at least 2"),
    ],
)
def test_labels_that_are_not_classes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
