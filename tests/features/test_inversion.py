"""Inversion finds images with a given representation, from any start, step by step as it is written."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax import features
from tests.features.problem import CLASSES, KEY, data, logits_fn, representation, robustify


def test_inversion_nears_the_representation_and_the_best_image_so_far_never_gets_worse():
    x, start = data()[0][:8], data()[0][8:16]
    run = jax.jit(partial(features.robustify, KEY, representation, steps=60, step_size=0.05), static_argnames="keep")
    last, best = (jax.tree.map(np.asarray, found) for found in (run(x, start), run(x, start, keep="best")))
    assert np.median(last.distance / last.trace[:, 0]) < 0.1  # some starts have inactive ReLUs
    assert last.trace.shape == (8, 61)
    np.testing.assert_array_equal(last.trace, best.trace)
    np.testing.assert_array_equal(last.trace[:, -1], last.distance)
    np.testing.assert_array_equal(np.minimum.accumulate(best.trace, 1)[:, -1], best.distance)
    assert (best.distance < last.distance).any()
    read = jax.jit(representation)
    wanted = np.asarray(read(x))
    for found in (last, best):
        assert found.x.min() >= 0 and found.x.max() <= 1
        apart = np.linalg.norm(np.asarray(read(found.x)) - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        np.testing.assert_allclose(found.distance, apart, rtol=1e-4, atol=1e-5)


def test_one_step_goes_its_length_down_the_gradient_and_stays_in_the_box():
    weights = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    x, start = np.full((1, 6), 0.5, np.float32), np.full((1, 6), 0.4, np.float32)
    run = jax.jit(partial(features.robustify, KEY, lambda z: z @ weights), static_argnames="steps")
    found = run(x, start, steps=1, step_size=0.05)
    gradient = (start - x) @ weights @ weights.T
    np.testing.assert_allclose(found.x, start - 0.05 * gradient / np.linalg.norm(gradient), rtol=1e-5)
    clipped = run(x, start, steps=1, step_size=50.0)
    assert set(np.unique(clipped.x)) <= {0.0, 1.0}
    there = run(x, x, steps=3, step_size=0.05)
    np.testing.assert_array_equal(there.x, x)
    np.testing.assert_array_equal(there.distance, [0])


def test_the_start_noise_of_an_image_depends_on_its_id_alone():
    x, ids = data()[0][:4], np.array([5, 9, 0, 2])
    run = jax.jit(partial(features.robustify, KEY, lambda x: x.reshape(len(x), -1)[:, :3], steps=1, step_size=0.0))
    found = np.asarray(run(x, ids=ids).x)
    np.testing.assert_array_equal(run(x[2:], ids=ids[2:]).x, found[2:])
    assert abs(found.mean() - 0.5) < 0.05 and 0.02 < found.std() < 0.1
    assert (np.asarray(run(x, ids=ids, noise=10.0).x) == 0).any()


def test_logits_given_for_features_are_warned_of():
    with pytest.warns(UserWarning, match="are these the logits"):
        jax.eval_shape(lambda x: robustify(x, features_fn=logits_fn, num_classes=CLASSES), data()[0][:4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(lambda x: robustify(x, num_classes=CLASSES), data()[0][:4])  # features give no number


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: robustify(x0=data()[0][:3]), r"x0 must have the shape of x, \(4, 4, 4, 1\); got \(3, 4, 4, 1\)"),
        (lambda: robustify(x=data()[0][:0]), "x must hold at least one example"),
        (lambda: robustify(x=2 + data()[0][:4]), "x must lie in"),
        (lambda: robustify(x0=np.full((4, 4, 4, 1), np.nan, np.float32)), "x0 holds 64 NaN"),
        (lambda: robustify(steps=0), "steps must be positive"),
        (lambda: robustify(step_size=-1.0), "step_size must not be negative"),
        (lambda: robustify(keep="first"), "keep must be one of"),
        (lambda: robustify(features_fn=lambda x: jnp.sum(x)), "features_fn must map images"),
    ],
)
def test_bad_input_is_named_with_its_fix(call, message):
    with pytest.raises(ValueError, match=message):
        call()
