"""Certified training: the loss is the one of the papers, and what it trains can be certified."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invjax import bounds, data, training
from invjax.losses import cross_entropy
from invjax.models import mlp
from invjax.training import certified_loss, worst_cross_entropy

KEY = jax.random.key(3)
NET = mlp(4, (12, 9))


def problem():
    rng = np.random.default_rng(0)
    x = rng.random((8, 6)).astype(np.float32)
    params = jax.tree.map(lambda leaf: 2 * leaf, NET.init(jax.random.key(0), jnp.asarray(x)))
    return params, x, rng.integers(0, 4, 8).astype(np.int32)


def margins(method, eps):
    params, x, labels = problem()
    return jax.jit(
        lambda x: bounds.margins(partial(NET.apply, params), bounds.linf_box(x, eps), labels, method=method)
    )(x)


@pytest.mark.parametrize(
    ("kappa", "beta"),
    [(0.5, 0.0), (0.25, 0.3), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [(0, 0), (0.25, 1), (1, 0)])],
)
def test_the_loss_equals_the_published_formula(kappa, beta):
    params, x, labels = problem()
    loss, metrics = jax.jit(certified_loss(NET.apply, eps=0.1, natural_weight=kappa, crown_weight=beta))(
        params, KEY, (x, labels), 0
    )
    lower = beta * margins("crown-ibp", 0.1) + (1 - beta) * margins("ibp", 0.1)
    worst = jax.vmap(lambda row: -jax.nn.log_softmax(jnp.concatenate([jnp.zeros(1), -row]))[0])(lower)
    natural = cross_entropy(NET.apply(params, x), labels)
    np.testing.assert_allclose(loss, ((1 - kappa) * worst + kappa * natural).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["certified_error"], 1 - bounds.certified(lower).mean())
    np.testing.assert_allclose(metrics["clean_error"], (NET.apply(params, x).argmax(-1) != labels).mean())


@pytest.mark.slow
def test_ibp_and_crown_bounds_have_different_gradients():
    params, x, labels = problem()
    gradients = []
    for beta in (0.0, 0.5, 1.0):
        loss_fn = certified_loss(NET.apply, eps=0.1, natural_weight=0.0, crown_weight=beta)
        gradient, _ = jax.jit(jax.grad(loss_fn, has_aux=True))(params, KEY, (x, labels), 0)
        gradients.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)]))
    assert np.abs(gradients[0] - gradients[2]).max() > 1e-3
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.slow
def test_numbers_may_be_schedules_of_the_step():
    params, x, labels = problem()
    ramp = partial(optax.linear_schedule, transition_steps=10)
    scheduled = jax.jit(
        certified_loss(NET.apply, eps=ramp(0.0, 0.2), natural_weight=ramp(1.0, 0.5), crown_weight=ramp(1.0, 0.0))
    )
    for step, numbers in {0: (0.0, 1.0, 1.0), 5: (0.1, 0.75, 0.5), 10: (0.2, 0.5, 0.0), 12: (0.2, 0.5, 0.0)}.items():
        eps, kappa, beta = numbers
        lower = np.asarray(beta * margins("crown-ibp", eps) + (1 - beta) * margins("ibp", eps))
        worst = np.logaddexp.reduce(np.pad(-lower, ((0, 0), (1, 0))), axis=1)
        natural = np.asarray(cross_entropy(NET.apply(params, x), labels))
        expected = ((1 - kappa) * worst + kappa * natural).mean()
        found, _ = scheduled(params, KEY, (x, labels), jnp.int32(step))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_worst_cross_entropy_is_above_that_of_every_point():
    params, x, labels = problem()
    bound = worst_cross_entropy(margins("ibp", 0.1))
    shifts = np.random.default_rng(1).uniform(-0.1, 0.1, (200, *x.shape)).astype(np.float32)
    losses = jax.vmap(lambda z: cross_entropy(NET.apply(params, z), labels))(np.clip(x + shifts, 0, 1))
    assert (losses <= bound[None] + 1e-5).all()


@pytest.mark.slow
def test_a_radius_of_zero_leaves_cross_entropy():
    params, x, labels = problem()
    loss, _ = certified_loss(NET.apply, eps=0.0, natural_weight=0.3)(params, KEY, (x, labels), 0)
    np.testing.assert_allclose(loss, cross_entropy(NET.apply(params, x), labels).mean(), rtol=1e-5)


@pytest.mark.slow
def test_certified_training_gives_a_network_that_can_be_certified():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    x, y = data.as_float(train.images, train.levels), train.labels
    test_x, test_y = data.as_float(test.images, test.levels)[:200], test.labels[:200]
    net, steps, fractions = mlp(10, (32,)), 300, {}
    for name, eps in {"natural": 0.0, "certified": 0.1}.items():
        schedule = optax.linear_schedule(0.0, eps, 150)
        optimizer = optax.adam(5e-3)
        step = training.make_train_step(certified_loss(net.apply, eps=schedule), optimizer)
        state = training.init_state(KEY, net.init(jax.random.key(0), x[:2]), optimizer)
        draw = data.batches([x, y], 128, seed=0)
        state, _ = training.fit(state, step, draw, steps)
        logits_fn = partial(net.apply, state.params)
        found = bounds.margins(logits_fn, bounds.linf_box(test_x, 0.1), test_y, method="ibp")
        fractions[name] = float(bounds.certified(found).mean())
        assert float((logits_fn(test_x).argmax(-1) == test_y).mean()) > 0.8
    assert fractions["certified"] > 0.4 > 0.1 > fractions["natural"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": -0.1}, "eps must not be negative; got eps=-0.1"),
        ({"eps": 0.1, "natural_weight": 1.5}, r"natural_weight must be in \[0, 1\]; got natural_weight=1.5"),
        ({"eps": 0.1, "crown_weight": -0.5}, r"crown_weight must be in \[0, 1\]; got crown_weight=-0.5"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        certified_loss(NET.apply, **arguments)


def test_integer_images_are_refused():
    params, x, labels = problem()
    with pytest.raises(ValueError, match="x must be floating point"):
        certified_loss(NET.apply, eps=0.1)(params, KEY, (x.astype(np.uint8), labels), 0)
