"""Attacks towards given classes, on linear models whose nearest points and largest gains are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from invjax.attacks import apgd, fab, jit_attack, l1, l2, linf, smallest, square, worst_of
from invjax.losses import dlr

KEY = jax.random.key(0)
EPS = 0.05


def linear(params, x):
    return x.reshape(len(x), -1) @ params[0] + params[1][None]


def two_classes(seed=0):
    """Images in the middle of the box, and a boundary at a known distance from each."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=16).astype(np.float32)
    x = (0.4 + 0.2 * rng.random((3, 4, 4, 1))).astype(np.float32)
    offset = -(w @ x.reshape(3, -1).T).max() - 0.3 * EPS * np.abs(w).sum()
    params = jnp.stack([jnp.zeros(16), jnp.asarray(w)], 1), jnp.array([0.0, offset], jnp.float32)
    return w, x, params


@pytest.mark.parametrize("make", [apgd, fab, square], ids=["apgd", "fab", "square"])
def test_of_two_classes_the_target_is_what_the_label_is_not(make):
    """Both attacks maximise the same number, so that they are equal in every bit."""
    settings = {"queries": 6} if make is square else {"steps": 4}
    single = {"targets": 1} if make is fab else {}
    _, x, params = two_classes()
    away = make(linf(), **settings, **single)
    toward = make(linf(), **settings, targeted=True)
    assert toward.targeted and not away.targeted
    assert "targeted=True" in toward.recipe and "targeted" not in away.recipe
    zeros = np.zeros(3, np.int32)
    left = jit_attack(away, linear)(KEY, params, x, zeros, eps=EPS)
    right = jit_attack(toward, linear)(KEY, params, x, zeros + 1, eps=EPS)
    if make is fab:  # each target has a key of its own, which FAB does not use
        np.testing.assert_allclose(left.x, right.x, atol=1e-6)
    else:
        np.testing.assert_array_equal(left.x, right.x)
    np.testing.assert_array_equal(left.success, right.success)
    assert left.success.any()


@pytest.mark.parametrize(("make", "order"), [(linf, 1), (l2, 2)], ids=["linf", "l2"])
def test_targeted_fab_finds_the_distance_to_the_half_space_of_the_target(make, order):
    w, x, params = two_classes()
    gaps = -np.asarray(linear(params, x))[:, 1].astype(np.float64)
    found = jit_attack(fab(make(), steps=15, targeted=True), linear)(KEY, params, x, np.ones(3, np.int32), eps=1.0)
    assert found.success.all()
    np.testing.assert_allclose(found.distance, gaps / np.linalg.norm(w, order), rtol=2e-2)


def test_targeted_auto_pgd_reaches_the_corner_of_the_ball():
    w, x, params = two_classes()
    for loss in ({}, {"loss": dlr}):
        attack = apgd(linf(), steps=6, targeted=True, **loss)
        params3 = jnp.concatenate([params[0], jnp.zeros((16, 1))], 1), jnp.append(params[1], -50.0)
        found = jit_attack(attack, linear)(KEY, params3, x, np.ones(3, np.int32), eps=EPS)
        gained = (np.asarray(found.x - x).reshape(3, -1) * w[None]).sum(1)
        np.testing.assert_allclose(gained, EPS * np.abs(w).sum(), rtol=1e-4)


def least_change(weights, x, target):
    """The least linf change after which the target's logit is the largest, by linear programming."""
    others = np.delete(weights, target, 1) - weights[:, [target]]
    count, size = others.shape[1], len(x)
    one = np.eye(size)
    program = scipy.optimize.linprog(
        np.append(np.zeros(size), 1.0),
        A_ub=np.block([[others.T, np.zeros((count, 1))], [one, -np.ones((size, 1))], [-one, -np.ones((size, 1))]]),
        b_ub=np.concatenate([-others.T @ x, np.zeros(2 * size)]),
        bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
    )
    return program.fun


@pytest.mark.slow
def test_targeted_attacks_reach_the_target_and_not_merely_another_class():
    """The region of a target is an intersection of half-spaces, whose distance is a linear program."""
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(16, 4)).astype(np.float32)
    params = jnp.asarray(weights), jnp.zeros(4)
    x = rng.random((4, 4, 4, 1)).astype(np.float32)
    targets = ((np.asarray(linear(params, x)).argmax(1) + 2) % 4).astype(np.int32)
    flat = x.reshape(4, -1).astype(float)
    best = [least_change(weights.astype(float), image, target) for image, target in zip(flat, targets, strict=True)]
    found = {
        name: jit_attack(attack, linear)(KEY, params, x, targets, eps=0.5)
        for name, attack in {
            "fab": fab(steps=40, targeted=True),
            "smallest": smallest(apgd(steps=8, targeted=True), steps=8),
            "worst_of": worst_of([apgd(steps=5, targeted=True), square(queries=5, targeted=True)]),
        }.items()
    }
    for result in found.values():
        np.testing.assert_array_equal(result.success, np.asarray(linear(params, result.x)).argmax(1) == targets)
        assert result.success.all()
    for name in ("fab", "smallest"):
        assert (found[name].distance >= np.array(best) * (1 - 1e-4)).all()
        assert (found[name].distance <= np.array(best) * 1.4).all(), found[name].distance / np.array(best)


@pytest.mark.slow
def test_targeted_l1_search_reaches_the_target():
    _, x, params = two_classes()
    found = jit_attack(apgd(l1(), steps=6, targeted=True), linear)(KEY, params, x, np.ones(3, np.int32), eps=3.0)
    assert found.success.all()
