"""Auto-PGD against the algorithms of its two papers, written out here for one example in numpy."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.attacks import apgd, apgd_targeted, l0, l1, l2, linf, pgd
from invjax.attacks._apgd_search import ascend, schedule
from invjax.attacks._apgd_sparse import ascend_sparse
from invjax.attacks._ranks import wrong_class
from invjax.models import mlp

KEY = jax.random.key(0)
BATCH, SIZE, EPS = 6, 12, 0.3


# the checkpoints


def checkpoints(steps, norm):
    return schedule(steps, 0.04, 0.04, 0.0) if norm == "l1" else schedule(steps, 0.22, 0.06, 0.03)


def checkpoints_of_the_paper(steps):
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), in hundredths; of 100 steps exactly."""
    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    return [share * steps // 100 for share in shares[1:] if share <= 100]


def test_the_checkpoints_of_a_hundred_steps_are_those_of_the_paper():
    check, window = checkpoints(100, "linf")
    at = np.flatnonzero(check) + 1
    assert at.tolist() == checkpoints_of_the_paper(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert window[at - 1].tolist() == [22, 19, 16, 13, 10, 7, 6, 6]


@pytest.mark.parametrize(
    ("steps", "norm", "expected"),
    [
        (200, "l2", checkpoints_of_the_paper(200)),
        (20, "linf", [4, 7, 9, *range(10, 21)]),
        (1, "linf", [1]),
        (100, "l1", list(range(4, 101, 4))),
        (10, "l1", list(range(1, 11))),
    ],
)
def test_the_checkpoints_of_other_numbers_of_steps(steps, norm, expected):
    check, window = checkpoints(steps, norm)
    at = np.flatnonzero(check) + 1
    assert len(check) == steps and at.tolist() == expected
    assert window[check].tolist() == np.diff([0, *expected]).tolist()


# the whole loop, against the papers' algorithms


def stepless(objective):
    """An objective without random numbers, which does not depend on the step."""
    return lambda z, step: objective(z)


def waves():
    """A bumpy function of one image, with its gradient, in numpy and (the values) in JAX."""
    rng = np.random.default_rng(3)
    directions, phases, heights = rng.normal(size=(9, SIZE)) * 4, rng.uniform(0, 6, 9), rng.uniform(0.2, 1, 9)

    def value(z):
        return heights @ np.cos(directions @ z + phases)

    def gradient(z):
        return -(heights * np.sin(directions @ z + phases)) @ directions

    def objective(z):
        values = jnp.cos(z @ directions.T + phases[None]) @ heights
        return values, jnp.zeros(len(z), bool)

    return value, gradient, objective


def clipped(z):
    return np.clip(z, 0, 1)


def into_linf(z, x):
    return clipped(np.clip(z, x - EPS, x + EPS))


def into_l2(z, x):
    return clipped(x + (z - x) * min(1, EPS / max(np.linalg.norm(z - x), 1e-30)))


def into_l1(z, x):
    """Projection onto ball and box: bisection on the threshold."""

    def shrunk(t):
        return clipped(x + np.sign(z - x) * np.maximum(np.abs(z - x) - t, 0))

    low, high = 0.0, np.abs(z - x).max()
    if np.abs(shrunk(0.0) - x).sum() <= EPS:
        return shrunk(0.0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.abs(shrunk(middle) - x).sum() > EPS else (low, middle)
    return shrunk(high)


def reliable_evaluation(value, gradient, project, ascent, start, x, steps):
    """Croce & Hein 2020, algorithm 1, for one example; returns the best point and the losses."""
    marks = [0, *(np.flatnonzero(checkpoints(steps, "linf")[0]) + 1)]
    z, before, step, best = start, start, 2 * EPS, start
    losses, best_losses, halved = [value(start)], [value(start)], {0: True}
    for k in range(1, steps + 1):
        proposed = project(z + step * ascent(gradient(z)), x)
        alpha = 1 if k == 1 else 0.75
        z, before = project(z + alpha * (proposed - z) + (1 - alpha) * (z - before), x), z
        losses.append(value(z))
        best = z if losses[-1] > best_losses[-1] else best
        best_losses.append(value(best))
        if k in marks:
            last = marks[marks.index(k) - 1]
            rises = sum(losses[i] > losses[i - 1] for i in range(last + 1, k + 1))
            stuck = not halved[last] and best_losses[k] == best_losses[last]
            halved[k] = rises <= 0.75 * (k - last) or stuck
            if halved[k]:
                step, z = step / 2, best
    return best, np.array(losses[1:]), len([k for k in halved if k and halved[k]])


def mind_the_box(value, gradient, start, x, steps):
    """Croce & Hein 2021, algorithm 1 at one radius, from a dense start."""
    z, step, share, moved, best, losses = start, EPS, 0.2, SIZE, start, []
    best_gradient, g = gradient(start), gradient(start)
    for k in range(1, steps + 1):
        place = min(max(int((1 - share) * SIZE), 0), SIZE - 1)
        chosen = np.where(np.abs(g) >= np.sort(np.abs(g))[place], np.sign(g), 0)
        z = into_l1(z + step * chosen / np.abs(chosen).sum(), x)
        losses.append(value(z))
        g = gradient(z)
        if losses[-1] > value(best):
            best, best_gradient = z, g
        if k % max(int(0.04 * steps), 1) == 0:
            now = (best != x).sum()
            sparser = now < 0.95 * moved
            step = EPS if sparser else max(step / 1.5, EPS / 10)
            share, moved = now / SIZE / 1.5, now
            z, g = (best, best_gradient) if sparser else (z, g)
    return best, np.array(losses)


@pytest.mark.parametrize(
    ("threat", "project", "ascent"),
    [(linf(), into_linf, np.sign), (l2(), into_l2, lambda g: g / np.linalg.norm(g))],
    ids=["linf", "l2"],
)
def test_the_loop_is_algorithm_1_of_reliable_evaluation(threat, project, ascent, float64):
    value, gradient, objective = waves()
    rng = np.random.default_rng(0)
    x, steps = rng.random((BATCH, SIZE)), 50
    starts = np.array([project(z, image) for z, image in zip(rng.random((BATCH, SIZE)), x, strict=True)])
    run = jax.jit(lambda start: ascend(stepless(objective), threat, start, jnp.asarray(x), jnp.asarray(EPS), steps))
    (found, found_value, _), best, trace, _ = run(starts)
    halvings = []
    for i in range(BATCH):
        expected, losses, count = reliable_evaluation(value, gradient, project, ascent, starts[i], x[i], steps)
        np.testing.assert_allclose(trace[i], losses, atol=1e-7)
        np.testing.assert_allclose(best[i], expected, atol=1e-7)
        np.testing.assert_allclose(found_value[i], max(losses.max(), value(starts[i])), atol=1e-7)
        halvings.append(count)
    np.testing.assert_array_equal(found, best)  # no iterate is a success, so the largest loss is the best
    assert len(set(halvings)) > 1  # the examples have different halvings


def test_a_best_loss_that_stays_the_same_halves_the_step_too(float64):
    """A bowl whose walls are climbed at every step, but never as high as a spike at the start."""
    rng = np.random.default_rng(1)
    x, steepness = 0.4 + 0.2 * rng.random(SIZE), np.linspace(0.8, 1, SIZE)
    start = x + 0.2 * EPS * rng.normal(size=SIZE) / SIZE**0.5

    def value(z):
        return steepness @ (z - x) ** 2 + 30 * np.exp(-((z - start) ** 2).sum() * 1e5)

    def objective(z):
        spike = jnp.exp(-((z - start[None]) ** 2).sum(1) * 1e5)
        return (z - x[None]) ** 2 @ steepness + 30 * spike, jnp.zeros(len(z), bool)

    args = value, lambda z: 2 * steepness * (z - x), into_l2, lambda g: g / np.linalg.norm(g), start, x, 25
    _, losses, halvings = reliable_evaluation(*args)
    rises = np.diff(losses) > 0
    assert rises[:8].all() and losses.max() < value(start) and halvings  # a halving at step 9 after rising losses
    run = jax.jit(lambda z: ascend(stepless(objective), l2(), z, jnp.asarray(x)[None], jnp.asarray(EPS), 25))
    # step 10 leaves the start again; later steps approach the spike, which the gradient of the reference ignores
    np.testing.assert_allclose(run(start[None])[2][0, :16], losses[:16], atol=1e-9)
    assert losses[9] < losses[8]


def test_the_loop_is_algorithm_1_of_mind_the_box(float64):
    value, gradient, objective = waves()
    rng = np.random.default_rng(0)
    x, steps = rng.random((BATCH, SIZE)), 60
    starts = np.array([into_l1(z, image) for z, image in zip(x + rng.normal(size=x.shape) / 9, x, strict=True)])
    run = jax.jit(
        lambda start: ascend_sparse(stepless(objective), l1(), start, jnp.asarray(x), jnp.asarray(EPS), steps)
    )
    _, best, trace, _ = run(starts)
    for i in range(BATCH):
        expected, losses = mind_the_box(value, gradient, starts[i], x[i], steps)
        np.testing.assert_allclose(trace[i], losses, atol=1e-6)
        np.testing.assert_allclose(best[i], expected, atol=1e-6)


# properties of Auto-PGD


def first_value(x):
    """Two logits; the first is the first pixel."""
    return jnp.stack([x[:, 0], jnp.zeros(len(x))], -1)


def test_an_oscillating_loss_halves_the_step_until_the_peak_is_found():
    """A tent: the first steps jump over its top from one side of the ball to the other."""
    tent = partial(apgd, loss=lambda logits, labels: -jnp.abs(logits[:, 0] - 0.6))
    x, label = jnp.array([[0.5]]), jnp.array([0])
    result = jax.jit(lambda: tent(steps=100)(KEY, first_value, x, label, eps=0.3))()
    jumps = np.abs(np.diff(result.trace[0]))
    assert jumps[:20].max() > 0.05
    assert jumps[-6:].max() <= 0.6 / 2**7  # the first step was 2 eps; seven checkpoints have halved it
    assert abs(result.x[0, 0] - 0.6) < 0.6 / 2**7
    np.testing.assert_allclose(result.loss, -jnp.abs(result.x[:, 0] - 0.6), atol=1e-6)


NET = mlp(5, (16,))
IMAGES = jnp.asarray(np.random.default_rng(1).random((24, 5, 5, 1)), jnp.float32)
PARAMS = jax.tree.map(lambda leaf: 3 * leaf, jax.jit(NET.init)(KEY, IMAGES))
logits_fn = partial(NET.apply, PARAMS)
LABELS = logits_fn(IMAGES).argmax(-1)


CASES = {"linf": (linf(), 0.1), "l1": (l1(), 1.0)}


@cache
def auto_pgd(norm):
    threat, eps = CASES[norm]
    return jax.jit(lambda: apgd(threat, steps=20)(KEY, logits_fn, IMAGES, LABELS, eps=eps))()


@pytest.mark.parametrize("norm", [n if n != "l1" else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_auto_pgd_reaches_the_loss_of_pgd_with_equally_many_gradients(norm):
    threat, eps = CASES[norm]
    auto, attack = auto_pgd(norm), pgd(threat, steps=21)  # Auto-PGD also evaluates its start
    plain = jax.jit(lambda: attack(KEY, logits_fn, IMAGES, LABELS, eps=eps))()
    assert 0 < auto.success.mean() < 1
    assert auto.success.sum() >= plain.success.sum()
    assert auto.loss.mean() >= plain.loss.mean() - 1e-4


def test_the_l1_form_shrinks_its_radius_and_ends_inside_the_ball():
    result = auto_pgd("l1")
    assert (result.distance <= 1 + 1e-5).all()
    # at three times the radius the loss exceeds every value inside the ball
    assert result.trace[:, 5].mean() > result.loss.mean() + 0.1


@pytest.mark.parametrize("steps", [3, 5, 20, 21])
@pytest.mark.parametrize("threat", [linf(), l1()], ids=["linf", "l1"])
def test_the_trace_has_an_entry_for_each_step(threat, steps):
    shape = jax.eval_shape(lambda: apgd(threat, steps=steps)(KEY, logits_fn, IMAGES, LABELS, eps=0.1)).trace.shape
    assert shape == (24, steps)


def test_auto_pgd_ignores_the_step_size():
    run = jax.jit(lambda step_size: apgd(steps=5)(KEY, logits_fn, IMAGES, LABELS, eps=0.1, step_size=step_size))
    np.testing.assert_array_equal(run(0.01).x, run(10.0).x)


# towards a class


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_wrong_classes_come_in_the_order_of_their_logits(rank):
    logits = np.random.default_rng(2).normal(size=(30, 5)).astype(np.float32)
    labels = np.random.default_rng(3).integers(0, 5, 30).astype(np.int32)
    expected = [
        sorted(set(range(5)) - {y}, key=lambda k, h=h: -h[k])[rank] for h, y in zip(logits, labels, strict=True)
    ]
    classes = jax.jit(wrong_class)(logits, labels, rank)
    assert classes.tolist() == expected


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_a_wrong_class_fits_into_its_own_dtype(dtype):
    logits = np.zeros((1, 300), np.float32)
    logits[0, [0, 256, 130]] = 3, 2, 1
    found = [int(wrong_class(jnp.asarray(logits), np.zeros(1, dtype), rank)[0]) for rank in (0, 1)]
    assert found == [256, 130]


def test_the_label_is_no_wrong_class_also_beside_masked_ones():
    logits = jnp.array([[1.0, 0.0, -jnp.inf, -jnp.inf]])
    for label in range(4):
        found = [int(wrong_class(logits, jnp.array([label]), rank)[0]) for rank in range(3)]
        assert sorted([*found, label]) == [0, 1, 2, 3]


def test_each_target_is_tried_in_turn():
    """The way to the likeliest wrong class is blocked; the second leads out."""

    def blocked(x):
        a, b = x[:, 0], x[:, 1:].mean(1)
        return jnp.stack([1 + 0 * a, jnp.minimum(a, 0.9), b, 0.1 * b - 1], -1)

    x, label = jnp.full((1, 30), 0.5).at[:, 0].set(0.8), jnp.array([0])
    for targets, success in [(1, False), (2, True)]:
        attack = apgd_targeted(linf((0.0, 2.0)), steps=10, targets=targets)
        assert bool(jax.jit(lambda a=attack: a(KEY, blocked, x, label, eps=0.6))().success[0]) == success


@pytest.mark.parametrize("targets", [5, 9])
def test_as_many_targets_as_classes_are_refused(targets):
    with pytest.raises(
        ValueError, match=re.escape(f"targets must be less than the 5 classes of the model; got {targets}")
    ):
        apgd_targeted(targets=targets)(KEY, logits_fn, IMAGES, LABELS, eps=0.1)


def test_three_classes_are_too_few_for_the_targeted_ratio():
    with pytest.raises(ValueError, match="targeted_dlr needs at least 4 classes"):
        jax.eval_shape(
            lambda: apgd_targeted(targets=2)(KEY, lambda x: logits_fn(x)[:, :3], IMAGES, LABELS % 3, eps=0.1)
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: apgd(l0()), "apgd does not support the threat 'l0'; it supports 'linf', 'l2', 'l1'"),
        (lambda: apgd(steps=0), "steps must be positive; got steps=0"),
        (lambda: apgd_targeted(targets=0), "targets must be positive; got targets=0"),
    ],
)
def test_bad_arguments_of_auto_pgd_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
