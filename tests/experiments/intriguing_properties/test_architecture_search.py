"""The search for cells: mutations, tournaments, and a killed search that goes on."""

import dataclasses

import numpy as np
import pytest

from experiments import common
from experiments.intriguing_properties import architecture_search, cells


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_the_search_leaves_its_table_and_its_scatter(smoke):
    measured = smoke.measured
    assert -1 <= measured["rank correlation of FGSM accuracy and number of parameters, all children"] <= 1
    for by in ("FGSM accuracy", "clean accuracy"):
        clean, weak, strong = (
            measured[f"best cell by {by}, enlarged: {what}"]
            for what in ("clean accuracy", "accuracy under FGSM, eps = 0.1", "accuracy under PGD, eps = 0.1")
        )
        assert strong <= weak + 3 and weak <= clean and clean > 50
    assert smoke.pictures == {"cells"}


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_to_the_same_result(smoke, tmp_path, monkeypatch):
    rows = smoke.rows
    stage, done = common.stage, []

    def until_killed(folder, compute):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(folder.name)
        return stage(folder, compute)

    config = architecture_search.PRESETS["smoke"]
    with monkeypatch.context() as patch:
        patch.setattr(common, "stage", until_killed)
        with pytest.raises(KeyboardInterrupt):
            architecture_search.run(config, tmp_path)
    assert done == ["random-000", "random-001", "evolved-000"]
    kept = {name: (tmp_path / name / "numbers.json").stat().st_mtime_ns for name in done}
    assert architecture_search.run(config, tmp_path) == rows
    assert kept == {name: (tmp_path / name / "numbers.json").stat().st_mtime_ns for name in done}


def test_a_child_differs_from_its_parent_in_one_gene_that_has_an_effect():
    space, rng = architecture_search.space(architecture_search.PRESETS["default"]), np.random.default_rng(0)
    places = cells.places(space)
    assert ("skip", 0) not in places and ("pooling", 2) not in places and len(places) == 3 * 5 - 2
    seen = set()
    for _ in range(300):
        parent = cells.random_cell(space, rng)
        child = cells.mutated(space, parent, rng)
        changed = [(gene, i) for gene in parent for i in range(space.layers) if parent[gene][i] != child[gene][i]]
        assert len(changed) == 1
        seen.add(changed[0])
        assert all(value in cells.genes(space)[gene] for gene in child for value in child[gene])
    assert seen == set(places)


def test_parents_are_the_best_of_a_tournament_among_the_youngest():
    config = dataclasses.replace(architecture_search.PRESETS["smoke"], alive=3, tournament=3, generation=20, evolved=20)
    rng = np.random.default_rng(0)
    space = architecture_search.space(config)
    history = [{"cell": cells.random_cell(space, rng), "reward": reward} for reward in (9, 1, 3, 2)]
    children = architecture_search.next_cells(config, "evolved", 0, history)
    for child in children:  # the best of the three youngest; the first is dead
        parent = history[2]["cell"]
        assert sum(child[gene] != parent[gene] for gene in parent) == 1
    assert len(children) == 20 and children == architecture_search.next_cells(config, "evolved", 0, history)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tournament": 0}, "tournament must be 1 or more; got 0"),
        ({"alive": 9}, "alive=9 is more than random=8"),
        ({"held_out": 1200}, "at most the 1437 training images"),
    ],
)
def test_bad_settings_of_the_architecture_search_are_refused(changes, message, tmp_path):
    config = dataclasses.replace(architecture_search.PRESETS["smoke"], **changes)
    with pytest.raises(ValueError, match=message):
        architecture_search.run(config, tmp_path)
