"""Squares whose mean determines the class at any noise, so their adversarial examples are bugs."""

import jax
import numpy as np
import pytest

from invjax import features
from tests.features.problem import KEY


def test_the_mean_classifies_squares_up_to_label_noise():
    images, labels = map(np.asarray, jax.jit(lambda: features.adversarial_squares(KEY, count=2000, side=5))())
    right = (images.mean((1, 2, 3)) > 0) == (labels == 1)
    assert abs(right.mean() - 0.9) < 0.03 and abs(labels.mean() - 0.5) < 0.05
    assert np.abs(images).min() >= 0.9 and np.abs(images).max() <= 1.1 and images.shape == (2000, 5, 5, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"flip": 0.5}, r"flip must be in \[0, 1/2\)"), ({"spread": 1}, r"spread must be in \[0, 1\)")],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        features.adversarial_squares(KEY, count=2, **change)
