"""The search for architectures: its table, its figure, and refused settings; see `test_cells` for the search itself."""

import pytest

from experiments import common
from experiments.intriguing_properties import architecture_search


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_the_best_cells_learn_and_stronger_attacks_leave_less_accuracy(smoke):
    measured = smoke.measured
    assert -1 <= measured["rank correlation of FGSM accuracy and number of parameters, all children"] <= 1
    for by in ("FGSM accuracy", "clean accuracy"):
        clean, weak, strong = (
            measured[f"best cell by {by}, enlarged: {what}"]
            for what in ("clean accuracy", "accuracy under FGSM, eps = 0.1", "accuracy under PGD, eps = 0.1")
        )
        assert strong <= weak + 3 and weak <= clean and clean > 80 and weak > 30
    assert smoke.pictures == {"cells"}


def test_the_rows_compare_accuracy_under_attack_with_clean_accuracy_and_size():
    def child(arm, clean, reward, parameters):
        return {"arm": arm, "cell": {}, "clean": clean, "reward": reward, "parameters": parameters}

    children = [child("random", 0.1 * i, 0.05 * i, 100 - i) for i in range(1, 6)]
    children += [child("evolved", 0.9, 0.02, 3), child("evolved", 0.8, 0.6, 2)]
    final = {"parameters": 7, "test": {"clean": 0.5, "FGSM": 0.25}}
    finals = {"reward": final, "clean": final}
    rows = {row.name: row for row in architecture_search.rows_of(architecture_search.Config(), children, finals)}
    measured = {name: row.measured for name, row in rows.items()}
    assert measured["rank correlation of FGSM accuracy and clean accuracy, random search only"] == pytest.approx(1)
    assert measured["rank correlation of FGSM accuracy and number of parameters, random search only"] == pytest.approx(
        -1
    )
    assert measured["best tenth by FGSM accuracy: of above-median clean accuracy"] == 100
    assert measured["cells of above-median clean accuracy: lowest FGSM accuracy"] == pytest.approx(2)
    assert measured["the same: highest FGSM accuracy"] == measured["evolved: best FGSM accuracy"] == pytest.approx(60)
    assert measured["random: median FGSM accuracy"] == pytest.approx(15)
    assert measured["best cell by clean accuracy, enlarged: accuracy under FGSM, eps = 0.1"] == 25


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tournament", "0"], "tournament must be 1 or more; got 0"),
        (["--alive", "9"], "alive=9 is more than random=8"),
        (["--held-out", "1200"], "at most the 1437 training images"),
    ],
)
def test_bad_settings_of_the_architecture_search_are_refused(flags, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        common.main(architecture_search.EXPERIMENT, ["smoke", *flags, "--out", str(tmp_path)])
