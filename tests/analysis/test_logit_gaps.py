"""Gaps between logits, against simulation, scipy's Beta law, and each other."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from invjax.analysis import gap_coefficient, gap_power_law, logit_gaps, uniform_gap_law

CLASSES = 10
UNIFORM = np.random.default_rng(0).random((50_000, CLASSES))


def test_gaps_are_to_the_largest_in_order():
    logits = np.array([[3, 1, 2], [0, -5, 4]], np.float32)
    np.testing.assert_allclose(logit_gaps(logits), [[1, 2], [4, 9]])


def test_gaps_depend_neither_on_the_order_of_classes_nor_on_a_shift():
    logits = UNIFORM[:50].astype(np.float32)
    gaps = logit_gaps(logits)
    np.testing.assert_array_equal(logit_gaps(logits[:, ::-1]), gaps)
    np.testing.assert_allclose(logit_gaps(logits + 1), gaps, atol=1e-6)
    np.testing.assert_allclose(logit_gaps(2 * logits), 2 * gaps)


# the exact law


@pytest.mark.parametrize("j", [2, 3, 7, 10])
def test_gaps_of_uniform_logits_follow_their_law(j, float64):
    gaps = np.asarray(logit_gaps(UNIFORM))[:, j - 2]
    assert scipy.stats.kstest(gaps, uniform_gap_law(CLASSES, j).cdf).pvalue > 1e-3
    for wrong in {2, 3, 9} - {j}:
        assert scipy.stats.kstest(gaps, uniform_gap_law(CLASSES, wrong).cdf).pvalue < 1e-6


@pytest.mark.parametrize(("num_classes", "j"), [(2, 2), (10, 2), (10, 10), (1000, 5)])
def test_the_gaps_of_uniform_logits_have_a_beta_law(num_classes, j):
    law, beta = uniform_gap_law(num_classes, j), scipy.stats.beta(j - 1, num_classes - j + 2)
    gaps = np.concatenate([[-0.1, 0, 1, 1.1], np.linspace(0.001, 0.999, 50)])
    np.testing.assert_allclose(law.cdf(gaps), beta.cdf(gaps), rtol=1e-9, atol=1e-300)
    inside = (gaps > 0) & (gaps < 1)
    np.testing.assert_allclose(law.density(gaps[inside]), beta.pdf(gaps[inside]), rtol=1e-9, atol=1e-300)
    np.testing.assert_array_equal(law.density(np.array([-0.1, 1.1])), 0)


# the coefficient for any density


@pytest.mark.parametrize("j", range(2, CLASSES + 1))
def test_the_coefficient_of_uniform_logits_is_that_of_their_law(j):
    found = gap_coefficient(j, CLASSES, np.ones_like, lambda h: h, (0, 1))
    assert found == pytest.approx(1 / scipy.special.beta(j - 1, CLASSES - j + 2), rel=1e-9)
    assert found == pytest.approx(float(uniform_gap_law(CLASSES, j).density(1e-9)) / 1e-9 ** (j - 2), rel=1e-6)


@pytest.mark.parametrize(
    ("law", "support"),
    [
        (scipy.stats.norm(), (-np.inf, np.inf)),
        (scipy.stats.norm(40, 2), (20, 60)),
        (scipy.stats.expon(), (0, np.inf)),
        (scipy.stats.gumbel_l(), (-np.inf, np.inf)),
        (scipy.stats.beta(3, 2), (0, 1)),
    ],
)
@pytest.mark.parametrize("j", [2, 4])
def test_the_coefficient_is_that_of_adaptive_quadrature(law, support, j):
    """In units of probability: the integral of p^(j-1) F^(N-j) over F."""
    p_of = lambda level: law.pdf(law.ppf(level)) ** (j - 1) * level ** (CLASSES - j)  # noqa: E731
    integral, _ = scipy.integrate.quad(p_of, 0, 1, epsabs=0, epsrel=1e-8, limit=500)
    expected = math.factorial(CLASSES) / math.factorial(CLASSES - j) / math.factorial(j - 2) * integral
    assert gap_coefficient(j, CLASSES, law.pdf, law.cdf, support) == pytest.approx(expected, rel=1e-6)


def test_a_support_unbounded_below_mirrors_one_unbounded_above():
    low, high = scipy.stats.expon(), (-np.inf, 0)
    found = gap_coefficient(2, 2, lambda h: low.pdf(-h), lambda h: low.sf(-h), high)
    assert found == pytest.approx(gap_coefficient(2, 2, low.pdf, low.cdf, (0, np.inf)), rel=1e-9)


def test_the_coefficient_scales_with_the_unit_of_the_logits():
    one = gap_coefficient(3, 5, scipy.stats.norm.pdf, scipy.stats.norm.cdf, (-np.inf, np.inf))
    wide = scipy.stats.norm(0, 2)
    assert gap_coefficient(3, 5, wide.pdf, wide.cdf, (-np.inf, np.inf)) == pytest.approx(one / 2**2, rel=1e-8)


def test_the_coefficient_predicts_small_gaps_of_normal_logits():
    """P(Delta_1j < d) is about C_j d^(j-1) / (j-1)."""
    gaps = np.asarray(logit_gaps(np.random.default_rng(1).normal(size=(400_000, 5)).astype(np.float32)))
    for j, d in ((2, 0.02), (3, 0.05)):
        coefficient = gap_coefficient(j, 5, scipy.stats.norm.pdf, scipy.stats.norm.cdf, (-np.inf, np.inf))
        assert (gaps[:, j - 2] < d).mean() == pytest.approx(coefficient * d ** (j - 1) / (j - 1), rel=0.05)


# the law of measured gaps


@pytest.mark.parametrize("j", [2, 3, 4])
def test_the_exponent_and_coefficient_of_uniform_logits_are_found(j):
    law = gap_power_law(UNIFORM, j, quantile=0.01)
    assert law.count == 500 and law.low < j - 2 + 0.02 and law.high > j - 2 - 0.15
    assert law.exponent == pytest.approx(j - 2, abs=0.35)
    exact = uniform_gap_law(CLASSES, j).density(law.cutoff / 2)
    assert law.at(law.cutoff / 2) == pytest.approx(float(exact), rel=0.15)


def test_the_bootstrap_of_a_gap_is_repeatable():
    one, same = (gap_power_law(UNIFORM[:5000], 3, key=jax.random.key(0), num_resamples=50) for _ in range(2))
    assert one == same and one.low < one.exponent < one.high


def test_ties_count_as_gaps_below_the_resolution():
    # logits in steps of 0.004, so a tie means a distance below 0.004
    rounded = np.floor(UNIFORM[:20_000].astype(np.float32) * 250)
    law = gap_power_law(rounded, 2, upto=20.5, resolution=0.5)
    assert (np.asarray(logit_gaps(rounded))[:, 0] == 0).any() and np.isfinite(law).all()
    with pytest.raises(ValueError, match="gaps between logits 1 and 2 are 0: the logits are too coarse; pass resol"):
        gap_power_law(rounded, 2)


# bad input


@pytest.mark.parametrize("j", [1, 5, -2])
def test_ranks_that_are_not_behind_the_first_are_refused(j):
    message = re.escape(f"2..4 for 4 classes; got {j}")
    with pytest.raises(ValueError, match=message):
        gap_power_law(jnp.ones((3, 4)), j)
    with pytest.raises(ValueError, match=message):
        uniform_gap_law(4, j)
    with pytest.raises(ValueError, match=message):
        gap_coefficient(j, 4, np.ones_like, lambda h: h, (0, 1))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (
            np.ones((3, 1)),
            "logits must be [batch, classes], 2 classes or more; got (3, 1); two classes need",
        ),
        (np.array([[1, np.nan]]), "logits holds 1 NaN or infinite values of 2"),
    ],
)
def test_logits_without_gaps_are_refused(logits, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        logit_gaps(logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"support": (1, 0)}, "support must be (low, high) with low < high; got (1, 0)"),
        ({"support": (0, 2)}, "must be 1 and 1/2; got 2 and 2"),
        ({"density": lambda h: 2 * h}, "got 1 and 0.666667"),
        ({"density": lambda h: np.full_like(h, np.nan)}, "got nan and nan"),
    ],
)
def test_functions_that_are_no_density_and_its_cdf_are_refused(change, message):
    given = {"density": np.ones_like, "cdf": lambda h: h, "support": (0, 1)} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        gap_coefficient(2, CLASSES, **given)


def test_a_narrow_density_far_from_zero_needs_a_finite_support():
    far = scipy.stats.norm(1000, 0.1)
    with pytest.raises(ValueError, match="pass the finite range"):
        gap_coefficient(2, CLASSES, far.pdf, far.cdf, (-np.inf, np.inf))
