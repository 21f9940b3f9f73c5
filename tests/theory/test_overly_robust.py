"""The overly-robust feature model: closed forms against simulation, and what follows from them."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from invjax.theory import overly_robust
from invjax.theory.overly_robust import Task

KEY = jax.random.key(0)
COUNT = 20_000
TASKS = [Task(0.1, 0.01, 30), Task(0.5, 0.1, 30), Task(0.05, 0.05, 30)]


@cache
def drawn(task, noise="oracle"):
    """Inputs, labels and classes of the oracle, as NumPy arrays; without jit, all tasks share what is compiled."""
    return jax.tree.map(np.asarray, overly_robust.sample(KEY, task, COUNT, noise=noise))


@partial(jax.jit, static_argnums=0)
def compiled_log_odds(task, x):
    return overly_robust.log_odds(task, x)


def log_odds(task, x):
    return np.asarray(compiled_log_odds(task, x))


def within(share, expected, count=COUNT):
    """Four standard errors of a share."""
    assert abs(share - expected) < 4 * math.sqrt(max(expected * (1 - expected), 1 / count) / count), (share, expected)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_accuracies_and_agreement_are_those_of_a_simulation(task):
    data = drawn(task)
    decided = np.sign(log_odds(task, data.x))
    within((decided == data.y).mean(), overly_robust.bayes_accuracy(task))
    within((decided == data.oracle).mean(), overly_robust.bayes_agreement(task))
    within((np.sign(data.x[:, 1]) == data.y).mean(), overly_robust.second_accuracy(task))
    within((data.oracle != data.y).mean(), task.delta)


@pytest.mark.parametrize("eps", [0.05, 0.3, 0.8])
def test_an_attack_on_the_weak_features_agrees_with_the_closed_forms(eps):
    task = TASKS[0]
    data = drawn(task)
    decided = np.sign(log_odds(task, data.x))

    def attacked(against):
        step = np.concatenate([np.zeros((COUNT, 2)), np.full((COUNT, task.dimension), eps)], 1)
        return np.sign(log_odds(task, (data.x - against[:, None] * step).astype(np.float32)))

    within((attacked(data.y) == data.y).mean(), overly_robust.bayes_accuracy(task, eps))
    within((attacked(decided) != decided).mean(), overly_robust.bayes_flips(task, eps))


def test_the_log_odds_are_those_of_the_densities():
    task = TASKS[1]
    x = np.asarray(drawn(task).x[:50], np.float64)
    k, d = 1 + task.alpha, task.dimension

    def log_density(y):
        first = np.where(np.sign(x[:, 0]) == y, 1 - task.delta, task.delta)
        second = np.where(x[:, 1] == y, (1 + 1 / k) / 2, (1 - 1 / k) / 2)
        return np.log(first) + np.log(second) + stats.norm(y / np.sqrt(d), np.sqrt(k)).logpdf(x[:, 2:]).sum(1)

    np.testing.assert_allclose(log_odds(task, x), log_density(1) - log_density(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("task", "agreement"), list(zip(TASKS, [0.9928, 0.9244, 0.9499], strict=True)))
def test_agreement_equals_a_stored_simulation(task, agreement):
    assert overly_robust.bayes_agreement(task) == pytest.approx(agreement, abs=1e-3)


def test_the_papers_bounds_hold_where_they_are_true():
    for task in TASKS:
        assert overly_robust.bayes_accuracy(task) >= 1 - task.delta
        assert overly_robust.bayes_agreement(task) >= 1 - 2 * task.delta
        assert overly_robust.second_accuracy(task) >= 1 - task.alpha / 2
    literal = overly_robust.second_accuracy(TASKS[2], noise="label")
    assert literal == pytest.approx(0.9286, abs=1e-4) and literal < 1 - TASKS[2].alpha / 2


@pytest.mark.parametrize("noise", overly_robust.READINGS)
def test_labels_and_oracle_differ_by_the_noise_in_both_readings(noise):
    task = TASKS[1]
    data = drawn(task, noise=noise)
    within((data.oracle != data.y).mean(), task.delta)
    within((np.sign(data.x[:, 1]) == data.y).mean(), overly_robust.second_accuracy(task, noise=noise))
    # the weak features depend on the label or on the oracle
    side = data.y if noise == "oracle" else data.oracle
    mean = np.asarray(data.x[:, 2:] * side[:, None]).mean()
    assert mean == pytest.approx(1 / math.sqrt(task.dimension), abs=4 * math.sqrt(1.5 / (COUNT * task.dimension)))


def test_the_flipping_radius_inverts_the_flips_and_falls_like_one_over_the_root_of_d():
    radii = [overly_robust.flipping_radius(Task(0.1, 0.01, d), 0.99) for d in (10, 1000)]
    assert overly_robust.bayes_flips(Task(0.1, 0.01, 10), radii[0]) == pytest.approx(0.99, abs=1e-9)
    assert math.log(radii[1] / radii[0]) / math.log(100) == pytest.approx(-0.5, abs=1e-9)
    assert 5 < radii[1] * math.sqrt(1000) < 9


def test_the_robust_feature_withstands_attacks_that_change_the_oracle():
    data = drawn(TASKS[0])
    worst = data.x.copy()
    worst[:, 0] -= 0.6 * data.oracle  # the perturbation exceeds 1/2
    worst[:, 1] -= 0.99 * np.sign(worst[:, 1])
    assert (np.sign(worst[:, 0]) != data.oracle).all()
    assert (np.sign(worst[:, 1]) == np.sign(data.x[:, 1])).all()


def test_augmentation_keeps_only_the_oracle():
    task = TASKS[0]
    data = drawn(task)
    x = np.asarray(overly_robust.augment(jax.random.key(1), task, data.x))
    np.testing.assert_array_equal(x[:, 0], data.x[:, 0])
    within((np.sign(x[:, 1]) == data.y).mean(), 0.5)
    means = np.asarray(x[:, 2:] * data.y[:, None]).mean()
    assert abs(means) < 4 * math.sqrt(1.2 / (COUNT * 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overly_robust.sample(KEY, Task(0.0, 0.1, 3), 5), "alpha must be positive"),
        (lambda: overly_robust.bayes_agreement(Task(0.1, 0.5, 3)), "delta must lie"),
        (lambda: overly_robust.sample(KEY, Task(0.1, 0.1, 0), 5), "dimension must be positive"),
        (lambda: overly_robust.sample(KEY, TASKS[0], 0), "count must be positive"),
        (lambda: overly_robust.sample(KEY, TASKS[0], 5, noise="both"), "noise must be one of"),
        (lambda: overly_robust.bayes_accuracy(TASKS[0], -0.1), "eps must"),
        (lambda: overly_robust.flipping_radius(TASKS[0], 1.0), "fraction must lie"),
        (lambda: overly_robust.log_odds(TASKS[0], jnp.zeros((2, 3))), "x must be"),
    ],
    ids=["alpha", "delta", "dimension", "count", "reading", "eps", "fraction", "shape"],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
