"""Metamers of invertible classifiers: exact, and judged by fresh heads on the nuisance."""

import jax
import numpy as np
import pytest

from experiments.excessive_invariance import classifiers, metamers


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_the_smoke_metamers_are_exact(smoke):
    measured = smoke.measured
    assert smoke.pictures == {"metamers-ce", "metamers-ice", "nuisance-readings"}
    for loss in classifiers.LOSSES:
        assert measured[f"{loss}: max logit error of the metamers, float32"] < 1e-3
        assert measured[f"{loss}: max logit error of the metamers, float64"] < 1e-9
        assert measured[f"{loss}: max round-trip error, float64"] < 1e-9


@pytest.mark.slow
def test_a_metamer_has_the_logits_of_the_first_image_and_the_nuisance_of_the_second():
    model = classifiers.revnet("digits", (1, 1))
    first, second = np.random.default_rng(0).random((2, 5, 8, 8, 1)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), first)
    numbers, arrays = metamers.exactness(model, params, first, second)
    assert max(numbers.values()) < 1e-4
    made, of_first, of_second = (jax.jit(model.encode)(params, x)[0] for x in (arrays["metamers"], first, second))
    np.testing.assert_allclose(made.logits, of_first.logits, atol=1e-4)
    np.testing.assert_allclose(made.nuisance, of_second.nuisance, atol=1e-4)
    np.testing.assert_allclose(arrays["logits"], of_first.logits, atol=1e-4)
    assert np.abs(of_first.logits - of_second.logits).max() > 0.1
