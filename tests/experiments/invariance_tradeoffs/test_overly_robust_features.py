"""Features that are robust beyond what the labels tell."""

import pytest


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_simulation_stands_beside_closed_forms(smoke):
    assert smoke.rows and smoke.pictures
