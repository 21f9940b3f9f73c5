"""Attacks through rotations and shifts: the worst transform, the ball before it, the same example in any batch."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.attacks import jit_attack, linf, pgd, transformed
from invjax.losses import cross_entropy, margin

SHAPE = (7, 7, 1)


def apply_fn(weights, x):
    return jnp.tanh(x.reshape(len(x), -1)) @ weights


@cache
def compiled(attack):
    return jit_attack(attack, apply_fn)


@pytest.fixture(scope="module")
def problem():
    generator = np.random.default_rng(0)
    weights = jnp.asarray(generator.normal(size=(49, 3)), jnp.float32)
    x = generator.random((8, *SHAPE), np.float32)
    return weights, x, np.asarray(apply_fn(weights, x).argmax(1), np.int32)


def run(problem, attack, eps, rows=slice(None), seed=0):
    weights, x, labels = problem
    ids = jnp.arange(len(x), dtype=jnp.uint32)[rows]
    return compiled(attack)(jax.random.key(seed), weights, x[rows], labels[rows], eps=eps, ids=ids)


@pytest.mark.slow
def test_more_tries_find_worse_transforms(problem):
    weights, _, labels = problem
    losses = []
    for tries in (1, 3, 30):
        found = run(problem, transformed(pgd(linf(), steps=1), tries=tries, rotation=90, shift=2), 0.0)
        losses.append(np.asarray(margin(apply_fn(weights, found.x), labels)))
        assert (found.distance == 0).all()
        np.testing.assert_array_equal(found.success, losses[-1] > 0)
    # the first tries are equal, so each loss can only grow, up to the rounding of another program
    assert (losses[1] >= losses[0] - 1e-5).all() and (losses[2] >= losses[1] - 1e-5).all()
    assert losses[2].mean() > losses[0].mean() + 0.1


@pytest.mark.slow
def test_a_targeted_attack_takes_the_transform_nearest_to_its_target(problem):
    weights, x, _ = problem
    targets = np.asarray(apply_fn(weights, x)).argsort(1)[:, 1].astype(np.int32)
    losses = []
    for tries in (1, 8):
        attack = transformed(pgd(linf(), steps=1, targeted=True), tries=tries, rotation=90, shift=2)
        found = run((weights, x, targets), attack, 0.0)
        logits = np.asarray(apply_fn(weights, found.x))
        losses.append(np.asarray(margin(logits, targets)))
        np.testing.assert_array_equal(found.success, logits.argmax(1) == targets)
    # the first of eight transforms is the single one, so that each loss can only fall, but for rounding
    assert (losses[1] <= losses[0] + 1e-5).all() and losses[1].mean() < losses[0].mean() - 0.1
    assert found.success.any() and not found.success.all()


def test_ranges_of_zero_give_the_attack_without_transforms(problem):
    attack = pgd(linf(), steps=4, loss=margin, random_start=False)
    still = run(problem, transformed(attack, rotation=0, shift=0, tries=2), 0.1)
    alone = run(problem, attack, 0.1)
    np.testing.assert_allclose(still.x, alone.x, atol=1e-6)
    np.testing.assert_array_equal(still.success, alone.success)


@pytest.mark.parametrize("pixels", ["after", "before"])
def test_the_ball_is_that_of_the_changed_pixels(problem, pixels):
    # a shift moves most values by more than eps; d itself lies in the ball
    weights, x, labels = problem
    attack = transformed(pgd(linf(), steps=4, loss=margin), tries=3, pixels=pixels)
    found = run(problem, attack, 0.05)
    assert (found.distance <= 0.05 + 1e-6).all() and (found.distance > 0.04).all()
    assert np.abs(found.x - x).max() > 0.3
    moved = run(problem, attack, 0.0).x  # the transform alone: the same one, because its key is the same
    if pixels == "after":
        np.testing.assert_allclose(np.abs(found.x - moved).max((1, 2, 3)), found.distance, atol=1e-6)
    else:
        assert np.abs(found.x - moved).max() <= 0.05 + 1e-6  # interpolation averages what was changed
    np.testing.assert_array_equal(found.success, apply_fn(weights, found.x).argmax(1) != labels)
    alone = run(problem, attack, 0.0)
    assert (margin(apply_fn(weights, found.x), labels) > margin(apply_fn(weights, alone.x), labels)).all()


def test_pixels_changed_after_the_transform_are_the_stronger_adversary(problem):
    weights, _, labels = problem
    losses = {}
    for pixels in ("after", "before"):
        attack = transformed(pgd(linf(), steps=10, loss=margin, random_start=False), tries=3, pixels=pixels)
        losses[pixels] = np.asarray(margin(apply_fn(weights, run(problem, attack, 0.05).x), labels))
    assert (losses["after"] > losses["before"]).all()


@pytest.mark.slow
def test_an_image_meets_the_same_adversary_in_any_batch(problem):
    attack = transformed(pgd(linf(), steps=2), tries=2)
    whole, half = run(problem, attack, 0.1), run(problem, attack, 0.1, rows=slice(4, 8))
    np.testing.assert_allclose(whole.x[4:], half.x, atol=1e-6)
    assert np.abs(run(problem, attack, 0.1, seed=1).x - whole.x).max() > 0.01


def test_bad_ranges_are_refused(problem):
    for changes, message in (
        ({"tries": 0}, "tries must be positive"),
        ({"rotation": -1}, "rotation must not be negative"),
        ({"shift": -0.5}, "shift must not be negative"),
        ({"pixels": "both"}, "pixels must be one of 'after', 'before'; got 'both'"),
    ):
        with pytest.raises(ValueError, match=message):
            transformed(pgd(linf()), **changes)
    weights, _, labels = problem
    with pytest.raises(ValueError, match="floating point"):
        transformed(pgd(linf()))(
            jax.random.key(0), partial(apply_fn, weights), np.zeros((8, *SHAPE), np.uint8), labels, eps=0.1
        )


def test_the_recipe_names_another_loss():
    attack = pgd(steps=1)
    assert transformed(attack).recipe != transformed(attack, loss=cross_entropy).recipe
