"""Every function of a batch works under the strict settings of JAX and with models, images and labels of every kind.

The fast tier traces some functions, which finds operations that refuse their arguments; the slow tier runs all.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invjax import analysis, attacks, evaluation, training
from invjax.attacks import jit_attack, pgd
from invjax.data import batches
from tests.contracts.functions import ATTACKS, CLASSES, FUNCTIONS, KEY, ONLY_IMAGES, logits, of_weights, problem

KINDS = {
    "images": ((4, 4, 1), 5, 2, np.float32),
    "bfloat16": ((4, 4, 1), 5, 2, jnp.bfloat16),
    "float16": ((4, 4, 1), 5, 2, np.float16),
    "features, 2 classes": ((4,), 2, 4, np.float32),
    "series, 1000 classes": ((3, 2), 1000, 2, np.float32),
    "batch 1": ((4, 4, 1), 5, 1, np.float32),
}
"""Kinds of data: the shape of an example, the number of classes, the batch and the dtype."""

FAST = [
    (name, kind)
    for name in ("apgd-l1", "fab-l2", "square-linf", "smallest", "margins-crown-box", "gamma")
    for kind in ("images", "bfloat16")
]


def applies(name, kind):
    """Whether the function takes images of this shape and so few classes; the others have tests of their refusals."""
    shape, classes, _, dtype = KINDS[kind]
    if (name == "autoattack" and classes != CLASSES) or (name.startswith(ONLY_IMAGES) and len(shape) != 3):
        return False
    if name == "dequantize" and dtype != np.float32:
        return False
    return classes > 3 or not name.startswith(("apgd_targeted", "fab", "top_k", "losses"))


CASES = [(name, kind) for name in FUNCTIONS for kind in KINDS if applies(name, kind)]


def check(name, found, count):
    for leaf in jax.tree.leaves(found):
        assert leaf.shape[0] == count
    if name in ATTACKS:
        assert found.x.dtype == found.distance.dtype == np.float32


@pytest.mark.parametrize(("name", "kind"), FAST)
def test_functions_take_data_of_both_precisions_under_strict_promotion(name, kind):
    given = problem(*KINDS[kind])
    with jax.numpy_dtype_promotion("strict"):
        check(name, jax.eval_shape(of_weights(name), *given), len(given[1]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_results_on_data_of_every_kind_are_numbers_under_strict_promotion(name, kind):
    weights, x, labels, ids = problem(*KINDS[kind])
    with jax.numpy_dtype_promotion("strict"):
        found = jax.jit(of_weights(name))(weights, x, labels, ids)
    check(name, found, len(x))
    for leaf in jax.tree.leaves(found):
        assert not np.isnan(np.asarray(leaf, np.float32)).any()
    if name in ATTACKS and "transformed" not in name and "iterated" not in name:
        moved = np.abs(np.asarray(found.x, np.float64) - np.asarray(x, np.float64))
        assert moved.max() <= 1 and np.asarray(found.x).min() >= 0 and np.asarray(found.x).max() <= 1


TRAININGS = {
    "adversarial_loss": training.adversarial_loss(logits, pgd(steps=2), eps=0.1, fraction=0.5),
    "certified_loss": training.certified_loss(logits, eps=optax.linear_schedule(0.0, 0.1, 5), crown_weight=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_training_steps_work_under_strict_promotion(name):
    weights, x, labels, _ = problem()
    optimizer = optax.sgd(1e-2)  # adam of optax mixes dtypes itself
    step = training.make_train_step(TRAININGS[name], optimizer)
    state = training.init_state(KEY, jnp.asarray(weights), optimizer)
    with jax.numpy_dtype_promotion("strict"):
        found, metrics = jax.eval_shape(step, state, (x, labels))
    assert found.params.shape == weights.shape and metrics["loss"].shape == ()


@pytest.mark.slow
def test_compiled_attacks_and_curves_send_host_arrays_to_the_device_explicitly():
    weights, x, labels, ids = problem()
    held, run = jnp.asarray(weights), jit_attack(pgd(steps=2), logits)
    with jax.transfer_guard("disallow"):
        run(KEY, held, x, labels, eps=0.1, ids=ids, step_size=0.05)
        evaluation.robustness_curve(KEY, pgd(steps=2), logits, held, x, labels, epsilons=[0.05, 0.2])


@pytest.mark.slow
def test_evaluations_and_trainings_send_host_arrays_to_the_device_explicitly(tmp_path):
    weights, x, labels, _ = problem()
    held, optimizer = jnp.asarray(weights), optax.sgd(0.1)
    state = training.init_state(KEY, held, optimizer)
    step = training.make_train_step(TRAININGS["adversarial_loss"], optimizer)
    stages = attacks.autoattack_stages(attacks.linf(), num_classes=CLASSES, steps=2, queries=2)[:1]
    threats = [evaluation.ThreatModel(pgd(steps=2), 0.1, certify="ibp", bisections=2)]
    predict, draw = jax.jit(lambda x: logits(held, x)), batches([x, labels], 2, seed=0)
    mesh = training.data_mesh(jax.devices()[:2])
    with jax.transfer_guard("disallow"):
        evaluation.robustness_curve(KEY, pgd(steps=2), logits, held, x, labels, epsilons=[0.05, 0.2], vectorize=True)
        evaluation.benchmark(KEY, logits, held, x, labels, threat=attacks.linf(), eps=0.1, stages=stages)
        evaluation.certificate_curve(logits, held, x, labels, epsilons=[0.01, 0.1], method="ibp")
        evaluation.smoothed_curve(KEY, logits, held, x, labels, epsilons=[0.1], sigma=0.5, trials=4, selection=2)
        evaluation.report(KEY, logits, held, x, labels, threats=threats)
        analysis.dataset_response(logits, held, x, labels)
        analysis.decision_segment(predict, x[:2], x[2:], resolution=3)
        analysis.decision_slice(predict, x[0], x[1], x[2], resolution=3)
        training.fit(state, step, draw, 2)
        training.fit(state, step, draw, 2, directory=tmp_path)
        training.fit(state, step, draw, 2, mesh=mesh)
