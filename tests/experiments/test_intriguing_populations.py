"""The experiments on many architectures: their smoke presets, their samples, and that a killed search goes on."""

import dataclasses

import numpy as np
import pytest

from experiments import common
from experiments.intriguing_properties import architecture_search, cells, populations, random_architectures
from invjax.data import Dataset


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_a_smoke_run_of_the_random_architectures_measures_every_network(tmp_path, monkeypatch):
    rows = common.main(random_architectures.EXPERIMENT, ["smoke", "--out", str(tmp_path)])
    measured = {row.name: row.measured for row in rows}
    assert measured["median clean accuracy"] > 60
    assert measured["step l.l. less FGSM: median difference of the exponents"] > 0.3
    for attack in random_architectures.ATTACKS:
        assert measured[f"{attack}: networks with a power law"] == 16
        assert -1 <= measured[f"{attack}: rank correlation of exponent and accuracy"] <= 1
    assert min(png_size(tmp_path / "figures" / "exponents.png")) > 300
    # killed in a group: the others are kept, and it comes out as it was
    groups = sorted(path.parent for path in tmp_path.glob("*/numbers.json"))
    (groups[0] / "numbers.json").unlink()
    whole = random_architectures.one_group
    trained = []
    monkeypatch.setattr(
        random_architectures,
        "one_group",
        lambda config, data, name, *rest: trained.append(name) or whole(config, data, name, *rest),
    )
    again = common.main(random_architectures.EXPERIMENT, ["smoke", "--out", str(tmp_path)])
    assert trained == [groups[0].name] and again == rows


def test_the_sample_covers_depths_and_widths_and_the_groups_hold_all_of_it():
    config = random_architectures.PRESETS["default"]
    connected, convolutional = random_architectures.sampled(config)
    assert set(np.count_nonzero(connected.widths, 1)) == {1, 2, 3, 4}
    units = connected.widths[connected.widths > 0]
    assert 30 <= units.min() < 60 and 270 < units.max() <= 300
    assert connected.dropout.min() >= 0 and connected.dropout.max() <= 0.5
    assert convolutional.channels.min() >= 4 and convolutional.channels.max() <= 12
    groups = random_architectures.grouped(config)
    ids = np.concatenate([rows for rows, _ in groups.values()])
    assert sorted(ids.tolist()) == list(range(config.connected + config.convolutional))
    for rows, members in groups.values():
        if rows[0] < config.connected:
            depth = members.widths.shape[1]
            np.testing.assert_array_equal(members.widths, connected.widths[rows, :depth])
            assert not connected.widths[rows, depth:].any()


def test_a_network_that_few_images_leave_has_no_law():
    config = random_architectures.PRESETS["smoke"]
    radii = np.full(100, np.inf, np.float32)
    radii[:20] = np.linspace(0.01, 0.2, 20)
    assert random_architectures.law_of(config, 0, radii) is None
    radii[20] = 0.21
    assert random_architectures.law_of(config, 0, radii)["count"] == 20


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    a, b = np.random.default_rng(0).integers(0, 9, (2, 30))
    assert populations.rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert populations.rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert populations.rank_correlation([1, 2], [1, 2]) is None


@pytest.fixture(scope="module")
def whole_search(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return folder, common.main(architecture_search.EXPERIMENT, ["smoke", "--out", str(folder)])


def test_a_smoke_run_of_the_search_leaves_its_table_and_its_scatter(whole_search):
    folder, rows = whole_search
    measured = {row.name: row.measured for row in rows}
    assert -1 <= measured["rank correlation of FGSM accuracy and number of parameters, all children"] <= 1
    for by in ("FGSM accuracy", "clean accuracy"):
        clean, weak, strong = (
            measured[f"best cell by {by}, enlarged: {what}"]
            for what in ("clean accuracy", "accuracy under FGSM, eps = 0.1", "accuracy under PGD, eps = 0.1")
        )
        assert strong <= weak + 3 and weak <= clean and clean > 50
    assert min(png_size(folder / "figures" / "cells.png")) > 300


def test_a_search_that_is_killed_goes_on_to_the_same_result(whole_search, tmp_path, monkeypatch):
    _, rows = whole_search
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
def test_a_search_that_cannot_be_is_refused(changes, message, tmp_path):
    config = dataclasses.replace(architecture_search.PRESETS["smoke"], **changes)
    with pytest.raises(ValueError, match=message):
        architecture_search.run(config, tmp_path)


def test_equal_batches_hold_all_images_and_awkward_numbers_are_refused():
    images = (np.arange(1103 * 4) % 256).astype(np.uint8).reshape(-1, 2, 2, 1)
    data = Dataset(images, (np.arange(1103) % 10).astype(np.int32), 10, 256)
    images, labels = populations.in_batches(data, slice(-600, None))
    assert images.shape == (2, 300, 2, 2, 1) and images.max() <= 1
    np.testing.assert_array_equal(labels.reshape(-1), data.labels[-600:])
    with pytest.raises(ValueError, match=r"1103 images fall into equal batches of at most 500 only by 1 each.*1100"):
        populations.in_batches(data, slice(None))


def test_what_bisection_cannot_tell_from_zero_counts_as_unresolved():
    config = random_architectures.PRESETS["default"]
    floor = np.float32(config.largest[0]) / config.points / 2**config.bisections
    radii = np.concatenate([np.full(10, floor), np.linspace(0.001, 0.1, 990)]).astype(np.float32)
    law = random_architectures.law_of(config, 0, radii)
    assert law["count"] == 20
    # ten of the twenty are resolved: the asymptotic interval is that of ten
    assert (law["high"] - law["exponent"]) / law["exponent"] == pytest.approx(1.96 / np.sqrt(10), rel=1e-3)
