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
def test_a_smoke_run_of_the_robust_data_set_makes_all_of_them_and_resumes(smoke, attacked_images):
    measured = smoke.measured
    assert (
        measured["model robust: accuracy under PGD, eps 0.6"]
        > 10 + (measured["model standard: accuracy under PGD, eps 0.6"])
    )
    for arm in ("D_R", "D_NR"):
        assert measured[f"trained on {arm}: accuracy"] > 50
        assert measured[f"{arm}: distance of the representations, median"] < 0.4
    assert measured["trained on D_R from noise: accuracy"] > 50
    attacked = {arm: measured[f"trained on {arm} from noise: accuracy under PGD, eps 0.6"] for arm in ("D_R", "D_NR")}
    assert attacked["D_R"] > attacked["D_NR"]
    gained = measured["robust accuracy gained by training on D_R instead of D, PGD, eps 0.6"]
    own = measured["trained on D_R: accuracy under PGD, eps 0.6"]
    assert gained == pytest.approx(own - measured["model standard: accuracy under PGD, eps 0.6"])
    split = "trained on D_R: accuracy under PGD, eps 0.6, {}"
    assert measured[split.format("original test images")] == own
    for part, file in (("training", "data"), ("test", "test")):
        images = features.load(smoke.folder / "seed0" / "D_R" / f"{file}.npz").images
        (found,) = (found for attacked, found in attacked_images if np.array_equal(attacked, images))
        assert found["PGD"] == [measured[split.format(f"D_R, {part} images")]]
    for name in ("images", "accuracy"):
        assert (smoke.folder / "figures" / f"{name}.png").stat().st_size > 5000
    made = features.load(smoke.folder / "seed0" / "D_R" / "data.npz")
    assert made.recipe["source"] == "robust" and made.images.shape == (1024, 8, 8, 1)


def published(experiment, config, numbers):
    return {row.name: row.published for row in experiment.rows(config, [numbers]) if row.published is not None}


def of_the_robust_data_set(config):
    arms = robust_dataset.PUBLISHED
    attacked = {"PGD": [1.0] * len(config.epsilons), "ensemble": [1.0] * len(config.epsilons)}
    return {
        "clean": dict.fromkeys(arms, 1.0),
        "attacked": {arm: attacked for arm in arms},
        "distance": {},
        "splits": dict.fromkeys(robust_dataset.PUBLISHED_SPLITS[0.25], 1.0),
    }


def test_the_papers_numbers_of_the_robust_data_set_stand_beside_their_radius():
    paper = robust_dataset.PRESETS["paper"]
    found = published(robust_dataset, paper, of_the_robust_data_set(paper))
    assert found["robust accuracy gained by training on D_R instead of D, PGD, eps 0.25"] == pytest.approx(43.71)
    assert found["robust accuracy gained by training on D_R instead of D, PGD, eps 0.5"] == pytest.approx(21.85)
    assert found["model standard: accuracy"] == 95.25 and found["model robust: accuracy"] == 90.83
    assert found["model robust: accuracy under PGD, eps 0.25"] == 82.48
    assert found["model robust: accuracy under PGD, eps 0.5"] == 70.9
    assert found["trained on D_R from noise: accuracy under PGD, eps 0.25"] == 48.27
    assert found["trained on D_NR from noise: accuracy"] == 45.6
    assert found["trained on D_R: accuracy under PGD, eps 0.25, D_R, test images"] == 62.49
    assert len(found) == 2 + 18 + 3
    half = dataclasses.replace(paper, epsilons=(0.5, 0.75))
    found = published(robust_dataset, half, of_the_robust_data_set(half))
    assert len(found) == 1 + 12 and found["model standard: accuracy under PGD, eps 0.5"] == 0
    for changes in ({"planted": 1.0}, {"dataset": "mnist"}):
        assert not published(robust_dataset, dataclasses.replace(paper, **changes), of_the_robust_data_set(paper))
