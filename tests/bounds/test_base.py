"""Regions and their certificates."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.bounds import certified, l2_ball, linf_box

X = np.array([[0.0, 0.25], [1.0, 0.5]], np.float32)


def test_a_box_is_clipped_to_the_range_of_pixels():
    box = linf_box(X, 0.5)
    np.testing.assert_array_equal(box.lower, [[0, 0], [0.5, 0]])
    np.testing.assert_array_equal(box.upper, [[0.5, 0.75], [1, 1]])
    free = linf_box(X, 0.5, box=(-np.inf, np.inf))
    np.testing.assert_array_equal(free.lower, X - 0.5)
    np.testing.assert_array_equal(free.upper, X + 0.5)


def test_a_ball_has_a_centre_a_radius_an_image_and_the_box_around_it():
    ball = l2_ball(X, 0.5)
    np.testing.assert_array_equal(ball.center, X)
    np.testing.assert_array_equal(ball.radius, [0.5, 0.5])
    np.testing.assert_array_equal(ball.box.upper, linf_box(X, 0.5).upper)


def test_the_radius_may_be_traced():
    box = jax.jit(lambda eps: linf_box(jnp.asarray(X), eps))(0.5)
    np.testing.assert_array_equal(box.lower, linf_box(X, 0.5).lower)


def test_every_margin_must_exceed_the_slack():
    margins = np.array([[1.0, 0.2], [1.0, 5e-5], [1.0, -0.1], [1.0, np.nan], [np.inf, 1.0]], np.float32)
    assert certified(margins).tolist() == [True, False, False, False, True]
    assert certified(margins, slack=0.0).tolist() == [True, True, False, False, True]
    assert certified(margins, slack=0.5).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("make", [linf_box, l2_ball])
@pytest.mark.parametrize(
    ("x", "eps", "message"),
    [
        (X, -0.1, "eps must not be negative; got eps=-0.1"),
        (X, np.nan, "eps must not be negative; got eps=nan"),
        (X, np.ones(3), "eps must be one number, or one for each of the 2 images; got an array of shape (3,)"),
        (X.astype(np.uint8), 0.1, "x must be floating point; got dtype uint8"),
        (X * np.nan, 0.1, "x holds 4 NaN or infinite values of 4"),
        (255 * X, 0.1, "x must lie in (0.0, 1.0)"),
    ],
)
def test_bad_input_is_refused(make, x, eps, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(x, eps)


def test_a_negative_slack_is_refused():
    with pytest.raises(ValueError, match="slack must not be negative"):
        certified(np.ones((1, 2), np.float32), slack=-1.0)
