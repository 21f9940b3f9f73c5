"""Attacks and bounds take examples of any shape: rows of a table, sequences and videos as well as images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax import attacks, bounds, evaluation
from invjax.attacks import l0, l1, l2, linf

KEY, COUNT, CLASSES = jax.random.key(0), 8, 2
SHAPES = {"table": (6,), "sequence": (4, 2), "video": (2, 4, 4, 1)}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
ATTACKS = {  # name: (attack, radius within which a linear model always errs)
    "pgd linf": (attacks.pgd(linf(), steps=5), 0.3),
    "pgd l2": (attacks.pgd(l2(), steps=5), 1.5),
    "pgd l1": (attacks.pgd(l1(fraction=0.3), steps=8), 4.0),
    "pgd l0": (attacks.pgd(l0(), steps=5), 4),
    "apgd linf": (attacks.apgd(linf(), steps=5), 0.3),
    "apgd l1": (attacks.apgd(l1(), steps=8), 4.0),
    "fab l2": (attacks.fab(l2(), steps=4, targets=1), 1.5),
    "smallest": (attacks.smallest(attacks.fgsm(linf()), steps=4), 0.3),
    "restarts": (attacks.restarts(attacks.pgd(linf(), steps=2), 2), 0.3),
    "autoattack l2": (attacks.autoattack(l2(), num_classes=CLASSES, steps=4, queries=10), 1.5),
    "autoattack l1": (attacks.autoattack(l1(), num_classes=CLASSES, steps=4, queries=10), 4.0),
}


def problem(shape):
    """A linear model, and images whose linf distance from its boundary is about 0.02."""
    rng = np.random.default_rng(1)
    w = rng.choice([-1.0, 1.0], int(np.prod(shape))) * rng.uniform(0.5, 1, int(np.prod(shape)))
    x = rng.uniform(0.3, 0.7, (COUNT, w.size))
    side = rng.choice([-1.0, 1.0], COUNT)
    x += ((0.02 * np.abs(w).sum() * side - (x - 0.5) @ w) / (w**2).sum())[:, None] * w[None]
    w = jnp.asarray(w, jnp.float32)

    def apply_fn(scale, x):
        z = scale * (x - 0.5).reshape(len(x), -1) @ w
        return jnp.stack([-z, z], 1)

    return apply_fn, x.astype(np.float32).clip(0, 1).reshape(COUNT, *shape), (side > 0).astype(np.int32)


@pytest.mark.slow
@every_shape
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_take_examples_of_any_shape(name, shape):
    (attack, eps), (apply_fn, x, labels) = ATTACKS[name], problem(shape)
    found = attacks.jit_attack(attack, apply_fn)(KEY, 1.0, x, labels, eps=eps)
    assert found.x.shape == x.shape and found.success.all()
    assert (np.asarray(found.distance) <= eps * (1 + 1e-5)).all()


@pytest.mark.slow
def test_all_stages_of_the_benchmark_run_on_rows_of_a_table():
    apply_fn, x, labels = problem(SHAPES["table"])
    stages = attacks.autoattack_stages(linf(), num_classes=CLASSES, steps=2, queries=20)
    assert [stage.name for stage in stages] == ["apgd-ce", "fab-t", "square"]
    options = evaluation.Options(batch_size=8)
    for eps, chosen in ((0.015, stages), (0.1, stages[-1:])):  # within the distance of the boundary, and beyond it
        found = evaluation.benchmark(
            KEY, apply_fn, 1.0, x, labels, threat=linf(), eps=eps, stages=chosen, options=options
        )
        assert found.clean_accuracy == 1 and (found.robust_accuracy == 1) == (eps < 0.02)


@pytest.mark.slow
@every_shape
def test_bounds_of_a_linear_model_are_exact_for_any_shape(shape):
    """The margin falls by the radius times the dual norm of the weights; smoothing gives each row its label."""
    apply_fn, x, labels = problem(shape)
    model = partial(apply_fn, 1.0)
    w = np.asarray(jax.vmap(jax.grad(lambda x: model(x[None])[0, 1]))(x), np.float64)[0]
    margin = 2 * 0.02 * np.abs(w).sum()
    dual = {bounds.linf_box: np.abs(w).sum(), bounds.l2_ball: np.sqrt((w**2).sum())}
    for around, norm in dual.items():
        found = jax.jit(lambda region: bounds.margins(model, region, labels, method="crown-ibp"))(around(x, 0.01))
        np.testing.assert_allclose(found[:, 0], margin - 2 * 0.01 * norm, rtol=1e-3)
    smooth = bounds.smoothed(KEY, jax.jit(model), x, sigma=1e-3, trials=20, selection=5)
    np.testing.assert_array_equal(smooth.label, labels)
