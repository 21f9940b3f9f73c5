"""The Pareto figure collects the tables of finished runs."""

import pytest

from experiments import common
from experiments.excessive_invariance import pareto
from invjax.data import write_json


def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


def table(folder, loss, errors):
    rows = [common.row(f"{loss}: test error of the logits", [1.0, 3.0], "%", published=0.38)]
    rows += [
        common.row(f"{loss}: {split} error of a fresh {head} head on the nuisance", values, "%")
        for head, values in errors.items()
        for split in ("train", "test")
    ]
    write_json(folder / "table.json", [row._asdict() for row in rows])
    return str(folder)


def test_each_training_is_the_point_of_its_logits_and_of_its_best_head(tmp_path):
    runs = (
        table(tmp_path / "a" / "x", "CE", {"MLP": [4.0, 6.0], "conv": [7.0, 7.0]}),
        table(tmp_path / "b" / "y", "iCE", {"MLP": [50.0], "conv": [40.0]}),
    )
    rows = common.execute(pareto.EXPERIMENT, "smoke", pareto.Config(runs=runs), tmp_path / "run")
    assert [(row.name, row.measured) for row in rows] == [
        ("a x, CE: test error of the logits", 2.0),
        ("a x, CE: test error of a fresh MLP head on the nuisance", 5.0),
        ("b y, iCE: test error of the logits", 2.0),
        ("b y, iCE: test error of a fresh conv head on the nuisance", 40.0),
    ]
    assert (tmp_path / "run" / "figures" / "pareto.png").read_bytes()[:4] == b"\x89PNG"


def test_the_published_runs_are_found(smoke):
    assert {
        "metamers default-mnist, CE: test error of the logits",
        "nuisance_classifier default-mnist, iCE in closed form: test error of the logits",
    } <= set(smoke.table)


def test_a_run_with_another_table_is_read_again(tmp_path):
    config = pareto.Config(runs=(table(tmp_path / "a" / "x", "CE", {"MLP": [4.0]}),))
    for error in (4.0, 8.0):
        table(tmp_path / "a" / "x", "CE", {"MLP": [error]})
        rows = common.execute(pareto.EXPERIMENT, "smoke", config, tmp_path / "run")
        assert rows[1].measured == error


def test_the_place_of_a_run_does_not_depend_on_the_machine(tmp_path):
    runs = [table(tmp_path / machine / "a" / "x", "CE", {"MLP": [4.0]}) for machine in ("one", "another")]
    (place,), again = (pareto.trials(pareto.Config(runs=(run,))) for run in runs)
    assert place["run"] == "a/x" and again == [place]
    with pytest.raises(ValueError, match="two runs have the name a/x"):
        pareto.trials(pareto.Config(runs=tuple(runs)))


def test_runs_without_heads_or_without_a_table_are_refused(tmp_path):
    def run(**settings):
        common.execute(pareto.EXPERIMENT, "smoke", pareto.Config(**settings), tmp_path / "run")

    with pytest.raises(ValueError, match="has no table"):
        run(runs=(str(tmp_path),))
    with pytest.raises(ValueError, match="no fresh heads"):
        run(runs=(table(tmp_path / "a" / "x", "CE", {}),))
    with pytest.raises(ValueError, match="no published run of digits"):
        run(dataset="digits")
