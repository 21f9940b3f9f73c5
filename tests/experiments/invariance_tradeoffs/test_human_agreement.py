"""Agreement of networks with people on images of changed meaning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.invariance_tradeoffs import human_agreement, pretrained, robust_networks
from invjax.data import HumanLabelled, as_float
from invjax.evaluation import wilson
from invjax.models import l0_sparse, largest_frequencies


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_human_agreement_runs_with_published_networks(smoke):
    table = smoke.table
    # Schott et al.'s plain CNN: 71, 14, 43 and 48 %; nothing lies outside of a ball that it does not have
    for name, count, total in (("l0", 39, 55), ("linf 0.3", 3, 21), ("linf 0.4", 16, 37), ("manual linf 0.4", 21, 44)):
        row = table[f"Schott et al., CNN: agrees with people, {name}"]
        assert row.measured == pytest.approx(100 * count / total)
        low, high = (100 * end for end in wilson(count, total))
        assert f"interval {low:.0f} to {high:.0f}, {total} images" in row.differs
    # stars mark images outside of the ball of linf 0.3, with the slack of one byte, or of l2 2
    linf, l2 = ("CNN, linf-PGD 0.3: agrees with people, ", "CNN, l2-PGD 2: agrees with people, ")
    assert f"{linf}linf 0.3" in table and {f"{linf}linf 0.4*", f"{linf}l0*", f"{l2}linf 0.3*"} <= table.keys()
    assert table[f"{linf}l0*"].published == 56 and table[f"{l2}linf 0.4*"].published == 19
    assert table["Wong & Kolter, linf 0.1: clean accuracy"].measured > 95
    # networks without gradients have no l0 attack; the table states the steps and images of each attack
    assert not any("binary CNN: accuracy under" in name for name in table)
    assert not any("Binary-ABS: accuracy under" in name for name in table)
    assert table["Schott et al., ABS: accuracy under l0 25"].differs == "PGD of 3 steps on 8 images"
    assert table["Schott et al., ABS: clean accuracy"].differs == "as released; 64 test images"
    assert table["Schott et al., ABS: clean accuracy"].measured > 90  # the smoke run has few draws and steps
    assert table["Schott et al., ABS: agrees with people, l0"].published == 58
    assert table["Schott et al., Binary-ABS: agrees with people, linf 0.4"].published == 8
    # the l0-sparse defence withstands fewer changed pixels than people
    assert table["CNN, l0-sparse: agrees with people, linf 0.3*"].published == 19
    assert "80 frequencies and 10 outliers; 128 test images" in table["CNN, l0-sparse: clean accuracy"].differs
    assert 0 <= table["ResNet: accuracy under l0 25"].measured <= table["ResNet: clean accuracy"].measured + 20
    assert smoke.pictures == {"agreement"}


def moved(by, labels, human):
    """Images of one gray, away from black originals by as much as `by` says."""
    images = np.ones((len(by), 28, 28, 1), np.float32) * np.float32(by)[:, None, None, None]
    labels, human = np.int32(labels), np.int32(human)
    return HumanLabelled(images, human, 0 * images, labels, np.arange(len(by), dtype=np.int32), "linf", 0.3)


def test_images_outside_the_ball_are_counted_beyond_rounding():
    of_set = moved([0.3, 0.3 + 0.9 / 255, 0.31, 0.9], labels=[0, 0, 0, 3], human=[1, 1, 1, 3])
    assert human_agreement.outside(of_set, None) == 0
    assert human_agreement.outside(of_set, ("linf", 0.3)) == pytest.approx(1 / 3)  # the last image keeps its class
    assert human_agreement.outside(of_set, ("l2", 0.3 * 28 + 1)) == 0
    assert human_agreement.outside(of_set, ("l2", 0.3 * 28 - 1)) == 1
    assert human_agreement.outside(of_set, ("l0", 784)) == 0
    assert human_agreement.outside(of_set, ("l0", 783)) == 1


def bright_or_dark(offset, x):
    """Bright against dark, eight classes that are never seen: an image falls if its mean can be brought below 1/2."""
    bright = 4 * (x.mean((1, 2, 3)) - 0.5) + offset
    return bright[:, None] * jnp.array([[1.0, -1.0] + 8 * [0.0]]) - jnp.array([[0.0, 0.0] + 8 * [9.0]])


def grays():
    return np.ones((8, 6, 6, 1), np.float32) * np.linspace(0.52, 0.98, 8, dtype=np.float32)[:, None, None, None]


NETWORKS = {  # has gradients, searches
    "plain": (True, False), "searches": (True, True), "blind": (False, False), "blind and searches": (False, True)
}  # fmt: skip
WEAK = "random search of {} queries, a weak attack, on 8 images"
ATTACKS = {
    ("plain", "linf 0.3"): "the standard ensemble on 8 images",
    ("plain", "l2 2"): "the standard ensemble on 8 images",
    ("plain", "l0 25"): "PGD of 5 steps on 8 images",
    ("searches", "linf 0.3"): "PGD of 20 steps on 8 images",
    ("searches", "l2 2"): "PGD of 20 steps on 8 images",
    ("blind", "l2 2"): WEAK.format(150),
    ("blind and searches", "linf 0.3"): WEAK.format(100),
    ("blind and searches", "l0 25"): None,
    ("blind", "l0 25"): None,
}


@pytest.mark.slow
@pytest.mark.parametrize("net, ball", ATTACKS)
def test_the_attack_suits_the_network_and_finds_the_adversarial_examples(net, ball):
    has_gradients, searches = NETWORKS[net]
    smoke, queries = human_agreement.PRESETS["smoke"], (5, 20) if has_gradients else (150, 100)
    config = dataclasses.replace(smoke, attack_steps=5, queries=queries[0], search_queries=queries[1])
    behind = pretrained.Pretrained(bright_or_dark, np.float32(0), None, has_gradients, searches)
    bytes_of = np.round(255 * grays()).astype(np.uint8)
    found = human_agreement.under_attack(config, behind, ball, (as_float(bytes_of), np.zeros(8, np.int32)), 0)
    if ATTACKS[net, ball] is None:
        assert found is None
        return
    assert found["attack"] == ATTACKS[net, ball]
    reach = {"linf 0.3": 0.3, "l2 2": 1 / 3, "l0 25": 1.0}[ball]  # how far the mean of 36 pixels can be lowered
    fall = float((bytes_of[:, 0, 0, 0] / 255 - 0.5 < reach).mean())
    assert found["accuracy"] == 1 - fall if has_gradients else 1 - fall <= found["accuracy"] <= 1 - fall / 2


@pytest.mark.slow
def test_networks_behind_the_l0_sparse_defence_train_on_few_frequencies(monkeypatch, tmp_path):
    config = dataclasses.replace(human_agreement.PRESETS["smoke"], frequencies=7, outliers=3)
    net, x = robust_networks.network("small CNN"), np.random.default_rng(0).uniform(size=(2, 28, 28, 1))
    x = jnp.asarray(x, jnp.float32)
    params, trained_with = net.init(jax.random.key(0), x), {}

    def train(config, name, attack, eps, *, prepare, **rest):
        trained_with.update(name=name, attack=attack, prepare=prepare)
        return params

    monkeypatch.setattr(robust_networks, "train", train)
    behind = human_agreement.trained(config, "CNN, l0-sparse", None, 0, tmp_path)
    assert trained_with["name"] == "small CNN" and trained_with["attack"] is None and behind.ball == ("l0", 3)
    np.testing.assert_allclose(trained_with["prepare"](None, x), largest_frequencies(x, 7), atol=1e-6)
    np.testing.assert_allclose(behind.apply(params, x), l0_sparse(net, 7, 3).apply(params, x), rtol=1e-5)


def test_released_networks_without_files_are_left_out_and_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(robust_networks, "datasets", lambda config: "data")
    smoke = human_agreement.PRESETS["smoke"]
    config = dataclasses.replace(smoke, data=dataclasses.replace(smoke.data, data_dir=str(tmp_path)))
    ours = len(human_agreement.TRAINED)
    assert len(human_agreement.trials(config)) == ours and human_agreement.datasets(config) == ("data", {})
    assert capsys.readouterr().out.count("\n") == 1
    (tmp_path / "pretrained" / "abs").mkdir(parents=True)
    (tmp_path / "pretrained" / "abs" / "binary_cnn.npz").touch()
    names = [place["network"] for place in human_agreement.trials(config)]
    assert names[ours:] == ["Schott-et-al.-binary-CNN"]
    shown = capsys.readouterr().out
    assert "left out, because their files were not found: Schott-et-al.-CNN, " in shown and "binary-CNN" not in shown
    without = dataclasses.replace(config, released=())
    assert human_agreement.datasets(without) == ("data", {}) and len(human_agreement.trials(without)) == ours
    assert not capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="has none of"):
        human_agreement.trials(dataclasses.replace(config, pretrained_dir=str(tmp_path)))
    with pytest.raises(ValueError, match=r"released must be of Schott-et-al\.-CNN, .*; got CNN"):
        human_agreement.trials(dataclasses.replace(config, released=("CNN",)))


def test_a_complete_folder_gives_all_released_networks(shared_data, capsys):
    smoke = human_agreement.PRESETS["smoke"]
    config = dataclasses.replace(smoke, data=dataclasses.replace(smoke.data, data_dir=str(shared_data)))
    assert len(human_agreement.trials(config)) == len(human_agreement.NAMES) and not capsys.readouterr().out


def test_unknown_attacks_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        common.main(human_agreement.EXPERIMENT, ["smoke", "--attacked", "l1 8", "--out", str(tmp_path)])
    assert "l1 8" in capsys.readouterr().err
