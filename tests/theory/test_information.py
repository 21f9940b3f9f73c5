"""Exact information: against scipy, against simulation, and on tables that are worked out by hand."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import invjax.theory
from invjax.theory.information import (
    entropy,
    exclusive_or,
    independent_nuisance,
    mutual_information,
    posterior,
    premises,
    shift_information,
    tightened,
    variational_bound,
)

LN2 = float(np.log(2))
Y, S, N = 0, 1, 2


def random_table(seed, shape=(3, 4, 5), concentration=0.3):
    """Uneven, with cells near zero."""
    return np.random.default_rng(seed).dirichlet(np.full(np.prod(shape), concentration)).reshape(shape)


def random_classifier(seed, shape):
    return scipy.special.softmax(2 * np.random.default_rng(seed).normal(size=shape), axis=0)


def divergence(p, q):
    return scipy.special.rel_entr(p, q).sum()


# Entropies and information


def test_entropies_are_those_of_scipy():
    p = random_table(0)
    np.testing.assert_allclose(entropy(p), scipy.stats.entropy(p.ravel()), rtol=1e-12)
    np.testing.assert_allclose(entropy(p, Y), scipy.stats.entropy(p.sum((1, 2))), rtol=1e-12)
    np.testing.assert_allclose(entropy(p, (Y, N)), scipy.stats.entropy(p.sum(1).ravel()), rtol=1e-12)
    assert abs(entropy(p, ())) < 1e-15


@pytest.mark.parametrize("seed", range(5))
def test_information_is_a_divergence_from_independence(seed):
    """The definition by a divergence is summed another way than the difference of entropies."""
    p = random_table(seed)
    ys = p.sum(2)
    np.testing.assert_allclose(
        mutual_information(p, Y, S), divergence(ys, ys.sum(1, keepdims=True) * ys.sum(0, keepdims=True)), atol=1e-14
    )
    conditional = sum(  # E_n of I(y; s) within each value of n
        weight * mutual_information(p[:, :, i] / weight, 0, 1) for i, weight in enumerate(p.sum((0, 1)))
    )
    np.testing.assert_allclose(mutual_information(p, Y, S, given=N), conditional, atol=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_the_chain_rule_holds_in_both_orders(seed):
    p = random_table(seed)
    everything = mutual_information(p, Y, (S, N))
    np.testing.assert_allclose(mutual_information(p, Y, N) + mutual_information(p, Y, S, given=N), everything)
    np.testing.assert_allclose(mutual_information(p, Y, S) + mutual_information(p, Y, N, given=S), everything)
    assert max(mutual_information(p, Y, S), mutual_information(p, Y, N)) < everything < entropy(p, Y)


def test_a_sample_of_the_table_shows_the_same_information():
    p = random_table(3)
    counts = np.random.default_rng(0).multinomial(1_000_000, p.ravel()).reshape(p.shape)
    # the plug-in estimate: its bias is (cells - 1) / 2N, its standard error below 0.002 here
    np.testing.assert_allclose(mutual_information(counts / counts.sum(), Y, S), mutual_information(p, Y, S), atol=5e-3)


def test_tables_of_jax_are_summed_in_float64():
    p = random_table(0)
    np.testing.assert_allclose(mutual_information(jnp.asarray(p), Y, S), mutual_information(p, Y, S), rtol=1e-5)
    thirds = jnp.full((3,), 1 / 3, jnp.float32)
    np.testing.assert_allclose(entropy(thirds), np.log(3), rtol=1e-7)


# Lemmas 9 and 10


@pytest.mark.parametrize("seed", range(5))
def test_the_gap_is_the_mutual_information_minus_the_bound(seed):
    p = random_table(seed)
    q = random_classifier(seed, p.shape)
    value, gap = variational_bound(p, q)
    np.testing.assert_allclose(value + gap, mutual_information(p, Y, (S, N)), rtol=1e-12)
    assert gap > 0.01
    p_z = p.sum(0)
    np.testing.assert_allclose(gap, (p_z * scipy.special.rel_entr(p / p_z[None], q).sum(0)).sum(), rtol=1e-12)


def test_only_the_posterior_closes_the_gap():
    p = random_table(0).sum(1)
    best = variational_bound(p, posterior(p))
    np.testing.assert_allclose(best, (mutual_information(p, 0, 1), 0), atol=1e-14)
    for seed in range(20):
        q = 0.9 * posterior(p) + 0.1 * random_classifier(seed, p.shape)
        assert variational_bound(p, q).value < best.value


def test_a_classifier_that_excludes_an_occurring_class_gives_no_bound():
    p = np.full((2, 2), 0.25)
    value, gap = variational_bound(p, np.array([[1.0, 0.5], [0.0, 0.5]]))
    assert value == -np.inf and gap == np.inf
    assert variational_bound(0.5 * np.eye(2), np.eye(2)).value == pytest.approx(LN2)


def test_the_posterior_of_a_value_that_never_occurs_is_uniform():
    np.testing.assert_allclose(posterior(np.array([[0.5, 0.0], [0.5, 0.0]])), 0.5)


@pytest.mark.parametrize("step_size", [0.3, 2.0])
def test_training_the_classifier_only_ever_tightens_the_bound(step_size):
    p = random_table(1).sum(2)
    q, bounds = random_classifier(0, p.shape), []
    for _ in range(300):
        bounds.append(variational_bound(p, q).value)
        q = tightened(p, q, steps=1, step_size=step_size)
    assert (np.diff(bounds) >= -1e-14).all()
    assert bounds[0] < bounds[-1] - 0.5
    np.testing.assert_allclose(bounds[-1], mutual_information(p, 0, 1), atol=0.02)
    np.testing.assert_allclose(
        tightened(p, random_classifier(0, p.shape), steps=300, step_size=step_size), q, rtol=1e-9
    )


def test_renaming_the_nuisance_lowers_the_bound_and_keeps_the_information():
    p = random_table(2).sum(1)
    renamed, q = p[:, ::-1], posterior(p)
    assert variational_bound(renamed, q).value < variational_bound(p, q).value - 0.3
    np.testing.assert_allclose(mutual_information(renamed, 0, 1), mutual_information(p, 0, 1), rtol=1e-12)


# Theorem 6


def test_the_exclusive_or_violates_the_third_premise_and_the_conclusion():
    p = exclusive_or()
    shift = shift_information(p, p)
    np.testing.assert_allclose(shift, (0, 0, LN2, 0, LN2), atol=1e-15)
    assert premises(shift) == (True, True, False)
    np.testing.assert_allclose(mutual_information(p, S, N), 0, atol=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_an_independent_nuisance_is_sufficient(seed):
    rng = np.random.default_rng(seed)
    p, p_adv = (
        independent_nuisance(rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(4), 3).T, rng.dirichlet(np.ones(5)))
        for _ in range(2)
    )
    shift = shift_information(p, p_adv)
    assert premises(shift) == (True, True, True)
    np.testing.assert_allclose(shift.semantic, shift.everything, atol=1e-14)
    assert shift.semantic > 0.01
    np.testing.assert_allclose([mutual_information(p, Y, N), mutual_information(p, S, N, given=Y)], 0, atol=1e-14)


def test_independent_nuisance_is_the_product_of_its_factors():
    p_y, given, p_n = np.array([0.2, 0.8]), np.array([[0.9, 0.3], [0.1, 0.7]]), np.array([0.4, 0.6])
    p = independent_nuisance(p_y, given, p_n)
    assert p.shape == (2, 2, 2)
    assert p[1, 0, 1] == pytest.approx(0.8 * 0.3 * 0.6) and p.sum() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_the_third_premise_is_equivalent_to_the_conclusion(seed):
    """p(y) p(z_n) p(z_s | y, z_n): I(y; z_n) = 0, and what is short of one side is short of the other."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(4), (3, 5)).transpose(0, 2, 1) * rng.dirichlet(np.ones(3))[:, None, None]
    p *= rng.dirichlet(np.ones(5))[None, None]
    shift = shift_information(p, p)
    assert premises(shift) == (True, True, False)
    assert shift.everything > shift.semantic + 1e-3
    np.testing.assert_allclose(shift.conditional - shift.semantic, shift.everything - shift.semantic, atol=1e-14)


def test_each_premise_is_checked():
    dependent = random_table(0)
    free = independent_nuisance(np.full(3, 1 / 3), random_classifier(0, (4, 3)), np.full(5, 0.2))
    assert premises(shift_information(dependent, free))[:2] == (False, True)
    assert premises(shift_information(free, dependent))[:2] == (True, False)
    nearly = shift_information(free, free)._replace(nuisance=1e-3)
    assert not premises(nearly)[1] and premises(nearly, tolerance=1e-2)[1]


# Refusals

FAIR = 0.5 * np.eye(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: entropy(np.array([1.5, -0.5])), "negative or NaN; got -0.5"),
        (lambda: entropy(np.array([np.nan, 1.0])), "negative or NaN"),
        (lambda: entropy(np.array(1.0)), "a table"),
        (lambda: mutual_information(2 * FAIR, 0, 1), "must sum to 1; got 2.0"),
        (lambda: mutual_information(FAIR, 0, 2), "different axes of a table with 2"),
        (lambda: mutual_information(FAIR, 0, (0, 1)), "different axes"),
        (lambda: variational_bound(FAIR, np.eye(3)), r"q must have the shape of the table, \(2, 2\)"),
        (lambda: variational_bound(FAIR, FAIR), "q must be a distribution over its first axis"),
        (lambda: tightened(FAIR, np.eye(2), steps=1), "a positive q; got 1.0 and 0.0"),
        (lambda: tightened(FAIR, np.full((2, 2), 0.5), steps=0), "steps must be positive"),
        (lambda: tightened(FAIR, np.full((2, 2), 0.5), steps=1, step_size=3.0), "step_size <= 2"),
        (lambda: independent_nuisance(np.array([0.5, 0.5]), np.eye(3), np.array([1.0])), "semantic_given_y"),
        (lambda: independent_nuisance(np.array([0.5, 0.6]), np.eye(2), np.array([1.0])), "must sum to 1"),
        (lambda: shift_information(exclusive_or(), 2 * exclusive_or()), "must sum to 1"),
        (lambda: posterior(-FAIR), "negative"),
    ],
)
def test_bad_tables_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", invjax.theory.__all__)
def test_everything_public_is_exported(name):
    """The face of a model lists every function of its modules whose docstring explains its arguments."""
    face = vars(invjax.theory)[name]
    assert set(face.__all__) <= set(vars(face))
    documented = {
        public
        for module in vars(face).values()
        if isinstance(module, types.ModuleType) and not module.__name__.endswith("_checks")
        for public, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and "Args:" in (value.__doc__ or "")
    }
    assert documented and documented <= set(face.__all__)
