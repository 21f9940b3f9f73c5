"""The search for cells: mutations, tournaments, a search that is killed and goes on, and accuracies under attack."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.intriguing_properties import cells, populations
from invjax.attacks import fgsm, linf
from invjax.models import MaskedNet

SMALL = cells.Search(layers=2, channels=(2, 4), random=5, evolved=4, generation=2, alive=3, tournament=2)


def size(cell):
    return sum(map(sum, cell.values()))


def children(born, arm, number):
    return [{"arm": arm, "cell": cell, "reward": size(cell)} for cell in born]


def test_a_child_differs_from_its_parent_in_one_gene_that_has_an_effect():
    space, rng = cells.Search().space(), np.random.default_rng(0)
    places = {place for place, values in space.items() if len(values) > 1}
    assert ("skip", 0) not in places and ("pooling", 2) not in places and len(places) == 3 * 5 - 2
    seen = set()
    for _ in range(300):
        parent = cells.random_cell(space, rng)
        child = cells.mutated(space, parent, rng)
        changed = [(gene, i) for gene in parent for i in range(3) if parent[gene][i] != child[gene][i]]
        assert len(changed) == 1
        seen.add(changed[0])
        assert all(child[gene][layer] in values for (gene, layer), values in space.items())
    assert seen == places


def test_parents_are_the_best_of_a_tournament_among_the_youngest():
    settings = dataclasses.replace(SMALL, alive=3, tournament=3, generation=20, evolved=20)
    rng = np.random.default_rng(0)
    history = [{"cell": cells.random_cell(settings.space(), rng), "reward": reward} for reward in (9, 1, 3, 2)]
    born = cells.next_cells(settings, 0, "evolved", 0, history)
    for child in born:  # the best of the three youngest; the first is dead
        parent = history[2]["cell"]
        assert sum(child[gene] != parent[gene] for gene in parent) == 1
    assert len(born) == 20 and born == cells.next_cells(settings, 0, "evolved", 0, history)
    assert born != cells.next_cells(settings, 1, "evolved", 0, history)


def test_the_evolution_starts_from_the_first_random_cells_and_has_the_wanted_number(tmp_path):
    found = cells.search(SMALL, 0, tmp_path, children)
    assert [child["arm"] for child in found] == ["random"] * 5 + ["evolved"] * 4
    alive = [child["cell"] for child in found[:3]]
    for child in found[5:7]:  # the first generation of the evolution
        differences = [sum(a != b for gene in cell for a, b in zip(cell[gene], child["cell"][gene], strict=True))
                       for cell in alive]  # fmt: skip
        assert min(differences) == 1


def test_a_search_that_is_killed_goes_on_to_the_same_result(tmp_path):
    whole = cells.search(SMALL, 0, tmp_path / "whole", children)
    done = []

    def until_killed(born, arm, number):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((arm, number))
        return children(born, arm, number)

    with pytest.raises(KeyboardInterrupt):
        cells.search(SMALL, 0, tmp_path / "killed", until_killed)
    again = []
    found = cells.search(SMALL, 0, tmp_path / "killed", lambda *args: again.append(args[1:]) or children(*args))
    assert found == whole
    assert done == [("random", 0), ("random", 1), ("random", 2)] and again == [("evolved", 0), ("evolved", 1)]


def test_accuracies_of_linear_networks_are_those_of_the_closed_form():
    net = MaskedNet(None, None, lambda params, architecture, x: jnp.stack([x @ params, -(x @ params)], -1))
    rng, eps = np.random.default_rng(0), 0.05
    weights, x = rng.normal(size=(2, 3)).astype(np.float32), rng.uniform(0.1, 0.9, (2, 20, 3)).astype(np.float32)
    labels = rng.integers(0, 2, (2, 20)).astype(np.int32)
    margin = (1 - 2 * labels) * np.einsum("nbi,pi->pnb", x, weights)
    trained = jnp.asarray(weights), (jnp.zeros(2), jnp.zeros(2))
    found = populations.judge(net, {"FGSM": fgsm(linf())}, eps)(trained, x, labels, jax.random.key(0))
    np.testing.assert_allclose(found["clean"], (margin > 0).mean((1, 2)), rtol=1e-6)
    standing = margin > eps * np.abs(weights).sum(1)[:, None, None]
    np.testing.assert_allclose(found["FGSM"], standing.mean((1, 2)), rtol=1e-6)
    assert (found["FGSM"] < found["clean"]).any()
