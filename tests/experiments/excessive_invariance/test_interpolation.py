"""Images on the way between two codes."""

import json

import numpy as np
import pytest

from experiments.excessive_invariance import interpolation


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_of_the_interpolation_leaves_its_curves_and_figures(smoke):
    measured = smoke.measured
    for loss in interpolation.ARMS:
        assert measured[f"{loss}: max change of a logit on the way, float32"] < 1e-3
        for t in ("0.5", "1, the metamers"):
            shares = [
                measured[f"{loss}: judged to be the class of {which}, t = {t}"]
                for which in ("a (logits)", "b (nuisance)")
            ]
            assert min(shares) >= 0 and sum(shares) <= 100
    pictures = {"interpolation-ce", "interpolation-ice", "interpolation-ice-in-closed-form", "judged"}
    assert smoke.pictures == pictures
    numbers = json.loads((smoke.folder / "seed0" / "numbers.json").read_text())
    for loss in interpolation.ARMS:
        assert np.allclose(np.sum([numbers[loss][which] for which in ("a", "b", "neither")], axis=0), 1)
