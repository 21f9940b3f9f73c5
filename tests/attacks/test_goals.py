"""Success by the k most likely classes and by confidence, on linear models whose radii are known."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from invjax.attacks import (
    apgd,
    autoattack_stages,
    confident,
    diagnose,
    fab,
    jit_attack,
    linf,
    pgd,
    restarts,
    smallest,
    square,
    top_k,
    transformed,
    worst_of,
)
from invjax.attacks.building import succeeds
from invjax.evaluation import ThreatModel, benchmark, report, robustness_curve
from invjax.losses import margin

KEY = jax.random.key(0)
W = np.random.default_rng(0).normal(size=16).astype(np.float32)
NORM = np.abs(W).sum()
X = np.full((2, 4, 4, 1), 0.5, np.float32)
START = float(W.sum() / 2)
STEP = 0.02 * NORM


def staircase(params, x):
    """Class 0 has logit 0 and class j the logit `w . x - c_j`, and an linf change of 0.02 j brings class j ahead."""
    s = x.reshape(len(x), -1) @ params - START
    return jnp.stack([0 * s, *(s - j * STEP for j in range(1, 6))], 1)


def by_hand(logits, labels, k):
    """Whether the label is among the k most likely classes."""
    return np.array([y in np.argsort(-row)[:k] for row, y in zip(np.asarray(logits), labels, strict=True)])


@pytest.mark.parametrize("targeted", [False, True])
def test_the_decision_of_top_k_is_the_rule(targeted):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(64, 7)).astype(np.float32), rng.integers(0, 7, 64)
    for k in (1, 2, 5, 6):
        attack = top_k(pgd(targeted=targeted), k)
        among = by_hand(logits, labels, k)
        got = succeeds(attack, lambda z: jnp.asarray(logits), logits, labels)
        np.testing.assert_array_equal(got, among if targeted else ~among)
        if k == 1:
            np.testing.assert_array_equal(attack.decision(logits, labels), logits)
        kth = np.sort(np.where(np.eye(7, dtype=bool)[labels], -np.inf, logits), 1)[:, 7 - k]
        own = logits[np.arange(64), labels]
        np.testing.assert_allclose(margin(attack.decision(logits, labels), labels), kth - own, rtol=1e-5)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("probability", [0.2, 0.5, 0.9])
def test_the_decision_of_confidence_is_the_rule(targeted, probability):
    rng = np.random.default_rng(2)
    logits, labels = 4 * rng.normal(size=(64, 5)).astype(np.float32), rng.integers(0, 5, 64)
    probs = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    own = np.eye(5, dtype=bool)[labels]
    attack = confident(pgd(targeted=targeted), probability)
    got = succeeds(attack, lambda z: jnp.asarray(logits), logits, labels)
    reached = np.where(own if targeted else ~own, probs, 0).max(1) >= probability
    np.testing.assert_array_equal(got, reached)
    assert reached.any() and not reached.all()


@pytest.mark.slow
def test_the_log_odds_of_a_saturated_class_do_not_round():
    logits, labels = jnp.array([[0.0, 60.0, 0.0]]), jnp.array([0])
    decided = confident(pgd(), 0.9).decision
    np.testing.assert_allclose(decided(logits, labels)[0, 1], 60 - np.log(2), rtol=1e-6)
    gradient = jax.grad(lambda h: decided(h, labels)[0, 1])(logits)
    np.testing.assert_allclose(gradient, [[-0.5, 1.0, -0.5]], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3])
def test_the_smallest_radius_of_top_k_is_that_of_the_kth_class(k):
    """Class k is ahead of the label from the radius 0.02 k on, and only then k classes are."""
    zeros, far = np.zeros(2, np.int32), 0.2
    near = jit_attack(smallest(top_k(pgd(steps=2), k), steps=12), staircase)(KEY, W, X, zeros, eps=far)
    np.testing.assert_allclose(near.distance, 0.02 * k, rtol=1e-2)
    inside = jit_attack(top_k(smallest(pgd(steps=2), steps=12), k), staircase)(KEY, W, X, zeros, eps=far)
    np.testing.assert_allclose(inside.distance, near.distance, rtol=1e-4)
    fabbed = jit_attack(top_k(fab(steps=10, targets=1), k), staircase)(KEY, W, X, zeros, eps=far)
    assert fabbed.success.all()
    np.testing.assert_allclose(fabbed.distance, 0.02 * k, rtol=2e-2)


@pytest.mark.parametrize("k", [2, 5])
def test_a_target_is_among_the_k_most_likely_at_its_radius(k):
    """Class 0 has logit `w . x` and class j the logit `c_j`, so that class 0 has to pass 6 - k of the five others."""

    def climbing(params, x):
        s = x.reshape(len(x), -1) @ params - START
        return jnp.stack([s, *(0 * s + j * STEP for j in range(1, 6))], 1)

    attack = smallest(top_k(apgd(steps=4, targeted=True), k), steps=10)
    found = jit_attack(attack, climbing)(KEY, W, X, np.zeros(2, np.int32), eps=0.3)
    np.testing.assert_allclose(found.distance, 0.02 * (6 - k), rtol=3e-2)
    assert found.success.all()


@pytest.mark.parametrize("probability", [0.48, 0.9])
def test_the_radius_of_confidence_is_that_of_its_log_odds(probability):
    """Two classes: p_1 >= c exactly where h_1 - h_0 >= log(c / (1 - c))."""
    pair = lambda params, x: staircase(params, x)[:, :2]  # noqa: E731
    attack = smallest(confident(pgd(steps=2), probability), steps=12)
    found = jit_attack(attack, pair)(KEY, W, X, np.zeros(2, np.int32), eps=0.4)
    expected = (STEP + np.log(probability / (1 - probability))) / NORM
    np.testing.assert_allclose(found.distance, expected, rtol=1e-2)


@pytest.mark.slow
def test_combinators_keep_the_rule_and_count_success_by_it():
    zeros = np.zeros(2, np.int32)
    transform = partial(transformed, rotation=0, shift=0, tries=1, pixels="before")
    for combined in (
        restarts(top_k(pgd(steps=2), 3), 2),
        worst_of([top_k(pgd(steps=2), 3), top_k(pgd(steps=2), 3)]),
        top_k(transform(pgd(steps=2)), 3),
    ):
        assert combined.decision == top_k(pgd(), 3).decision and "top_k(" in combined.recipe
        run = jit_attack(combined, staircase)
        for eps, expected in (
            (0.05, False),
            (0.07, True),
        ):  # three classes are ahead from 0.06 on
            found = run(KEY, W, X, zeros, eps=eps)
            assert (np.asarray(staircase(W, found.x)).argmax(1) != 0).all()
            np.testing.assert_array_equal(found.success, expected)
    with pytest.raises(ValueError, match="one rule of success"):
        worst_of([top_k(pgd(), 3), pgd()])
    with pytest.raises(ValueError, match="transform the attack first"):
        transform(top_k(pgd(), 3))


@pytest.mark.slow
def test_curves_and_benchmarks_count_by_the_rule():
    """Image 1 is labelled 3: class 3 is fourth without a change, so it is broken by top 3 and not by top 5."""
    labels = np.array([0, 3], np.int32)
    curve = partial(robustness_curve, apply_fn=staircase, params=W, images=X, labels=labels)
    radii = [0.0, 0.05, 0.07, 0.4]
    np.testing.assert_array_equal(curve(KEY, top_k(pgd(steps=2), 3), epsilons=radii).broken_at, [0.07, 0.0])
    np.testing.assert_array_equal(curve(KEY, top_k(pgd(steps=2), 5), epsilons=radii).broken_at, [0.4, np.inf])
    stages = tuple(
        stage._replace(make=lambda rank, make=stage.make: top_k(make(rank), 3))
        for stage in autoattack_stages(linf(), num_classes=6, steps=2, queries=3)[:2]
    )
    for eps, robust in ((0.05, 0.5), (0.07, 0.0)):
        found = benchmark(KEY, staircase, W, X, labels, threat=linf(), eps=eps, stages=stages)
        assert (found.clean_accuracy, found.robust_accuracy) == (0.5, robust)
    mixed = (stages[0], autoattack_stages(linf(), num_classes=6)[3])
    with pytest.raises(ValueError, match="all stages must have one rule of success; got top_k"):
        benchmark(KEY, staircase, W, X, labels, threat=linf(), eps=0.1, stages=mixed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: top_k(pgd(), 0), "k must be positive; got k=0"),
        (lambda: confident(pgd(), 1.0), "probability must be in (0, 1); got 1.0"),
        (lambda: confident(pgd(), float("nan")), "probability must be in (0, 1); got nan"),
        (lambda: top_k(confident(pgd(), 0.5), 2), "has a rule already; give top_k an attack without one"),
        (
            lambda: top_k(square(queries=2), 6)(KEY, partial(staircase, W), X, np.zeros(2, np.int32), eps=0.1),
            "k must be less than the 6 classes of the model, because every class is among the 6 most likely ones; got",
        ),
        (
            lambda: diagnose(KEY, staircase, W, X, np.zeros(2, np.int32), eps=0.1, attack=top_k(pgd(), 2)),
            "the attack must ask for a wrong prediction; got top_k(pgd(linf",
        ),
        (
            lambda: report(KEY, staircase, W, X, np.zeros(2, np.int32), threats=[ThreatModel(top_k(pgd(), 2), 0.1)]),
            "the attack must ask for a wrong prediction; got top_k(pgd(linf",
        ),
    ],
)
def test_bad_rules_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("k", [1.5, True, 0])
def test_a_number_of_classes_that_is_no_count_is_refused(k, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    with pytest.raises(ValueError, match="k must be"):
        top_k(pgd(), k)
