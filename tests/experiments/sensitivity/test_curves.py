"""Robustness curves of a plain and of an adversarially trained network."""

import pytest


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_both_networks_have_rows_and_pictures(smoke):
    assert {row.name.partition(":")[0] for row in smoke.rows} == {"plain", "adversarial"}
    assert all(0 <= row.measured <= 100 for row in smoke.rows if row.unit == "%")
    assert smoke.pictures == {"plain-linf", "plain-l2", "adversarial-linf", "adversarial-l2"}
