"""The gradient attacks step by step: against a plain loop, and on models built so that one thing can go wrong."""

from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from invjax.attacks import fgsm, iterated_ll, jit_attack, l0, l1, l2, linf, pgd, step_ll
from invjax.losses import cross_entropy, log_odds, margin

SHAPE, CLASSES, BATCH = (4, 4, 2), 4, 5
FREE = (-np.inf, np.inf)
KEY = jax.random.key(0)
THREATS = {"linf": (linf(), 0.1), "l2": (l2(), 0.5), "l1": (l1(fraction=0.1), 1.5), "l0": (l0(), 3.0)}


def images():
    return jnp.asarray(np.random.default_rng(0).random((BATCH, *SHAPE)), jnp.float32)


def weights(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def curved(x):
    """A smooth network of one hidden layer."""
    return jnp.tanh(x.reshape(len(x), -1) @ weights(1, 32, 6) / 2) @ weights(2, 6, CLASSES)


def convolved(x):
    """A network of one convolution, of those whose gradients the attacks rewrite."""
    features = jax.lax.conv_general_dilated(
        x, weights(3, 3, 3, 2, 4), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(features).reshape(len(x), -1) @ weights(4, 16, CLASSES)


def predicted(logits_fn, x):
    return logits_fn(x).argmax(-1).astype(jnp.int32)


def gradient_of(loss, logits_fn, labels):
    return jax.jit(jax.grad(lambda z: loss(logits_fn(z), labels).sum()))


def plain_loop(logits_fn, threat, loss, start, x, labels, wins, *, eps, step_size, steps):
    """Projected ascent written out: the best image of each example, and the losses after each step."""
    gradient, batch = gradient_of(loss, logits_fn, labels), range(len(x))
    project, ascent = jax.jit(threat.project), jax.jit(threat.ascent)
    z, found, trace = start, [(False, -np.inf, None)] * len(x), []
    for _ in range(steps):
        g = gradient(z)
        z = jnp.stack([project(z[i] + step_size * ascent(g[i], z[i], eps), x[i], eps) for i in batch])
        logits = logits_fn(z)
        values, wrong = np.asarray(loss(logits, labels)), np.asarray(wins(logits))
        found = [max(found[i], (bool(wrong[i]), float(values[i]), z[i]), key=lambda f: f[:2]) for i in batch]
        trace.append(values)
    return jnp.stack([f[2] for f in found]), np.array([f[1] for f in found]), np.stack(trace, 1)


def assert_as_in_the_loop(result, loop):
    found, value, trace = loop
    np.testing.assert_allclose(result.trace, trace, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result.loss, value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result.x, found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("logits_fn", [curved, pytest.param(convolved, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", THREATS)
def test_pgd_is_projected_ascent(name, logits_fn):
    (threat, eps), x = THREATS[name], images()
    labels = predicted(logits_fn, x)
    attack = pgd(threat, steps=4, random_start=False)
    result = jax.jit(lambda x: attack(KEY, logits_fn, x, labels, eps=eps))(x)
    step = {"eps": eps, "step_size": 2.5 * eps / 4, "steps": 4}
    loop = plain_loop(logits_fn, threat, log_odds, x, x, labels, lambda h: h.argmax(-1) != labels, **step)
    assert_as_in_the_loop(result, loop)
    assert result.trace.shape == (BATCH, 4)
    assert (result.loss > log_odds(logits_fn(x), labels)).all()


def test_pgd_starts_at_a_random_point_and_takes_the_step_it_is_given():
    threat, x = l2(), images()
    labels, keys = predicted(curved, x), jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.array([7, 3, 0, 9, 2]))
    start = jnp.stack([threat.sample(key, one, 0.5) for key, one in zip(keys, x, strict=True)])
    attack = pgd(threat, steps=3, loss=margin)
    ids = jnp.array([7, 3, 0, 9, 2])
    result = jax.jit(lambda x: attack(KEY, curved, x, labels, eps=0.5, step_size=0.05, ids=ids))(x)
    step = {"eps": 0.5, "step_size": 0.05, "steps": 3}
    loop = plain_loop(curved, threat, margin, start, x, labels, lambda h: h.argmax(-1) != labels, **step)
    assert_as_in_the_loop(result, loop)


def test_targeted_pgd_descends_to_the_class_that_it_is_given():
    threat, x = linf(), images()
    targets = (predicted(curved, x) + 1) % CLASSES
    attack = pgd(threat, steps=6, random_start=False, targeted=True)
    result = jax.jit(lambda x: attack(KEY, curved, x, targets, eps=0.3))(x)
    step = {"eps": 0.3, "step_size": 2.5 * 0.3 / 6, "steps": 6}

    def toward(logits, labels):
        return -log_odds(logits, labels)

    loop = plain_loop(curved, threat, toward, x, x, targets, lambda h: h.argmax(-1) == targets, **step)
    assert_as_in_the_loop(result, loop)
    np.testing.assert_array_equal(result.success, curved(result.x).argmax(-1) == targets)
    assert result.success.any()


# One step


@pytest.mark.parametrize("name", THREATS)
def test_fgsm_is_one_step_of_pgd_of_length_eps(name):
    (threat, eps), x = THREATS[name], images()
    labels = predicted(curved, x)
    one_step = pgd(threat, steps=1, random_start=False)
    ours = jax.jit(lambda x: fgsm(threat)(KEY, curved, x, labels, eps=eps))(x)
    theirs = jax.jit(lambda x: one_step(KEY, curved, x, labels, eps=eps, step_size=eps))(x)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), FREE])
def test_fgsm_adds_the_sign_of_the_gradient(bounds):
    x = images()
    labels = predicted(curved, x)
    gradient = gradient_of(cross_entropy, curved, labels)(x)
    result = jax.jit(lambda x: fgsm(linf(bounds))(KEY, curved, x, labels, eps=0.2))(x)
    np.testing.assert_allclose(result.x, np.clip(x + 0.2 * np.sign(gradient), *bounds), rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.trace, log_odds(curved(result.x), labels)[:, None], rtol=1e-5)


def test_fgsm_in_l2_adds_the_direction_of_the_gradient():
    x = images()
    labels = predicted(curved, x)
    gradient = np.asarray(gradient_of(cross_entropy, curved, labels)(x))
    direction = gradient / np.sqrt((gradient**2).sum((1, 2, 3), keepdims=True))
    result = jax.jit(lambda x: fgsm(l2(FREE))(KEY, curved, x, labels, eps=3.0))(x)
    np.testing.assert_allclose(result.x, x + 3 * direction, rtol=0, atol=1e-5)
    np.testing.assert_allclose(result.distance, 3, rtol=1e-5)


def test_targeted_fgsm_subtracts_the_sign_of_the_gradient():
    x = images()
    targets = (predicted(curved, x) + 2) % CLASSES
    gradient = gradient_of(cross_entropy, curved, targets)(x)
    result = jax.jit(lambda x: fgsm(linf(FREE), targeted=True)(KEY, curved, x, targets, eps=0.2))(x)
    np.testing.assert_allclose(result.x, x - 0.2 * np.sign(gradient), rtol=0, atol=1e-6)


def test_step_ll_goes_to_the_least_likely_class_of_the_image():
    x = images()
    labels, least = predicted(curved, x), curved(x).argmin(-1)
    gradient = gradient_of(cross_entropy, curved, least)(x)
    result = jax.jit(lambda x: step_ll(linf(FREE))(KEY, curved, x, labels, eps=0.2))(x)
    np.testing.assert_allclose(result.x, x - 0.2 * np.sign(gradient), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(result.success, curved(result.x).argmax(-1) != labels)


def test_iterated_ll_keeps_its_class_when_another_becomes_the_least_likely():
    """One value z in the middle of three logits: the least likely class at 0.4 is 2, and beyond 0.5 it is 1."""

    def crossing(x):
        z = x[:, 0]
        return jnp.stack([jnp.full_like(z, 5.0), 1 - 2 * z, 2 * z - 1], 1)

    x, labels = jnp.array([[0.4]]), jnp.array([0])
    assert int(crossing(x).argmin()) == 2 and int(crossing(x + 0.2).argmin()) == 1
    result = jax.jit(lambda x: iterated_ll(steps=4)(KEY, crossing, x, labels, eps=0.4, step_size=0.1))(x)
    np.testing.assert_allclose(result.x, [[0.8]], rtol=1e-6)
    np.testing.assert_allclose(result.trace[0], -log_odds(crossing(0.4 + 0.1 * jnp.arange(1.0, 5.0)[:, None]),
                                                          jnp.full(4, 2)), rtol=1e-5)  # fmt: skip


# The best iterate


@pytest.mark.parametrize("height", [0.05, -1.0], ids=["success", "loss"])
def test_the_best_iterate_is_kept_when_later_steps_lose_it(height):
    """A peak at 0.6 and steps of 0.12 from 0.5: the odd ones stand near it, the even ones are back where they began."""

    def peak(x):
        value = height - jnp.abs(x[:, 0] - 0.6)
        return jnp.stack([jnp.zeros_like(value), value], 1)

    x, labels = jnp.array([[0.5]]), jnp.array([0])
    result = pgd(steps=4, random_start=False, loss=margin)(KEY, peak, x, labels, eps=0.3, step_size=0.12)
    np.testing.assert_allclose(result.trace[0], height - np.array([0.02, 0.1, 0.02, 0.1]), atol=1e-6)
    np.testing.assert_allclose(result.x, [[0.62]], rtol=1e-6)
    np.testing.assert_allclose(result.loss, [height - 0.02], atol=1e-6)
    assert bool(result.success[0]) == (height > 0)


def test_a_success_of_low_loss_is_kept_rather_than_a_failure_of_high_loss():
    """A loss that says nothing about success: it rises with z, and the prediction is wrong below 0.65 only."""

    def logits_fn(x):
        z = x[:, 0]
        return jnp.stack([z - 0.65, 0 * z, z], 1) * jnp.array([[1.0, 1.0, -1.0]])

    def third(logits, labels):
        return -logits[:, 2]

    x, labels = jnp.array([[0.5]]), jnp.array([0])
    result = pgd(steps=3, random_start=False, loss=third)(KEY, logits_fn, x, labels, eps=0.4, step_size=0.1)
    np.testing.assert_allclose(result.trace[0], [0.6, 0.7, 0.8], rtol=1e-6)
    np.testing.assert_allclose(result.x, [[0.6]], rtol=1e-6)
    assert result.success.all()


# The default loss does not saturate


def confident(x):
    """Two classes, 400 apart: cross-entropy rounds to 0 in single precision, and so does its gradient."""
    w = weights(5, 32)[None]
    height = 1e4 * ((x.reshape(len(x), -1) - 0.5) * w).sum(-1) - 200
    return jnp.stack([-height, height], 1)


def test_log_odds_climbs_where_cross_entropy_is_flat():
    x, labels = jnp.full((1, *SHAPE), 0.5), jnp.array([0])
    assert float(confident(x)[0, 0]) == 200
    flat, steep = (gradient_of(loss, confident, labels)(x) for loss in (cross_entropy, log_odds))
    np.testing.assert_array_equal(flat, 0)
    assert (steep != 0).all()
    attack = partial(pgd, steps=3, random_start=False)
    stuck, free = (
        jax.jit(lambda x, loss=loss: attack(loss=loss)(KEY, confident, x, labels, eps=0.1))(x)
        for loss in (cross_entropy, log_odds)
    )
    np.testing.assert_array_equal(stuck.x, x)
    assert not stuck.success.any() and free.success.all()


@pytest.mark.parametrize("attack", [pgd(steps=2), fgsm(), step_ll()], ids=["pgd", "fgsm", "step_ll"])
def test_step_sizes_that_are_negative_or_several_are_refused(monkeypatch, attack):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    x, labels = jnp.full((2, 2), 0.5), jnp.zeros(2, jnp.int32)
    run = jit_attack(attack, lambda params, x: x)
    for step_size, message in ((-1.0, "must not be negative"), (np.ones(2), "must be one number")):
        with pytest.raises(ValueError, match=f"step_size {message}"):
            run(jax.random.key(0), (), x, labels, eps=0.1, step_size=step_size)
        with pytest.raises(ValueError, match=f"step_size {message}"):
            attack(jax.random.key(0), lambda x: x, x, labels, eps=0.1, step_size=step_size)


def test_the_start_is_no_candidate_even_where_every_step_makes_things_worse():
    """A loss with its ridge at 0.6: a whole step from 0.59 lands beyond it, lower than where it began."""

    def ridge(x):
        return jnp.concatenate([10 * (x - 0.6) ** 2, jnp.zeros_like(x)], -1)

    x, labels = jnp.full((1, 1), 0.59), jnp.zeros(1, jnp.int32)
    found = fgsm()(jax.random.key(0), ridge, x, labels, eps=0.3)
    np.testing.assert_allclose(found.x, 0.89, rtol=1e-6)
    assert found.loss[0] < log_odds(ridge(x), labels)[0]


@pytest.mark.slow
@pytest.mark.parametrize("attack", [step_ll(), iterated_ll(steps=3)], ids=["step_ll", "iterated_ll"])
def test_the_least_likely_class_is_none_that_is_masked(attack):
    """A class with logit -inf is never predicted, and its gradient is zero."""
    w = weights(3, 8, 3)
    x = np.random.default_rng(4).uniform(size=(6, 8)).astype(np.float32)
    plain = lambda x: x @ w  # noqa: E731
    masked = lambda x: jnp.concatenate([x @ w, jnp.full((len(x), 1), -jnp.inf)], 1)  # noqa: E731
    labels = plain(x).argmax(1)
    found, expected = (attack(KEY, model, x, labels, eps=0.2) for model in (masked, plain))
    np.testing.assert_allclose(found.x, expected.x, atol=1e-6)
    assert np.abs(expected.x - x).max() > 0.1
