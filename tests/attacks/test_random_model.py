"""Models that draw random numbers: the mean gradient, the majority of fresh draws, and keys by position."""

import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from invjax import analysis, evaluation
from invjax.attacks import (
    apgd,
    autoattack,
    autoattack_stages,
    diagnose,
    fab,
    fgsm,
    jit_attack,
    l2,
    linf,
    over,
    pgd,
    random_model,
    smallest,
    square,
    top_k,
    transformed,
)
from invjax.attacks.building import bind, judged, through, value_and_gradient
from invjax.evaluation import Options, benchmark, robustness_curve
from invjax.losses import margin
from invjax.training import data_mesh

KEY = jax.random.key(0)
W = jnp.asarray(np.random.default_rng(0).normal(size=(16, 2)), jnp.float32)
X = np.random.default_rng(1).uniform(0.3, 0.7, (6, 4, 4, 1)).astype(np.float32)
LABELS = np.asarray((X.reshape(6, -1) @ W).argmax(1)).astype(np.int32)


def clean(params, x):
    return x.reshape(len(x), -1) @ params


def noisy(params, key, x):
    """Linear logits, plus noise of mean zero."""
    return clean(params, x) + 0.3 * jax.random.normal(key, (len(x), params.shape[1]))


def two_slopes(params, key, x):
    """The weights are doubled in half of the draws and zero in the others, so that their mean is `params`."""
    return clean(params, x) * 2.0 * jax.random.bernoulli(key).astype(jnp.float32)


def test_the_gradient_is_the_mean_over_the_draws_of_a_step():
    count = 64
    model = bind(random_model(two_slopes, draws=count), W, KEY, None, len(X))
    rule = lambda logits: (margin(logits, LABELS), logits.argmax(-1) != LABELS)  # noqa: E731
    _, gradient, _ = value_and_gradient(partial(judged, rule, model, step=0), X)
    direction = np.asarray((W[:, 1] - W[:, 0])[None] * np.where(LABELS == 0, 1, -1)[:, None])
    slopes = (np.asarray(gradient).reshape(6, -1) / direction).mean(1)
    np.testing.assert_allclose(np.asarray(gradient).reshape(6, -1), slopes[:, None] * direction, rtol=1e-4)
    np.testing.assert_array_equal(np.round(slopes * count / 2, 3) % 1, 0)  # a mean of zeros and twos over 64 draws
    assert (np.abs(slopes - 1) < 4 / np.sqrt(count)).all() and len(np.unique(slopes)) > 1
    other = value_and_gradient(partial(judged, rule, model, step=1), X)[1]
    assert not np.array_equal(gradient, other)  # the next step draws anew


@pytest.mark.slow
def test_noise_on_the_logits_leaves_the_attack_on_a_linear_model_as_it_is():
    """The gradient of the margin does not depend on the noise, so that the step leads to the same corner."""
    plain = jit_attack(fgsm(loss=margin), clean)(KEY, W, X, LABELS, eps=0.1)
    found = jit_attack(fgsm(loss=margin), random_model(noisy, draws=5))(KEY, W, X, LABELS, eps=0.1)
    np.testing.assert_array_equal(plain.x, found.x)
    same = jit_attack(pgd(steps=3), random_model(lambda params, key, x: clean(params, x), draws=3))
    for field, a, b in zip(plain._fields, same(KEY, W, X, LABELS, eps=0.1), jit_attack(pgd(steps=3), clean)(
        KEY, W, X, LABELS, eps=0.1), strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=field)


def coin(params, key, x):
    """Class 1 is predicted with the probability `mean of x`, and class 0 otherwise."""
    one = (jax.random.uniform(key) < x.mean()).astype(jnp.float32)
    return jnp.broadcast_to(jnp.stack([1 - one, one])[None], (len(x), 2)) + 0 * x.sum()


@pytest.mark.slow
def test_success_is_the_majority_of_draws_that_no_step_has_seen():
    x = np.concatenate([np.full((40, 4, 4, 1), mean, np.float32) for mean in (0.3, 0.7)])
    labels = np.zeros(80, np.int32)
    few, many = (
        jit_attack(fgsm(), random_model(coin, draws=draws))(KEY, None, x, labels, eps=0.0).success for draws in (1, 101)
    )
    np.testing.assert_array_equal(many, np.arange(80) >= 40)
    assert 0 < np.mean(few[:40]) < 0.6 < np.mean(few[40:]) < 1  # the frequencies 0.3 and 0.7

    def seen(step):
        model = bind(random_model(coin, draws=1), None, KEY, None, 80)
        return np.asarray(judged(lambda logits: (logits[:, 1], logits[:, 1] > 0), model, x, **step)[1])

    assert not np.array_equal(seen({}), seen({"step": 0})) and not np.array_equal(seen({"step": 1}), seen({"step": 0}))
    np.testing.assert_array_equal(seen({}), few)


EVERY = {
    "apgd": apgd(l2(), steps=3),
    "pgd": pgd(steps=2),
    "square": square(queries=3),
    "fab": fab(steps=2, targets=1),
    "smallest": smallest(pgd(steps=2), steps=3),
    "top_k": top_k(pgd(steps=2), 1),
    "transformed": transformed(pgd(steps=2), rotation=5, shift=1, tries=2, pixels="before"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_an_image_gets_the_same_draws_in_any_order_and_batch(name):
    run = jit_attack(EVERY[name], random_model(noisy, draws=3))
    first = run(KEY, W, X, LABELS, eps=0.05)
    order = np.array([3, 0, 5, 1, 4, 2])
    second = run(KEY, W, X[order], LABELS[order], eps=0.05, ids=order)
    for field, a, b in zip(first._fields, first, second, strict=True):
        np.testing.assert_allclose(np.asarray(a)[order], b, rtol=1e-5, atol=1e-6, err_msg=field)
    if name != "smallest":  # no image of these is broken within the radius
        assert not np.array_equal(run(jax.random.key(1), W, X, LABELS, eps=0.05).trace, first.trace)


@pytest.mark.slow
def test_draws_do_not_depend_on_batches_or_devices():
    model = random_model(two_slopes, draws=3)
    runs = [over(pgd(steps=3), model, batch_size=b)(KEY, W, X, LABELS, eps=0.1) for b in (6, 4)]
    runs.append(over(pgd(steps=3), model, batch_size=4, mesh=data_mesh(jax.devices()[:2]))(KEY, W, X, LABELS, eps=0.1))
    for found in runs[1:]:
        np.testing.assert_array_equal(found.x, runs[0].x)
        np.testing.assert_array_equal(found.success, runs[0].success)


def test_new_parameters_and_keys_do_not_trace_the_model_again():
    traces = []

    def counted(params, key, x):
        traces.append(1)
        return noisy(params, key, x)

    run = jit_attack(pgd(steps=2), random_model(counted, draws=2))
    run(KEY, W, X, LABELS, eps=0.1)
    before = len(traces)
    run(jax.random.key(1), 2 * W, X, LABELS, eps=0.2)
    assert len(traces) == before > 0


def three(params, key, x):
    return jnp.concatenate([noisy(params, key, x), jnp.full((len(x), 1), -9.0)], 1)


def test_the_version_rand_of_autoattack_is_auto_pgd_on_two_losses():
    names = [stage.name for stage in autoattack_stages(linf(), num_classes=10, version="rand")]
    recipes = [stage.make(0).recipe for stage in autoattack_stages(linf(), num_classes=10, version="rand")]
    assert names == ["apgd-ce", "apgd-dlr"]
    assert recipes == ["apgd(linf, steps=100, loss=log_odds)", "apgd(linf, steps=100, loss=dlr)"]
    assert random_model(noisy).draws == 20
    assert [s.name for s in autoattack_stages(linf(), num_classes=2, version="rand")] == ["apgd-ce"]
    assert autoattack(linf(), num_classes=3, version="rand").recipe.endswith("queries=5000, version=rand)")
    with pytest.raises(ValueError, match="version must be one of 'standard', 'rand'; got 'plus'"):
        autoattack_stages(linf(), num_classes=10, version="plus")


@pytest.mark.slow
def test_a_benchmark_of_a_random_model_runs_the_version_rand(tmp_path, monkeypatch):
    from invjax.evaluation import _benchmark

    short = lambda threat, **given: autoattack_stages(threat, **given, steps=3)  # noqa: E731
    monkeypatch.setattr(_benchmark, "autoattack_stages", short)
    model = random_model(three, draws=3)
    runs = [
        benchmark(KEY, model, W, X, LABELS, threat=linf(), eps=0.05, options=options)
        for options in (Options(), Options(batch_size=4, directory=tmp_path))
    ]
    assert runs[0].stages == ("apgd-ce", "apgd-dlr")
    np.testing.assert_array_equal(runs[0].broken_by, runs[1].broken_by)
    np.testing.assert_array_equal(runs[0].x, runs[1].x)
    with pytest.raises(ValueError, match="draws"):
        benchmark(KEY, random_model(three, draws=4), W, X, LABELS, threat=linf(), eps=0.05,
                  options=Options(batch_size=4, directory=tmp_path))  # fmt: skip
    curve = robustness_curve(KEY, pgd(steps=2), model, W, X, LABELS, epsilons=[0.0, 0.05, 0.5])
    assert curve.accuracy()[-1] == 0 and curve.accuracy()[0] > 0.5


def test_a_changed_model_stays_random():
    model = bind(random_model(noisy, draws=2), W, KEY, None, len(X))
    doubled = through(model, lambda given: lambda z: 2 * given(z))
    np.testing.assert_allclose(doubled(X), 2 * model(X), rtol=1e-6)
    plain = lambda z: clean(W, z)  # noqa: E731
    np.testing.assert_array_equal(through(plain, lambda given: lambda z: 2 * given(z))(X), 2 * plain(X))
    shifted = through(plain, lambda given, by: lambda z: given(z) + by[:, None], jnp.arange(6.0))
    np.testing.assert_allclose(shifted(X), plain(X) + np.arange(6.0)[:, None], rtol=1e-6)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="draws must be positive; got draws=0"):
        random_model(noisy, draws=0)
    with pytest.raises(ValueError, match=r"was called without a key; random models work in"):
        diagnose(KEY, random_model(noisy), W, X, LABELS, eps=0.1)
    with pytest.raises(ValueError, match=r"must return logits \[1, classes\]; got \(1, 4, 4, 1\)"):
        jit_attack(pgd(), random_model(lambda p, k, x: x))(KEY, W, X, LABELS, eps=0.1)


NOISY = random_model(lambda params, key, x: clean(params, x) + jax.random.normal(key, (len(x), 2)), draws=2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: pgd(steps=1)(KEY, NOISY, X, LABELS, eps=0.1),
        lambda: evaluation.correct(NOISY, W, X, LABELS),
        lambda: evaluation.certificate_curve(NOISY, W, X, LABELS, epsilons=[0.1]),
        lambda: evaluation.report(KEY, NOISY, W, X, LABELS, threats=[evaluation.ThreatModel(fgsm(), 0.1)]),
        lambda: analysis.dataset_response(NOISY, W, X, LABELS),
    ],
)
def test_functions_without_random_models_say_so_each_time(call):
    """JAX ended the process at the second call of a function that it could not compile."""
    for _ in range(2):
        with pytest.raises(ValueError, match="called without a key; random models work in jit_attack, over"):
            call()


def test_attacks_and_random_models_can_be_compiled_by_jax():
    for function in (pgd(steps=1), NOISY):
        assert weakref.ref(function)() is function and jax.jit(function) is not None
    compiled = jax.jit(pgd(steps=2), static_argnums=1)
    model = partial(clean, W)
    np.testing.assert_array_equal(
        compiled(KEY, model, X, LABELS, eps=0.1).x, jit_attack(pgd(steps=2), clean)(KEY, W, X, LABELS, eps=0.1).x
    )


def test_a_random_model_that_ignores_its_batch_is_refused():
    wrong = random_model(lambda params, key, x: clean(params, x * jax.random.bernoulli(key, 0.9, X.shape)), draws=2)
    with pytest.raises(ValueError, match=r"gets one image and must return logits \[1, classes\]; got \(6, 2\)"):
        jit_attack(fgsm(), wrong)(KEY, W, X, LABELS, eps=0.1)


def test_a_random_model_on_explicit_axes_is_refused():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
    with pytest.raises(ValueError, match="a random model takes no explicit axes; got images on explicit axes"):
        jit_attack(fgsm(), NOISY)(KEY, W, x, LABELS, eps=0.1)
