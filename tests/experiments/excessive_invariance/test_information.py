"""Information about the class: exact tables, and lower bounds on images."""

import numpy as np
import pytest

from experiments.excessive_invariance import classifiers


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_the_information_sums_its_tables_and_draws_figure_6_twice(smoke):
    measured = smoke.measured
    exact = [row.measured for row in smoke.rows if "largest" in row.name and row.unit == "nats"]
    assert len(exact) == 8 and max(exact) < 1e-12
    assert abs(measured["exclusive or: I(y; z_s)"]) < 1e-12
    assert measured["exclusive or: I(y; x)"] == pytest.approx(np.log(2))
    assert measured["schematic, iCE: I_Adv(y; z_s)"] == pytest.approx(measured["schematic, iCE: I_Adv(y; x)"])
    before, after, limit = (
        measured[f"lemma 10: {what}, mean"] for what in ("bound of a random q", "bound after 20 steps of q", "I(y; z)")
    )
    assert before < after < limit
    for part in ("z_s", "z_n"):
        for name in ("CE, D", "CE, D_Adv", "iCE, D", "iCE, D_Adv"):
            assert 0 <= measured[f"{name}: I(y; {part}) is at least"] <= np.log(10) + 1e-6
    assert measured["CE, D: I(y; z_n) is at least"] > 0.2
    assert smoke.pictures == {
        "information-measured",
        "information-tables",
    }


def test_the_largest_of_a_table_is_that_of_all_seeds_and_a_mean_has_a_spread():
    from experiments.excessive_invariance import information_tables

    found = [information_tables.over_tables(seed, 3) for seed in range(3)]
    rows = {row.name: row for row in information_tables.rows(found, 3)}
    largest, mean = "lemma 9: bound - I(y; z), largest", "lemma 10: I(y; z), mean"
    assert rows[largest].measured == max(numbers[largest] for numbers in found) and rows[largest].spread is None
    assert rows[mean].measured == pytest.approx(np.mean([numbers[mean] for numbers in found]))
    assert rows[mean].seeds == 3


def test_the_schematic_of_figure_6_meets_the_premises_under_ice_alone():
    from experiments.excessive_invariance import information_tables
    from invjax.theory.information import premises, shift_information

    tables = information_tables.schematic(classes=4, noise=0.1)
    ce, ice = (shift_information(tables[loss]["D"], tables[loss]["D_Adv"]) for loss in classifiers.LOSSES)
    assert premises(ice) == (True, True, True) and not premises(ce)[0]
    assert ce.semantic == pytest.approx(0, abs=1e-12) and ce.everything == pytest.approx(ice.semantic)
    same, other = 0.9 + 0.1 / 4, 0.1 / 4
    assert ice.semantic == pytest.approx(np.log(4) + same * np.log(same) + 3 * other * np.log(other))
