"""Robust and non-robust data sets, and what is learnt from them."""

import dataclasses

import numpy as np
import pytest

from experiments.features_not_bugs import networks, robust_dataset
from invjax import features


@pytest.fixture(scope="module", autouse=True)
def attacked_images():
    """`(images, found)` of each call of `robust_accuracy` in the smoke run."""
    measure, seen = networks.robust_accuracy, []

    def watched(config, params, data, epsilons, **options):
        found = measure(config, params, data, epsilons, **options)
        seen.append((data[0], found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "robust_accuracy", watched)
        yield seen


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_networks_learn_from_rebuilt_images(smoke, attacked_images):
    measured = smoke.measured
    robust = measured["model robust: accuracy under PGD, eps 0.6"]
    assert robust > 10 + measured["model standard: accuracy under PGD, eps 0.6"]
    for arm in ("D_R", "D_NR"):
        assert measured[f"trained on {arm}: accuracy"] > 50
        assert measured[f"{arm}: distance of the representations, median"] < 0.4
    assert measured["trained on D_R from noise: accuracy"] > 50
    attacked = {arm: measured[f"trained on {arm} from noise: accuracy under PGD, eps 0.6"] for arm in ("D_R", "D_NR")}
    assert attacked["D_R"] > attacked["D_NR"]
    gained = measured["robust accuracy gained by training on D_R instead of D, PGD, eps 0.6"]
    own = measured["trained on D_R: accuracy under PGD, eps 0.6"]
    assert gained == pytest.approx(own - measured["model standard: accuracy under PGD, eps 0.6"])
    split, trials = "trained on D_R: accuracy under PGD, eps 0.6, {}", smoke.folder / "trials"
    assert measured[split.format("original test images")] == own
    for part, file in (("training", "data"), ("test", "test")):
        images = features.load(trials / "arm=D_R,seed=0" / f"{file}.npz").images
        found = [found["PGD"] for attacked, found in attacked_images if np.array_equal(attacked, images)]
        assert found and all(100 * n == measured[split.format(f"D_R, {part} images")] for (n,) in found)
    for arm, source in (("D_R", "robust"), ("D_NR", "standard")):
        for start in ("", "-from-noise"):
            made = features.load(trials / f"arm={arm}{start},seed=0" / "data.npz")
            assert made.recipe["source"] == source and made.images.shape == (1024, 8, 8, 1)
    assert smoke.pictures == {"images", "accuracy"}


def test_only_the_chosen_starts_have_trials():
    arms = {
        starts: [place["arm"] for place in robust_dataset.trials(robust_dataset.Config(starts=starts, seeds=(0,)))]
        for starts in (("images",), ("noise",), ("noise", "images"))
    }
    assert arms["images",] == ["standard", "robust", "D_NR", "D_R"]
    assert arms["noise",] == ["standard", "robust", "D_NR from noise", "D_R from noise"]
    assert arms["noise", "images"] == list(robust_dataset.ARMS)


def test_the_papers_numbers_of_the_robust_data_set_stand_beside_their_radius(published_rows):
    def found_of(config):
        attacked = dict.fromkeys(("PGD", "ensemble"), [0.01] * len(config.epsilons))
        splits = dict.fromkeys(("D_R, training", "D_R, test", "original test"), 0.01)
        numbers = {"accuracy": 0.01, "attacked": attacked, "distance": 0.1, "splits": splits}
        return published_rows(robust_dataset, config, numbers)

    paper = robust_dataset.PRESETS["paper"]
    found = found_of(paper)
    assert found["robust accuracy gained by training on D_R instead of D, PGD, eps 0.25"] == pytest.approx(43.71)
    assert found["robust accuracy gained by training on D_R instead of D, PGD, eps 0.5"] == pytest.approx(21.85)
    assert found["model standard: accuracy"] == 95.25 and found["model robust: accuracy"] == 90.83
    assert found["model robust: accuracy under PGD, eps 0.25"] == 82.48
    assert found["model robust: accuracy under PGD, eps 0.5"] == 70.9
    assert found["trained on D_R from noise: accuracy under PGD, eps 0.25"] == 48.27
    assert found["trained on D_NR from noise: accuracy"] == 45.6
    assert found["trained on D_R: accuracy under PGD, eps 0.25, D_R, test images"] == 62.49
    assert len(found) == 2 + 18 + 3
    found = found_of(dataclasses.replace(paper, epsilons=(0.5, 0.75)))
    assert len(found) == 1 + 12 and found["model standard: accuracy under PGD, eps 0.5"] == 0
    for data in (networks.Data("cifar10", planted=1.0), networks.Data("mnist")):
        assert not found_of(dataclasses.replace(paper, data=data))
