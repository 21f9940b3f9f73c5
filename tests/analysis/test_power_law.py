"""Fits of power laws recover the law of the data, with valid intervals."""

import math
import re

import jax
import jaxtyping
import numpy as np
import pytest

from invjax.analysis import hill, log_log_fit, power_law


def from_law(exponent, coefficient, count, seed=0):
    """Radii with P(radius < eps) = coefficient * eps ** exponent up to where that is 1; by inversion of the cdf."""
    return (np.random.default_rng(seed).random(count) / coefficient) ** (1 / exponent)


@pytest.mark.parametrize("exponent", [0.7, 1.0, 2.3])
def test_power_law_recovers_the_law_of_the_radii(exponent):
    radii = from_law(exponent, 3.0, 40_000)
    law = power_law(radii, quantile=0.1)
    np.testing.assert_allclose([law.exponent, law.coefficient], [exponent, 3.0], rtol=0.15)
    assert law.low < exponent < law.high and law.count == 4000
    assert hill(radii, quantile=0.1) == law.exponent
    np.testing.assert_allclose(law.at(law.cutoff), 0.1, rtol=1e-12)
    np.testing.assert_allclose(law.at(law.cutoff * np.array([0.25, 1])), [0.1 * 0.25**law.exponent, 0.1])


def test_power_law_equals_its_formula():
    radii = np.array([0.1, 0.2, 0.4, 0.8, np.inf])
    law = power_law(radii, upto=0.5)
    exponent = 3 / (math.log(5) + math.log(2.5) + math.log(1.25))
    assert law.exponent == pytest.approx(exponent) and law.count == 3 and law.cutoff == 0.5
    assert law.coefficient == pytest.approx(3 / 5 / 0.5**exponent)  # the fraction is over all five radii
    assert law.high == pytest.approx(exponent * (1 + 1.959964 / math.sqrt(3)))
    assert law.low == pytest.approx(exponent * (1 - 1.959964 / math.sqrt(3)))


def test_power_law_maximises_the_likelihood():
    """Some radii are only known to be below the resolution, and others only to be above the cutoff."""
    radii, resolution, cutoff = from_law(1.4, 1.0, 300), 0.05, 0.4
    found = power_law(radii, upto=cutoff, resolution=resolution)
    hidden, above = (radii <= resolution).sum(), (radii >= cutoff).sum()
    seen = radii[(radii > resolution) & (radii < cutoff)]

    def likelihood(a, b):
        density = np.log(a * b) + (b - 1) * np.log(seen)
        return density.sum() + hidden * np.log(a * resolution**b) + above * np.log(1 - a * cutoff**b)

    best = likelihood(found.coefficient, found.exponent)
    assert hidden > 0 and above > 0
    for a, b in ((1.01, 1), (0.99, 1), (1, 1.01), (1, 0.99), (1.01, 1.01)):
        assert likelihood(a * found.coefficient, b * found.exponent) < best


def test_values_below_the_resolution_are_counted_without_bias():
    radii = from_law(1.0, 1.0, 40_000)
    rounded = np.maximum(radii, 0.03)  # radii of a coarse bisection
    law = power_law(rounded, upto=0.1, resolution=0.03)
    assert law.low < 1 < law.high and law.coefficient == pytest.approx(1, rel=0.15)
    assert law.count == (radii < 0.1).sum()
    assert power_law(rounded, upto=0.1).exponent > 1.2
    half = 1.959964 / math.sqrt(((radii > 0.03) & (radii < 0.1)).sum())
    assert (law.high - law.low) / 2 == pytest.approx(law.exponent * half)


def test_the_exponent_does_not_depend_on_units_order_or_values_above_the_cutoff():
    radii = from_law(1.3, 1.0, 500)
    law = power_law(radii, upto=0.2)
    assert power_law(255 * radii[::-1], upto=255 * 0.2).exponent == pytest.approx(law.exponent)
    assert power_law(np.where(radii < 0.2, radii, np.inf), upto=0.2) == law
    twice = power_law(np.concatenate([radii, np.full(500, np.inf)]), upto=0.2)
    assert twice.exponent == law.exponent and twice.coefficient == pytest.approx(law.coefficient / 2)


def test_power_law_accepts_float32():
    radii = from_law(1.3, 1.0, 500)
    assert power_law(radii.astype(np.float32)).exponent == pytest.approx(power_law(radii).exponent, rel=1e-5)


# intervals


@pytest.mark.parametrize("bootstrap", [False, True])
def test_nineteen_of_twenty_intervals_hold_the_exponent(bootstrap):
    held = []
    for seed in range(200):
        key = jax.random.key(seed) if bootstrap else None
        law = power_law(from_law(1.5, 1.0, 600, seed), upto=0.5, key=key, num_resamples=200)
        held.append(law.low < 1.5 < law.high)
    assert 0.9 <= np.mean(held) <= 0.99


def test_the_bootstrap_is_repeatable_and_agrees_with_the_asymptotic_interval():
    radii = from_law(1.0, 1.0, 4000)
    one, same, other = (power_law(radii, key=jax.random.key(seed)) for seed in (0, 0, 1))
    assert one == same and one.low != other.low
    asymptotic = power_law(radii)
    np.testing.assert_allclose((one.low, one.high), (asymptotic.low, asymptotic.high), rtol=0.03)


def test_less_confidence_is_a_narrower_interval():
    radii = from_law(1.0, 1.0, 400)
    for key in (None, jax.random.key(0)):
        wide, narrow = (power_law(radii, confidence=value, key=key) for value in (0.95, 0.68))
        assert wide.low < narrow.low < narrow.high < wide.high


# the line through a curve


def test_the_log_log_fit_recovers_an_exact_law():
    epsilons = np.geomspace(1e-3, 0.1, 7)
    fit = log_log_fit(epsilons, 2 * epsilons**1.7)
    np.testing.assert_allclose(fit, (1.7, 2), rtol=1e-10)


def test_the_log_log_fit_agrees_with_the_maximum_of_the_likelihood():
    radii = from_law(1.2, 1.0, 40_000)
    law = power_law(radii, upto=0.1)
    epsilons = np.geomspace(0.01, 0.1, 10)
    fit = log_log_fit(epsilons, (radii[:, None] < epsilons[None]).mean(0))
    assert fit.exponent == pytest.approx(law.exponent, rel=0.05)


# bad input

GOOD = from_law(1.0, 1.0, 50)


@pytest.mark.parametrize(
    ("values", "change", "message"),
    [
        (np.zeros(5), {}, "values must be positive; 5 of 5 are 0: an image that is misclassified without a change has"),
        (np.array([0, 0.1, 0.2]), {"resolution": 0.1}, "1 of 3 are 0"),
        (np.array([0.1, -0.1, np.nan]), {}, "values must not be negative or NaN; 2 of 3 are"),
        (np.ones((2, 2)), {}, "values must be [N], N at least 1; got shape (2, 2)"),
        (np.ones(0), {}, "values must be [N], N at least 1; got shape (0,)"),
        (np.full(9, np.inf), {}, "quantile=0.1 lies beyond the finite values, 0 of 9"),
        (np.full(9, np.inf), {"upto": 1}, "cutoff 1; got 0 (0 of 9 values are finite); raise the cutoff"),
        (np.where(GOOD < 0.1, GOOD, np.inf), {"quantile": 0.9}, "pass a smaller one, or upto="),
        (GOOD, {"upto": math.inf}, "the cutoff must be finite and above the resolution; got inf and 0"),
        (GOOD, {"upto": 0.1, "resolution": 0.2}, "got 0.1 and 0.2"),
        (GOOD, {"upto": 0.1, "resolution": -1}, "got 0.1 and -1"),
        (GOOD, {"upto": 1e-9}, "needs 2 values or more between resolution=0 and the cutoff 1e-09; got 0"),
        (np.ones(9), {}, "needs 2 values or more"),  # all tied
        (GOOD, {"quantile": 0.0}, "quantile must be between 0 and 1; got 0.0"),
    ],
)
def test_values_without_a_power_law_are_refused(values, change, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=re.escape(message)):
        power_law(values, **change)
    if "resolution" not in change and "upto" not in change:
        with pytest.raises(ValueError, match=re.escape(message)):
            hill(values, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"confidence": 95.0}, "confidence must be between 0 and 1; got 95.0"), ({"num_resamples": 0}, "num_resamples")],
)
def test_bad_arguments_of_an_interval_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        power_law(GOOD, **change)


@pytest.mark.parametrize(
    ("epsilons", "errors", "message"),
    [
        (np.zeros(3), np.full(3, 0.1), "epsilons must be positive and increasing; got [0.0, 0.0, 0.0]"),
        (np.array([0.2, 0.1]), np.full(2, 0.1), "sort them and remove 0"),
        (np.array([0.1, 0.1]), np.full(2, 0.1), "positive and increasing"),
        (np.array([0.1, np.nan]), np.full(2, 0.1), "positive and increasing"),
        (np.array([0.1, 0.2]), np.array([0, 0.1]), "errors must lie in (0, 1]; got [0.0, 0.1]; start the grid"),
        (np.array([0.1, 0.2]), np.array([1, 10.0]), "errors must lie in (0, 1]"),
        (np.array([0.1]), np.array([0.1]), "2 points or more; got (1,) and (1,)"),
        (np.array([0.1, 0.2]), np.array([0.1]), "got (2,) and (1,)"),
    ],
)
def test_curves_without_a_line_are_refused(epsilons, errors, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=re.escape(message)):
        log_log_fit(epsilons, errors)
