"""Metamers of invertible classifiers: exact, and judged by fresh heads on the nuisance."""

import dataclasses

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


def test_pairs_are_of_different_classes_and_go_through_all_of_them():
    labels = np.random.default_rng(0).integers(0, 10, 500)
    first, second = metamers.pair_up(labels, 40)
    assert (labels[first] != labels[second]).all()
    assert labels[first[:10]].tolist() == list(range(10))
    assert len(set(first.tolist())) == 40


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gradient-reversal", "alternating"])
def test_both_forms_of_ice_give_a_training_step_that_starts_and_moves(form):
    import jax
    import jax.numpy as jnp

    config = dataclasses.replace(metamers.PRESETS["smoke"], form=form, blocks=(1, 1))
    model = classifiers.model_for(config)
    step, start = map(jax.jit, classifiers.training_for(config, "iCE", levels=17, num_steps=10))
    images = np.random.default_rng(0).integers(0, 17, (16, 8, 8, 1), np.uint8)
    key = jax.random.key(0)
    state = start(key, jax.jit(model.init)(key, jnp.asarray(images / 16, jnp.float32)))
    after, metrics = step(step(state, (images, np.arange(16) % 10))[0], (images, np.arange(16) % 10))
    assert int(after.step) == 2 and np.isfinite(float(metrics["loss"]))
    for player in ("model", "critic"):
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.params[player], after.params[player])
        assert max(map(float, jax.tree.leaves(moved))) > 0
