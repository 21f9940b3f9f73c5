"""Every function of a batch works under the strict settings of JAX and with models, images and labels of every kind.

The fast tier traces the functions, which finds operations that refuse their arguments; the slow tier runs them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invjax import analysis, attacks, evaluation, training
from invjax.attacks import jit_attack, pgd
from invjax.data import batches
from tests.contracts.functions import ATTACKS, BOUNDS, CLASSES, FUNCTIONS, KEY, ONLY_IMAGES, logits, of_weights, problem

FAST = ("pgd-l2", "apgd-linf", "apgd-l1", "fab-l2", "square-linf", "smallest", "margins-crown-box", "gamma")


def of_functions(names):
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in names]
    )


STRICT = [*FUNCTIONS, "adversarial_loss", "certified_loss"]
TRAININGS = {
    "adversarial_loss": training.adversarial_loss(logits, pgd(steps=2), eps=0.1, fraction=0.5),
    "certified_loss": training.certified_loss(logits, eps=optax.linear_schedule(0.0, 0.1, 5), crown_weight=0.5),
}


def traced(name, *given):
    """The types of the result, from tracing alone."""
    if name not in TRAININGS:
        return jax.eval_shape(of_weights(name), *given)
    step = training.make_train_step(TRAININGS[name], optax.adam(1e-2))
    state = training.init_state(KEY, jnp.asarray(given[0]), optax.adam(1e-2))
    return jax.eval_shape(step, state, given[1:3])


@of_functions(STRICT)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_operation_mixes_dtypes(name, dtype):
    weights, x, labels, ids = problem()
    if dtype == "bfloat16" and name in ("adversarial_loss", "certified_loss", "losses", "feature_adversary"):
        pytest.skip("the model gives logits of half precision, which these take as they are")
    with jax.numpy_dtype_promotion("strict"):
        traced(name, weights, jnp.asarray(x, dtype), labels, ids)


SMALL = {
    "one number a feature, 2 classes": ((4,), 2, 4, np.float32),
    "series, 1000 classes": ((3, 2), 1000, 2, np.float32),
    "batch 1": ((4, 4, 1), 5, 1, np.float32),
    "bfloat16": ((4, 4, 1), 5, 2, jnp.bfloat16),
    "float16": ((4, 4, 1), 5, 2, np.float16),
}


def applies(name, shape, classes):
    """Whether the function takes images of this shape and so few classes; the others have tests of their refusals."""
    if (name == "autoattack" and classes != CLASSES) or (name.startswith(ONLY_IMAGES) and len(shape) != 3):
        return False
    return classes > 3 or not name.startswith(("apgd_targeted", "fab"))


CASES = [
    pytest.param(name, kind, id=f"{name}-{kind}", marks=[] if name in FAST else pytest.mark.slow)
    for name in (*ATTACKS, *BOUNDS, "gamma", "true_epsilon", "jacobian-rev", "jacobian-fwd")
    for kind, (shape, classes, *_) in SMALL.items()
    if applies(name, shape, classes)
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_functions_take_data_of_every_kind(name, kind):
    given = problem(*SMALL[kind])
    found = jax.eval_shape(of_weights(name), *given)
    for leaf in jax.tree.leaves(found):
        assert leaf.shape[0] == len(given[1])
    if name in ATTACKS:
        assert found.x.dtype == found.distance.dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [pytest.param(*case.values, id=case.id) for case in CASES])
def test_results_on_data_of_every_kind_are_numbers(name, kind):
    weights, x, labels, ids = problem(*SMALL[kind])
    found = jax.jit(of_weights(name))(weights, x, labels, ids)
    for leaf in jax.tree.leaves(found):
        assert not np.isnan(np.asarray(leaf, np.float32)).any()
    if name in ATTACKS and "transformed" not in name and "iterated" not in name:
        moved = np.abs(np.asarray(found.x, np.float64) - np.asarray(x, np.float64))
        assert moved.max() <= 1 and np.asarray(found.x).min() >= 0 and np.asarray(found.x).max() <= 1


def test_host_arrays_are_sent_to_the_device_explicitly(tmp_path):
    weights, x, labels, _ = problem()
    held, key = jnp.asarray(weights), KEY
    optimizer = optax.sgd(0.1)
    state = training.init_state(key, held, optimizer)
    step = training.make_train_step(TRAININGS["adversarial_loss"], optimizer)
    stages = attacks.autoattack_stages(attacks.linf(), num_classes=5, steps=2, queries=2)[:1]
    threats = [evaluation.ThreatModel(pgd(steps=2), 0.1, certify="ibp", bisections=2)]
    run = jit_attack(pgd(steps=2), logits)
    predict = jax.jit(lambda x: logits(held, x))
    draw = batches([x, labels], 2, seed=0)
    with jax.transfer_guard("disallow"):
        run(key, held, x, labels, eps=0.1, ids=np.arange(len(x)), step_size=0.05)
        for vectorize in (False, True):
            evaluation.robustness_curve(
                key, pgd(steps=2), logits, held, x, labels, epsilons=[0.05, 0.2], vectorize=vectorize
            )
        evaluation.benchmark(key, logits, held, x, labels, threat=attacks.linf(), eps=0.1, stages=stages)
        evaluation.certificate_curve(logits, held, x, labels, epsilons=[0.01, 0.1], method="ibp")
        evaluation.report(key, logits, held, x, labels, threats=threats)
        analysis.dataset_response(logits, held, x, labels)
        analysis.decision_segment(predict, x[:2], x[2:], resolution=3)
        analysis.decision_slice(predict, x[0], x[1], x[2], resolution=3)
        training.fit(state, step, draw, 2)
        training.fit(state, step, draw, 2, directory=tmp_path)
        training.fit(state, step, draw, 2, mesh=training.data_mesh(jax.devices()[:2]))
