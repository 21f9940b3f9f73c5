"""AutoAttack: its published stages, and one attack that breaks what the benchmark of a data set breaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.attacks import autoattack, autoattack_stages, jit_attack, l0, l1, l2, linf
from invjax.evaluation import Options, benchmark

KEY = jax.random.key(5)


FOUR = [("apgd-ce", 1), ("apgd-t", 9), ("fab-t", 9), ("square", 1)]


@pytest.mark.parametrize(
    ("threat", "classes", "expected"),
    [
        (linf(), 10, FOUR),
        (l2(), 1000, FOUR),
        (linf(), 4, [("apgd-ce", 1), ("apgd-t", 3), ("fab-t", 3), ("square", 1)]),
        (l1(), 10, [("apgd-ce", 5), ("apgd-t", 5), ("fab-t", 9), ("square", 1)]),
        (l1(), 5, [("apgd-ce", 5), ("apgd-t", 4), ("fab-t", 4), ("square", 1)]),
        (l2(), 3, [("apgd-ce", 1), ("fab-t", 2), ("square", 1)]),
        (linf(), 2, [("apgd-ce", 1), ("fab-t", 1), ("square", 1)]),
    ],
    ids=["linf", "l2", "linf-4", "l1", "l1-5", "l2-3", "linf-2"],
)
def test_the_stages_are_those_of_the_published_ensemble(threat, classes, expected):
    assert [(stage.name, stage.ranks) for stage in autoattack_stages(threat, num_classes=classes)] == expected


def test_a_threat_that_is_not_a_norm_is_refused():
    with pytest.raises(ValueError, match="AutoAttack does not support the threat 'l0'; it supports 'linf', 'l2', 'l1'"):
        autoattack_stages(l0(), num_classes=10)
    with pytest.raises(ValueError, match="num_classes must be at least 2; got num_classes=1"):
        autoattack(linf(), num_classes=1)


def apply_fn(params, x):
    return jnp.tanh(4 * (x.reshape(len(x), -1) - 0.5) @ params["hidden"]) @ params["out"]


@pytest.mark.slow
def test_one_attack_and_the_benchmark_break_the_same_images_with_the_same_examples():
    rng, count, eps = np.random.default_rng(4), 24, 0.02
    params = {
        "hidden": rng.normal(size=(16, 12)).astype(np.float32),
        "out": rng.normal(size=(12, 4)).astype(np.float32),
    }
    images = rng.random((count, 4, 4, 1)).astype(np.float32)
    labels = np.asarray(apply_fn(params, images)).argmax(1).astype(np.int32)
    settings = {"num_classes": 4, "steps": 2, "queries": 4}
    stages, attack = autoattack_stages(linf(), **settings), autoattack(linf(), **settings)
    options = Options(batch_size=count)
    whole = benchmark(KEY, apply_fn, params, images, labels, threat=linf(), eps=eps, stages=stages, options=options)
    single = jit_attack(attack, apply_fn)(KEY, params, images, labels, eps=eps, ids=np.arange(count, dtype=np.uint32))
    assert len(set(whole.broken_by.tolist())) > 2  # several stages break images, and some images are robust
    np.testing.assert_array_equal(single.success, whole.broken)
    np.testing.assert_allclose(np.asarray(single.x)[whole.broken], whole.x[whole.broken], atol=1e-6)
    np.testing.assert_allclose(np.asarray(single.distance)[whole.broken], whole.distance[whole.broken], atol=1e-6)
    assert attack.recipe == "autoattack(linf, num_classes=4, steps=2, queries=4)" and not attack.targeted


def test_stages_for_another_number_of_classes_are_refused():
    w = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    x = np.random.default_rng(1).uniform(size=(4, 4, 4, 1)).astype(np.float32)
    model = lambda w, x: x.reshape(len(x), -1) @ w  # noqa: E731
    stages = autoattack_stages(linf(), num_classes=2, steps=1, queries=1)
    with pytest.raises(ValueError, match="was made for num_classes=2, but the model has 5 logits"):
        benchmark(jax.random.key(0), model, w, x, model(w, x).argmax(1), threat=linf(), eps=0.1, stages=stages)
