"""Adversarial training: the attack is inside the loss, no gradient flows through it, and models become more robust."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from invjax import attacks, data, evaluation, training
from invjax.losses import cross_entropy, error_rate
from invjax.models import mlp
from invjax.training import adversarial_loss

BATCH, FEATURES, CLASSES = 8, 6, 3
NET = mlp(CLASSES, (5,))
KEY = jax.random.key(7)

# compilation dominates the time of these tests; without LLVM's optimisation it takes half the time


def problem(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((BATCH, FEATURES)).astype(np.float32)
    params = jax.tree.map(lambda leaf: 3 * leaf, NET.init(jax.random.key(seed), jnp.asarray(x)))
    return params, (x, rng.integers(0, CLASSES, BATCH).astype(np.int32))


def moved_by(amount):
    """An attack that adds `amount * eps` to every value, so that what it does is known."""

    def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        found = x + jnp.float32(amount) * eps * (1 if step_size is None else step_size)
        zeros = jnp.zeros(len(x))
        return attacks.AttackResult(found, zeros > 0, zeros, zeros, zeros[:, None], zeros == 0)

    return attacks.Attack(attack, attacks.linf(), False, f"moved_by({amount})")


def clean_loss(params, batch):
    return cross_entropy(NET.apply(params, batch[0]), batch[1]).mean()


def test_the_loss_is_that_of_the_attacked_images():
    params, (x, labels) = problem()
    attack = attacks.pgd(steps=3)
    loss, metrics = jax.jit(adversarial_loss(NET.apply, attack, eps=0.2))(params, KEY, (x, labels), 0)
    found = jax.jit(lambda x: attack(KEY, partial(NET.apply, params), x, labels, eps=0.2))(x)
    logits, clean = NET.apply(params, found.x), NET.apply(params, x)
    np.testing.assert_allclose(loss, cross_entropy(logits, labels).mean(), rtol=1e-5)
    assert float(loss) > float(clean_loss(params, (x, labels))) + 0.1
    np.testing.assert_allclose(metrics["clean_error"], error_rate(clean, labels))
    fallen = (np.asarray(clean.argmax(1)) == labels) & (np.asarray(logits.argmax(1)) != labels)
    np.testing.assert_allclose(metrics["adversarial_error"], fallen.mean())
    assert 0 < fallen.mean() < 1


def test_another_loss_takes_the_place_of_cross_entropy_on_the_same_images():
    params, batch = problem()
    attack = attacks.pgd(steps=3)
    doubled = adversarial_loss(NET.apply, attack, eps=0.2, loss=lambda h, y: 2 * cross_entropy(h, y))
    expected, _ = jax.jit(adversarial_loss(NET.apply, attack, eps=0.2))(params, KEY, batch, 0)
    np.testing.assert_allclose(jax.jit(doubled)(params, KEY, batch, 0)[0], 2 * expected, rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_the_loss_is_at_least_the_clean_one(fraction):
    loss_fn = jax.jit(adversarial_loss(NET.apply, attacks.pgd(steps=3), eps=0.1, fraction=fraction))
    for seed in range(3):
        params, batch = problem(seed)
        assert float(loss_fn(params, KEY, batch, 0)[0]) >= float(clean_loss(params, batch))


@pytest.mark.parametrize(("fraction", "count"), [(1.0, 8), (0.5, 4), (0.3, 2)])
def test_the_first_images_are_attacked_and_the_others_stay(fraction, count):
    params, (x, labels) = problem()
    loss, metrics = adversarial_loss(NET.apply, moved_by(1), eps=0.5, fraction=fraction)(params, KEY, (x, labels), 0)
    half = np.concatenate([x[:count] + np.float32(0.5), x[count:]])
    np.testing.assert_allclose(loss, clean_loss(params, (half, labels)), rtol=1e-6)
    np.testing.assert_allclose(metrics["clean_error"], error_rate(NET.apply(params, x), labels))
    wrong, wrong_clean = (np.asarray(NET.apply(params, z).argmax(1)) != labels for z in (half, x))
    np.testing.assert_allclose(metrics["adversarial_error"], (wrong & ~wrong_clean)[:count].mean())


def test_the_radius_follows_a_schedule_of_the_step():
    params, (x, labels) = problem()
    loss_fn = jax.jit(adversarial_loss(NET.apply, moved_by(1), eps=optax.linear_schedule(0.0, 0.5, 10)))
    for step, eps in [(0, 0.0), (1, 0.05), (5, 0.25), (10, 0.5), (1000, 0.5)]:
        loss, _ = loss_fn(params, KEY, (x, labels), jnp.int32(step))
        np.testing.assert_allclose(loss, clean_loss(params, (x + np.float32(eps), labels)), rtol=1e-5)
    assert loss_fn._cache_size() == 1


def test_a_targeted_attack_is_refused():
    with pytest.raises(ValueError, match=r"attack must be untargeted; got pgd\(.*make it with targeted=False"):
        adversarial_loss(NET.apply, attacks.pgd(targeted=True), eps=0.1)


def test_an_attack_before_the_first_step_of_a_warmup_is_the_identity():
    params, batch = problem()
    loss_fn = jax.jit(adversarial_loss(NET.apply, attacks.pgd(steps=2), eps=optax.linear_schedule(0.0, 0.5, 10)))
    loss, metrics = loss_fn(params, KEY, batch, 0)
    np.testing.assert_allclose(loss, clean_loss(params, batch), rtol=1e-6)
    assert float(metrics["adversarial_error"]) == 0


def test_the_step_size_reaches_the_attack():
    params, (x, labels) = problem()
    loss, _ = adversarial_loss(NET.apply, moved_by(1), eps=0.5, step_size=0.5)(params, KEY, (x, labels), 0)
    np.testing.assert_allclose(loss, clean_loss(params, (x + np.float32(0.25), labels)), rtol=1e-6)


def test_the_key_reaches_the_attack():
    params, batch = problem()
    loss_fn = jax.jit(adversarial_loss(NET.apply, attacks.pgd(steps=1), eps=0.2, step_size=0.0))
    losses = [float(loss_fn(params, key, batch, 0)[0]) for key in (KEY, KEY, jax.random.key(8))]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.slow
def test_no_gradient_flows_through_the_attack():
    params, (x, labels) = problem()

    def attack(key, logits_fn, x, labels, *, eps, **rest):
        """Moves along the logits, in a loop that has no reverse mode."""
        moved = jax.lax.while_loop(lambda z: (z < 0.5).any(), lambda z: z + eps * (1 + logits_fn(z).sum() ** 2), x)
        return moved_by(0)(key, logits_fn, moved, labels, eps=eps)

    attack = attacks.Attack(attack, attacks.linf(), False, "along the logits")
    found = attack(KEY, partial(NET.apply, params), x, labels, eps=0.1).x
    ours = jax.jit(jax.grad(lambda p: adversarial_loss(NET.apply, attack, eps=0.1)(p, KEY, (x, labels), 0)[0]))(params)
    held = jax.jit(jax.grad(clean_loss))(params, (found, labels))
    chex.assert_trees_all_close(ours, held, rtol=1e-6, atol=1e-7)
    through = jax.grad(lambda p: clean_loss(p, (x + 0.1 * (1 + NET.apply(p, x).sum() ** 2), labels)))(params)
    assert max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (ours, through)), strict=True)) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_adversarial_training_is_equal_on_one_and_two_devices(fraction):
    params, _ = problem()
    rng = np.random.default_rng(0)
    x = rng.random((32, FEATURES)).astype(np.float32)
    draw = data.batches([x, (x[:, 0] > 0.5).astype(np.int32)], BATCH, seed=0)
    optimizer = optax.adam(1e-2)
    loss_fn = adversarial_loss(
        NET.apply, attacks.pgd(steps=2), eps=optax.linear_schedule(0.0, 0.05, 3), fraction=fraction
    )
    step = training.make_train_step(loss_fn, optimizer)
    histories = [
        training.fit(
            training.init_state(KEY, params, optimizer),
            step,
            draw,
            5,
            mesh=mesh,
            log_every=1,
        )[1]
        for mesh in (None, training.data_mesh(jax.devices()[:2]))
    ]
    assert set(histories[0][0]) == {"step", "loss", "clean_error", "adversarial_error"}
    losses = [[row["loss"] for row in history] for history in histories]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
def test_adversarial_training_raises_the_robust_accuracy_on_digits():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    images, labels = data.as_float(train.images, train.levels), train.labels
    net, optimizer, eps = mlp(10, (64,)), optax.adam(3e-3), 0.1
    params = net.init(jax.random.key(0), jnp.asarray(images[:1]))
    draw = data.batches([images, labels], 128, seed=0)

    def robust_accuracy(loss_fn):
        step = training.make_train_step(loss_fn, optimizer)
        state, _ = training.fit(training.init_state(KEY, params, optimizer), step, draw, 80)
        curve = evaluation.robustness_curve(
            KEY,
            attacks.pgd(steps=10),
            net.apply,
            state.params,
            data.as_float(test.images, test.levels),
            test.labels,
            epsilons=[0.0, eps],
            vectorize=False,
        )
        return curve.accuracy()

    plain = robust_accuracy(
        lambda params, key, batch, step: (cross_entropy(net.apply(params, batch[0]), batch[1]).mean(), {})
    )
    robust = robust_accuracy(adversarial_loss(net.apply, attacks.pgd(steps=5), eps=eps))
    assert plain[0] > 0.9 and robust[0] > 0.8
    assert robust[1] > plain[1] + 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": -0.1}, "eps must not be negative; got eps=-0.1"),
        ({"eps": 0.1, "fraction": 0.0}, "fraction must be in (0, 1]; got fraction=0.0"),
        ({"eps": 0.1, "fraction": 50.0}, "fraction must be in (0, 1]; got fraction=50.0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        adversarial_loss(NET.apply, attacks.pgd(), **arguments)


def test_batches_that_make_no_sense_are_refused():
    params, (x, labels) = problem()
    make = partial(adversarial_loss, NET.apply, attacks.pgd(), eps=0.1)
    with pytest.raises(ValueError, match=r"fraction=0\.01 of a batch of 8 is less than one image"):
        make(fraction=0.01)(params, KEY, (x, labels), 0)
    with pytest.raises(ValueError, match=r"images must be floating point; got dtype uint8; convert bytes with data"):
        make()(params, KEY, (x.astype(np.uint8), labels), 0)


def test_a_fraction_of_a_batch_on_explicit_axes_is_refused():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    x = jax.device_put(np.full((4, 3), 0.5, np.float32), NamedSharding(mesh, PartitionSpec("data")))
    loss = adversarial_loss(lambda w, x: x @ w, attacks.fgsm(), eps=0.1, fraction=0.5)
    with pytest.raises(ValueError, match="a fraction of the batch takes no explicit axes"):
        loss(jnp.ones((3, 2)), jax.random.key(0), (x, jnp.zeros(4, int)), 0)
