"""The curve of a smoothed classifier: right about a half space, compiled once, and continued after an interruption."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax import bounds, training
from invjax.evaluation import Options, _smoothed, smoothed_curve

KEY = jax.random.key(4)
W = np.array([[-1.0, 1.0], [2.0, -2.0]], np.float32)
IMAGES = np.random.default_rng(0).uniform(0, 1, (11, 2)).astype(np.float32)
SCORE = 2 * (IMAGES @ [1, -2] + 0.3)  # the second logit minus the first
LABELS = np.where(np.arange(11) < 9, SCORE > 0, SCORE < 0).astype(np.int32)  # the last two labels are wrong
SETTINGS = {"epsilons": [0.0, 0.1, 0.3], "sigma": 0.25, "trials": 300, "selection": 20}


def apply_fn(w, x):
    return x @ w + jnp.array([[-0.3, 0.3]])


run = partial(smoothed_curve, KEY, apply_fn, W, IMAGES, LABELS, **SETTINGS)


def test_radii_are_a_little_below_the_distance_to_the_boundary():
    found = run()
    distance = np.abs(SCORE) / 2 / np.sqrt(5)
    assert (found.broken_at <= np.where(np.arange(11) < 9, distance, 0)).all()
    far = (distance > 0.1) & (distance < 0.4) & (np.arange(11) < 9)
    assert far.sum() >= 4 and (found.broken_at[far] > 0.6 * distance[far]).all()
    np.testing.assert_array_equal(found.accuracy(), [(found.broken_at > eps).mean() for eps in (0, 0.1, 0.3)])


def test_every_batch_size_and_mesh_gives_the_radii_of_one_call():
    whole = bounds.smoothed(KEY, partial(apply_fn, W), IMAGES, sigma=0.25, trials=300, selection=20)
    expected = np.where(whole.label == LABELS, whole.radius, 0)
    two = training.data_mesh(jax.devices()[:2])
    for options in (Options(4), Options(100), Options(4, two)):
        np.testing.assert_array_equal(run(options=options).broken_at, expected)


def test_several_calls_on_several_batches_compile_the_model_once():
    traced = []

    def counted(w, x):
        traced.append(x.shape)
        return apply_fn(w, x)

    first = smoothed_curve(KEY, counted, W, IMAGES, LABELS, options=Options(4), **SETTINGS)
    once = len(traced)
    second = smoothed_curve(jax.random.key(5), counted, 2 * W, IMAGES, LABELS, options=Options(4), **SETTINGS)
    # the clean predictions of `correct` are compiled again
    assert len(traced) - once <= 2 and not np.array_equal(first.broken_at, second.broken_at)


def test_an_interrupted_curve_goes_on_with_its_next_batch(tmp_path, monkeypatch):
    asked, over_batches = [], _smoothed.over_batches

    def interrupted(function, arrays, *given):
        asked.append(len(arrays[0]))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return over_batches(function, arrays, *given)

    monkeypatch.setattr(_smoothed, "over_batches", interrupted)
    kept = Options(4, directory=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(options=kept)
    found = run(options=kept)
    assert asked == [4, 4, 3, 3] and [path.name for path in tmp_path.iterdir()] == ["smoothed.npz"]
    np.testing.assert_array_equal(found.broken_at, run().broken_at)
    asked.clear()
    np.testing.assert_array_equal(run(options=kept, epsilons=[0.2]).broken_at, found.broken_at)
    assert not asked  # other radii of the same curve need no new certificate
    with pytest.raises(ValueError, match=re.escape("its sigma is 0.25, this run has 0.5")):
        run(options=kept, sigma=0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epsilons": [-0.1]}, "epsilons must be a list of non-negative numbers"),
        ({"sigma": 0.0}, "sigma must be positive; got sigma=0.0"),
        ({"trials": 0}, "trials must be positive"),
        ({"selection": 0}, "selection must be positive"),
        ({"alpha": 1.0}, "alpha must be in (0, 1)"),
        ({"images": IMAGES.astype(jnp.bfloat16) * 255}, "numbers as large as images, which would swallow the noise"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_called(given, message):
    def never(w, x):
        raise AssertionError("called")

    arguments = {"key": KEY, "apply_fn": never, "params": W, "images": IMAGES, "labels": LABELS} | SETTINGS | given
    with pytest.raises(ValueError, match=re.escape(message)):
        smoothed_curve(**arguments)
