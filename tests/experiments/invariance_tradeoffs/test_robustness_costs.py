"""The cost of robustness in agreement with people."""

import json

import pytest

from experiments import common
from experiments.invariance_tradeoffs import robustness_costs


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_robustness_costs_run(smoke):
    table = smoke.table
    plain, robust = (
        json.loads((smoke.folder / "trials" / place / "numbers.json").read_text())
        for place in ("norm=plain,eps=0.0,seed=0", "norm=linf,eps=0.3,seed=0")
    )
    assert plain["agrees"]["l0"][1] == 55 and plain["agrees"]["manual linf 0.4"][1] == 44
    assert table["plain: agrees with people, l0"].measured == pytest.approx(100 * plain["agrees"]["l0"][0] / 55)
    falls = table["linf-PGD: agreement with people falls from eps 0 to 0.3 by, manual linf 0.4"]
    high, low = (numbers["agrees"]["manual linf 0.4"][0] for numbers in (plain, robust))
    assert falls.measured == pytest.approx(100 * (high - low) / 44)
    # the second network has another radius of training and other parameters
    assert robust["clean"] != plain["clean"] and 0 <= robust["robust"] <= robust["clean"] + 0.2
    assert smoke.pictures == {"agreement"}


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_a_norm_without_a_radius_is_refused_before_any_work(norm, tmp_path):
    with pytest.raises(SystemExit, match="linf and l1 need at least one radius each"):
        common.main(robustness_costs.EXPERIMENT, ["smoke", f"--{norm}", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_one_network_without_an_adversary_serves_both_norms():
    places = robustness_costs.trials(robustness_costs.Config())
    assert [place["norm"] for place in places].count("plain") == 3 and len(places) == 3 * (1 + 4 + 3)
    assert all((place["norm"] == "plain") == (place["eps"] == 0) for place in places)
