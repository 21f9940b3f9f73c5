"""Images on the way between two codes."""

import json

import jax
import numpy as np
import pytest

from experiments.excessive_invariance import classifiers, interpolation
from invjax.attacks import metamers


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_the_interpolation_leaves_its_curves_and_figures(smoke):
    measured = smoke.measured
    for arm in interpolation.ARMS:
        assert measured[f"{arm}: max change of a logit on the way, float32"] < 1e-3
    pictures = {"interpolation-ce", "interpolation-ice", "interpolation-ice-in-closed-form", "judged"}
    assert smoke.pictures == pictures
    numbers = [json.loads(path.read_text()) for path in smoke.folder.glob("trials/*seed=0/numbers.json")]
    assert len(numbers) == 3 and len({n["judge_error"] for n in numbers}) == 1, "all arms of a seed share the judge"
    for n in numbers:
        np.testing.assert_allclose(np.sum([n[which] for which in interpolation.VERDICTS], axis=0), 1)


@pytest.mark.slow
def test_a_walk_starts_at_a_and_ends_at_its_metamer():
    model = classifiers.revnet("digits", (1, 1))
    a, b = np.random.default_rng(0).random((2, 5, 8, 8, 1)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), a)
    path, change = interpolation.walk(interpolation.PRESETS["smoke"], model, params, a, b)
    assert path.shape == (3, 5, 8, 8, 1) and change < 1e-4
    np.testing.assert_allclose(path[0], a, atol=1e-4)
    np.testing.assert_allclose(path[-1], jax.jit(lambda p: metamers(model, p, a, b))(params), atol=1e-4)
    assert np.abs(path[-1] - a).max() > 0.1
