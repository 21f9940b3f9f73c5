"""Adversarial spheres: closed forms, exact metamers, and figure 2."""

import pytest


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_the_spheres_has_closed_forms_exact_metamers_and_figure_2(smoke):
    measured = smoke.measured
    closed = [row for row in smoke.rows if not row.name.startswith("trained network")]
    assert any(row.expected is not None for row in closed) and any(row.published is not None for row in closed)
    for row in closed:
        exact = row.published if row.expected is None else row.expected
        assert row.measured == pytest.approx(exact, rel=0.1, abs=3 if row.unit == "%" else 0.02)
    assert measured["trained network: inner points with a metamer on the outer sphere"] == 100
    assert measured["trained network: decision inner on these metamers"] == 100
    assert measured["trained network: max logit error of the metamers on the outer sphere, float64"] < 1e-9
    assert measured["trained network: max radius error of these, float64"] < 1e-9
    assert measured["trained network: clean error, inner sphere"] < 10
    assert smoke.pictures == {"two-kinds"}
