"""Exponents and accuracies of many random architectures."""

import numpy as np
import pytest

from experiments.intriguing_properties import random_architectures


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_the_random_architectures_measures_every_network(smoke):
    measured = smoke.measured
    assert measured["median clean accuracy"] > 60
    assert measured["step l.l. less FGSM: median difference of the exponents"] > 0.3
    for attack in random_architectures.ATTACKS:
        assert measured[f"{attack}: networks with a power law"] == 12
        assert -1 <= measured[f"{attack}: rank correlation of exponent and accuracy"] <= 1
    assert smoke.pictures == {"exponents"}
    assert len(list(smoke.folder.glob("trials/*seed=0/numbers.json"))) == 3  # two depths and the convolutional networks


def test_the_sample_covers_depths_and_widths_and_the_groups_hold_all_of_it():
    config = random_architectures.Config()
    connected, convolutional = random_architectures.sampled(config, 0)
    assert set(np.count_nonzero(connected.widths, 1)) == {1, 2, 3, 4}
    units = connected.widths[connected.widths > 0]
    assert 30 <= units.min() < 60 and 270 < units.max() <= 300
    assert connected.dropout.min() >= 0 and connected.dropout.max() <= 0.5
    assert convolutional.channels.min() >= 4 and convolutional.channels.max() <= 12
    assert (random_architectures.sampled(config, 1)[0].widths != connected.widths).any()
    groups = random_architectures.grouped(config, 0)
    ids = np.concatenate([rows for rows, _ in groups.values()])
    assert sorted(ids.tolist()) == list(range(config.connected + config.convolutional))
    for rows, members in groups.values():
        if rows[0] < config.connected:
            depth = members.widths.shape[1]
            np.testing.assert_array_equal(members.widths, connected.widths[rows, :depth])
            assert not connected.widths[rows, depth:].any()


def test_a_network_with_few_adversarial_examples_has_no_law():
    config = random_architectures.PRESETS["smoke"]
    radii = np.full(100, np.inf, np.float32)
    radii[:20] = np.linspace(0.01, 0.2, 20)
    assert random_architectures.law_of(config, 0, radii) is None
    radii[20] = 0.21
    assert random_architectures.law_of(config, 0, radii)["count"] == 20


def test_radii_at_the_resolution_of_the_bisection_count_as_unresolved():
    config = random_architectures.Config()
    floor = np.float32(config.largest[0]) / config.points / 2**config.bisections
    radii = np.concatenate([np.full(10, floor), np.linspace(0.001, 0.1, 990)]).astype(np.float32)
    law = random_architectures.law_of(config, 0, radii)
    assert law["count"] == 20
    # ten of the twenty are resolved: the asymptotic interval is that of ten
    assert (law["high"] - law["exponent"]) / law["exponent"] == pytest.approx(1.96 / np.sqrt(10), rel=1e-3)


def test_the_rows_count_only_networks_with_a_law_and_correlate_depth_where_there_is_one():
    def network(exponent, depth, has_law=True):
        law = {"exponent": exponent, "low": exponent - 0.1, "high": exponent + 0.1} if has_law else None
        shape = {"hidden layers": depth} if depth else {}
        laws = dict.fromkeys(random_architectures.ATTACKS, law)
        return {"accuracy": exponent / 2, "parameters": 5, "dropout": 0.1 * exponent, "laws": laws} | shape

    among = [network(0.8, 3), network(1.0, 2), network(1.15, 1), network(1.4, None), network(9.0, 1, has_law=False)]
    rows = {row.name: row for row in random_architectures.rows_of(random_architectures.Config(), among)}
    assert rows["FGSM: networks with a power law"].measured == 4
    assert rows["FGSM: exponents within 0.9 to 1.1"].measured == 25
    assert rows["FGSM: 95 % intervals that meet 0.9 to 1.1"].measured == 75
    assert rows["FGSM: median exponent"].measured == pytest.approx(1.075)
    assert rows["L2: rank correlation of exponent and accuracy"].measured == pytest.approx(1)
    depth = rows["FGSM: rank correlation of exponent and hidden layers"]
    assert depth.measured == pytest.approx(-1) and depth.differs == "3 networks"
    assert "FGSM: rank correlation of exponent and parameters" not in rows  # they are constant
