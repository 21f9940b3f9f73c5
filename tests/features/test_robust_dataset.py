"""Robust data sets: each image is rebuilt from a start that is drawn without regard to it."""

import jax
import numpy as np
import pytest

from invjax import features
from invjax.training import data_mesh
from tests.features.problem import COUNT, KEY, NET, data, inverted, params


def test_an_example_is_the_same_in_any_batch_and_on_any_devices():
    whole, other = inverted(start="noise"), inverted(start="noise", batch_size=16, mesh=data_mesh())
    np.testing.assert_allclose(other.images, whole.images, atol=1e-5)
    assert (whole.details["start"] == -1).all()


def test_starts_are_drawn_independently_of_the_image():
    made = inverted(steps=1, step_size=jax.device_put(0.0))
    start = made.details["start"]
    np.testing.assert_array_equal(made.images, data()[0][start])
    np.testing.assert_array_equal(made.labels, data()[1])
    assert 15 < len(set(start.tolist())) < COUNT  # with replacement
    assert (inverted(steps=1, step_size=0.0, key=jax.random.key(4)).details["start"] != start).any()
    assert made.recipe["step_size"] == 0.0
    assert made.recipe["inversion"] == "robustify(start=images, steps=1, step_size=0, keep=last)"


def test_bad_input_is_named_before_anything_is_compiled():
    with pytest.raises(ValueError, match="start must be one of"):
        inverted(start="zero")
    images, labels = (array[:0] for array in data())
    with pytest.raises(ValueError, match="images must hold at least one"):
        features.robust_dataset(KEY, lambda p, x: pytest.fail("called"), None, images, labels)
    with pytest.raises(UserWarning, match="are these the logits"):  # warnings are errors
        features.robust_dataset(KEY, NET.apply, params(), *data(), steps=1, batch_size=8)
