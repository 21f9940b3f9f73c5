"""Linear response beside the true smallest perturbations."""

import dataclasses

import numpy as np
import pytest

from experiments import common
from experiments.intriguing_properties import linear_response


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_linear_response_runs(smoke):
    measured = smoke.measured
    assert measured["MLP: median of linear / true eps"] == pytest.approx(1, abs=0.1)
    assert measured["MLP: linear response names the class that crosses first"] > 90
    assert measured["MLP: linear: P(eps-hat < eps) over the smallest decade, mean relative error"] < 0.2
    assert smoke.pictures == {"epsilon-mlp", "logits-along-mlp"}


@pytest.mark.slow
def test_the_drawn_logits_start_with_the_label_and_cross_where_the_prediction_flips(smoke):
    arrays = np.load(smoke.folder / "trials/model=MLP,seed=0/arrays.npz")
    logits, labels, middle = arrays["line_logits"], arrays["line_labels"], arrays["line_logits"].shape[1] // 2
    assert (logits[:, 0].argmax(1) == labels).all() and (logits[:, middle + 5].argmax(1) != labels).all()
    first, second = np.sort(logits[:, middle], 1)[:, ::-1][:, :2].T
    np.testing.assert_allclose(first, second, atol=1e-3)
    np.testing.assert_allclose(arrays["line_eps"][:, middle], arrays["line_crossing"], rtol=1e-6)
    np.testing.assert_allclose(arrays["line_linear"][:, 0], logits[:, 0], atol=1e-5)


def test_the_fractions_below_eps_count_images_that_never_flip():
    eps = np.array([np.inf, 4.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(linear_response.share_below(eps, np.array([0.5, 1, 2.5, 100])), [0, 0.2, 0.4, 0.8])


@pytest.mark.parametrize(
    ("shift", "changes", "message"),
    [
        (1, {}, "MLP, seed 0, is wrong on all 50 images: train it longer"),
        (0, {"largest": 1e-6}, "MLP, seed 0: 0 of 50 predictions flip within largest=1e-06"),
    ],
)
def test_a_network_without_images_to_measure_is_refused(shift, changes, message, tmp_path, monkeypatch):
    config = dataclasses.replace(linear_response.PRESETS["smoke"], images=50, **changes)
    train, test = common.Data("digits").load()
    net, test = config.widths.network("MLP"), common.first(test, 50)
    params = net.init(common.split_key(0)[0], common.images_of(train, 1))
    monkeypatch.setattr(common, "trained", lambda *_, **options: params)
    labels = (common.logits_of(net.apply, params, common.images_of(test)).argmax(1) + shift) % 10
    with pytest.raises(ValueError, match=message):
        linear_response.trial(config, (train, test._replace(labels=labels)), model="MLP", seed=0, folder=tmp_path)
