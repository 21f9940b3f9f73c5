"""The smallest radius against linear models' exact distances, and the first of several crossings of a line."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.attacks import fgsm, l1, l2, line_search, linf, pgd, smallest
from invjax.attacks._smallest import distances, per_example

KEY = jax.random.key(0)
FREE = (-np.inf, np.inf)
SIZE, COUNT, EPS = 6, 16, 1.5

WEIGHTS = np.random.default_rng(0).normal(size=SIZE)
X = np.random.default_rng(1).random((COUNT, SIZE)).astype(np.float32)
MARGINS = X @ WEIGHTS - 0.2  # positive: class 1
LABELS = (MARGINS > 0).astype(np.int32)
LABELS[:3] = 1 - LABELS[:3]  # misclassified without an attack
WRONG = np.arange(COUNT) < 3


def logits_fn(x):
    z = x @ jnp.asarray(WEIGHTS, x.dtype) - 0.2
    return jnp.stack([-z, z], -1)


# Each attack takes one step, which has the best direction and the given length on a linear model.
CASES = {
    "linf": (linf(FREE), np.abs(WEIGHTS).sum()),
    "l2": (l2(FREE), np.linalg.norm(WEIGHTS)),
    "l1": (l1(FREE, fraction=1 / SIZE), np.abs(WEIGHTS).max()),
}


def search(threat, eps=EPS, steps=10, **given):
    attack = smallest(fgsm(threat), steps=steps)
    return jax.jit(lambda eps: attack(KEY, logits_fn, X, LABELS, eps=eps, **given))(eps)


@pytest.mark.parametrize(("norm", "steps"), [("linf", 12), ("l2", 4), ("l1", 8)])
def test_the_smallest_radius_of_a_linear_model_has_its_closed_form(norm, steps):
    threat, length = CASES[norm]
    true = np.abs(MARGINS) / length
    found = search(threat, steps=steps)
    within = ~WRONG & (true < EPS)
    assert within.any()
    distance = np.asarray(found.distance)
    assert (distance[within] >= true[within] * (1 - 1e-4)).all()
    assert (distance[within] <= true[within] + EPS * 2.0**-steps + 1e-5).all()
    np.testing.assert_array_equal(found.success, WRONG | (true <= EPS))
    np.testing.assert_allclose(jax.vmap(threat.distance)(found.x, X)[within], distance[within], rtol=1e-5)
    assert (np.asarray(logits_fn(found.x)).argmax(1)[within] != LABELS[within]).all()


def test_the_trace_is_the_upper_end_of_the_bracket_and_never_rises():
    found = search(l2(FREE), steps=8)
    assert found.trace.shape == (COUNT, 8)
    assert (np.diff(found.trace) <= 0).all() and (np.diff(found.trace) < 0).any()
    np.testing.assert_array_equal(found.trace[~WRONG, -1], -found.loss[~WRONG])


def test_images_that_are_wrong_already_have_distance_zero():
    found = search(l2(FREE))
    assert found.success[WRONG].all()
    np.testing.assert_array_equal(found.distance[WRONG], np.zeros(3))
    np.testing.assert_array_equal(found.x[WRONG], X[WRONG])


def test_images_farther_from_the_boundary_than_eps_are_failures():
    true = np.abs(MARGINS) / np.linalg.norm(WEIGHTS)
    eps = float(np.sort(true[~WRONG])[5]) * 1.001
    found = search(l2(FREE), eps=eps)
    failed = ~WRONG & (true > eps)
    assert failed.sum() == 7
    np.testing.assert_array_equal(found.success, ~failed)
    np.testing.assert_array_equal(found.x[failed], X[failed])
    assert np.isinf(distances(found)[failed]).all()
    np.testing.assert_array_equal(distances(found)[~failed], found.distance[~failed])


def test_a_step_size_shrinks_with_its_radius():
    """An attack that wins as long as its step is a third of its radius wins down to the last bisection."""

    def a_third(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        won = jnp.abs(step_size / eps - 1 / 3) < 1e-5
        far = fgsm(linf(FREE))(key, logits_fn, x, labels, eps=100.0)  # misclassified, so that `smallest` agrees
        return far._replace(x=jnp.where(won, far.x, x), success=won[None], distance=eps[None])

    run = jax.jit(
        lambda eps: smallest(replace(fgsm(), run=a_third), steps=6)(
            KEY, logits_fn, X, LABELS, eps=eps, step_size=eps / 3
        )
    )
    np.testing.assert_allclose(run(EPS).distance[~WRONG], EPS * 2.0**-6)


def test_a_radius_of_zero_is_the_identity():
    for given in ({}, {"step_size": 0.1}):
        found = search(l2(FREE), eps=0.0, **given)
        np.testing.assert_array_equal(found.x, X)
        np.testing.assert_array_equal(found.success, WRONG)


def test_each_example_has_its_own_radius_and_its_own_key():
    attack, eps = pgd(l2(FREE), steps=3), jnp.linspace(0.1, 2, COUNT)
    found = jax.jit(lambda: per_example(attack)(KEY, logits_fn, X, LABELS, eps=eps))()
    alone = jax.jit(
        lambda i: attack(KEY, logits_fn, jnp.asarray(X)[i][None], jnp.asarray(LABELS)[i][None], eps=eps[i], ids=i[None])
    )
    for i in (3, 10):
        single = alone(jnp.asarray(i))
        np.testing.assert_allclose(found.x[i], single.x[0], atol=1e-6)
        np.testing.assert_allclose(found.trace[i], single.trace[0], atol=1e-5)
    assert (found.distance <= eps * (1 + 1e-5)).all()


# along a line


def wiggly(x):
    """Wrong (class 1) where sin(10 z - 2) > 0: between 0.2 and 0.514, between 0.828 and 1.142, and so on."""
    z = jnp.sin(10 * x[:, 0] - 2)
    return jnp.stack([-z, z], -1)


def along(start, direction=1.0, label=0, **given):
    call = partial(line_search, wiggly, **given)
    x, direction = (jnp.full((1, 2), value, jnp.float32) for value in (start, direction))
    return float(call(x, jnp.array([label]), direction)[0])


CROSSINGS = (2 + np.pi * np.arange(3)) / 10


@pytest.mark.parametrize(
    ("start", "direction", "label", "expected"),
    [
        (0.0, 1.0, 0, CROSSINGS[0]),
        (0.1, 1.0, 0, CROSSINGS[0] - 0.1),
        (0.0, 0.5, 0, CROSSINGS[0] / 0.5),
        (0.7, 1.0, 0, CROSSINGS[2] - 0.7),
        (0.7, -1.0, 0, 0.7 - CROSSINGS[1]),
        (0.3, 1.0, 1, CROSSINGS[1] - 0.3),
        (0.3, 1.0, 0, 0.0),  # misclassified without an attack
        (0.1, 0.0, 0, np.inf),  # the direction is zero
        (0.0, 0.19, 0, np.inf),  # the first crossing is beyond eps
    ],
)
def test_a_line_search_finds_the_first_crossing(start, direction, label, expected):
    found = along(start, direction, label, eps=1.0)
    assert found == pytest.approx(expected, abs=1e-6)


def test_bisection_goes_on_to_the_stated_precision():
    for steps in (1, 5):
        found = along(0.0, eps=1.0, points=10, steps=steps)
        # the crossing is a point of the line; bisection approaches it from the interval before
        assert CROSSINGS[0] - 1e-6 <= found <= CROSSINGS[0] + 1 / (10 * 2**steps) + 1e-6


def test_a_coarse_line_search_may_miss_a_crossing_and_a_fine_one_finds_it():
    """From a start at 0.15, points at a distance of 0.8 miss the first crossing."""
    assert along(0.15, eps=1.6, points=2) == pytest.approx(CROSSINGS[2] - 0.15, abs=1e-5)
    assert along(0.15, eps=1.6, points=20) == pytest.approx(CROSSINGS[0] - 0.15, abs=1e-5)


def test_the_line_is_clipped_to_the_bounds():
    assert along(0.0, eps=1.0, box=(0.0, 0.19)) == np.inf
    assert along(0.0, eps=1.0, box=(0.0, 0.21)) == pytest.approx(CROSSINGS[0], abs=1e-6)


def test_examples_are_searched_one_by_one():
    x = jnp.asarray([[0.0, 0], [0.3, 0], [0.6, 0]], jnp.float32)
    found = jax.jit(lambda eps: line_search(wiggly, x, jnp.zeros(3, jnp.int32), jnp.ones((3, 2)), eps=eps))(1.0)
    np.testing.assert_allclose(found, [CROSSINGS[0], 0, CROSSINGS[2] - 0.6], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": jnp.ones((1, 3))}, r"direction must have the shape of x, \(1, 2\); got \(1, 3\)"),
        ({"points": 0}, "points must be positive"),
        ({"steps": 0}, "steps must be positive"),
        ({"eps": -1.0}, "eps must not be negative"),
        ({"labels": jnp.array([2])}, "labels must be in"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused(change, message):
    given = {"x": jnp.zeros((1, 2)), "labels": jnp.array([0]), "direction": jnp.ones((1, 2)), "eps": 1.0} | change
    with pytest.raises(ValueError, match=message):
        line_search(wiggly, **given)


def test_a_targeted_attack_finds_the_distance_to_its_target():
    """Images of class 1, with class 0 for a target: none is there before it has moved."""
    targets, wanted = jnp.zeros(COUNT, jnp.int32), np.maximum(MARGINS, 0) / np.abs(WEIGHTS).sum()
    search = smallest(fgsm(linf(FREE), targeted=True), steps=14)
    found = jax.jit(lambda x: search(KEY, logits_fn, x, targets, eps=EPS))(X)
    assert found.success.all()
    np.testing.assert_allclose(found.distance, wanted, atol=EPS * 2.0**-14)
    assert np.asarray(found.distance)[MARGINS > 0].min() > 0


def test_images_outside_of_the_box_are_refused():
    with pytest.raises(ValueError, match="must lie in"):
        smallest(fgsm(linf()))(KEY, logits_fn, X + 3, jnp.asarray(LABELS), eps=0.1)
