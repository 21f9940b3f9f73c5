"""Each projection is the nearest point of its ball, each ascent the steepest, and nothing leaves the ball or the box.

A new threat is one line in THREATS; the l1 and l0 projections are also held against slow and certain references.
"""

import itertools
import re
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.attacks import Threat, building, l0, l1, l2, linf, masked, pgd

SHAPE = (3, 4, 2)
SIZE = 24
FREE = (-np.inf, np.inf)
RANGES = (-np.linspace(0, 1, SIZE).reshape(SHAPE).astype(np.float32), np.array([1.0, 1.5], np.float32))
MASK = (np.arange(12).reshape(*SHAPE[:2], 1) % 5) < 2


class Member(NamedTuple):
    threat: Threat
    eps: float  # radius at which the ball is neither a point nor the box
    nearest: bool = True  # whether the ball is convex and the projection onto ball and box exact


THREATS = {
    "linf": Member(linf(), 0.3),
    "linf-free": Member(linf(FREE), 0.3),
    "l2": Member(l2(), 0.9, nearest=False),
    "l2-free": Member(l2(FREE), 0.9),
    "l1": Member(l1(), 2.5),
    "l1-free": Member(l1(FREE), 2.5),
    "l1-one-at-a-time": Member(l1((-1.0, 2.0), fraction=1 / SIZE), 2.5),
    "l0": Member(l0(), 3.0, nearest=False),
    "l0-wider": Member(l0((-1.0, 2.0)), 3.0, nearest=False),
    "linf-ranges": Member(linf(RANGES), 0.3),
    "l1-ranges": Member(l1(RANGES), 2.5),
    "l0-ranges": Member(l0(RANGES), 3.0, nearest=False),
    "l2-mask": Member(masked(l2(FREE), MASK), 0.9),
    "l1-mask": Member(masked(l1(RANGES), MASK), 2.5),
    "l0-mask": Member(masked(l0(), MASK), 3.0, nearest=False),
}
CONVEX = [name for name, member in THREATS.items() if member.nearest]
LENGTH = {
    "linf": lambda d: np.abs(d).max((1, 2, 3)),
    "l2": lambda d: np.sqrt((d**2).sum((1, 2, 3))),
    "l1": lambda d: np.abs(d).sum((1, 2, 3)),
    "l0": lambda d: (d != 0).any(-1).sum((1, 2)),
}
LENGTH[l1(fraction=1 / SIZE).name] = LENGTH["l1"]
LENGTH |= {f"masked-{name}": length for name, length in LENGTH.items()}
RADII = (0.0, 1e-9, 1e-3, 1.0, 2.5, 1e4)  # factors of the radius of the case; two of them change no l0 pixel
SPREADS = (1e-3, 0.1, 1.0, 30.0)


@cache
def cases(name):
    """Pairs of a point and a center inside the box, some at its corners, with a radius each: `z, x, eps`, float64."""
    threat, unit, _ = THREATS[name]
    low, high = (np.clip(np.broadcast_to(edge, SHAPE), -2, 3) for edge in threat.box)
    rng = np.random.default_rng(0)
    rows = []
    for radius, spread, _ in itertools.product(RADII, SPREADS, range(4)):
        x = rng.uniform(low, high, SHAPE)
        x = np.where(rng.random(SHAPE) < 0.3, np.where(rng.choice([0, 1], SHAPE), high, low), x)
        change = spread * rng.normal(size=SHAPE) * (rng.random(SHAPE) < 0.8)
        rows.append((x + change, x, radius * unit))
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


@cache
def compiled(name):
    return jax.jit(jax.vmap(THREATS[name].threat.project))


def free(name):
    """Whether each value may change."""
    mask = THREATS[name].threat.mask
    return np.broadcast_to(True if mask is None else mask, SHAPE)


def projected(name, dtype):
    z, x, eps = (jnp.asarray(a, dtype) for a in cases(name))
    return compiled(name)(z, x, eps), z, x, eps


def double(*arrays):
    return tuple(np.asarray(a, np.float64) for a in arrays)


@pytest.fixture(params=["bfloat16", "float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


# Every threat


@pytest.mark.parametrize("name", THREATS)
def test_a_projection_is_inside_the_ball_and_the_box(name, dtype):
    p, z, x, eps = projected(name, dtype)
    assert p.dtype == dtype
    threat = THREATS[name].threat
    low, high = (jnp.broadcast_to(jnp.asarray(edge, dtype), p.shape) for edge in threat.box)
    assert (p >= low).all() and (p <= high).all()
    np.testing.assert_array_equal(p[:, ~free(name)], x[:, ~free(name)])
    p, z, x, eps = double(p, z, x, eps)
    # each value is rounded once as a difference and once as a pixel
    rounding = 2 * float(jnp.finfo(dtype).eps) * np.maximum(1, np.abs(z - x).max((1, 2, 3), keepdims=True))
    slack = 0 if threat.counts else LENGTH[threat.name](np.broadcast_to(rounding, x.shape))
    assert (LENGTH[threat.name](p - x) <= eps + slack).all()


@pytest.mark.parametrize("name", THREATS)
def test_a_radius_of_zero_gives_the_centre_bit_for_bit(name, dtype):
    p, _, x, eps = projected(name, dtype)
    np.testing.assert_array_equal(p[eps == 0], x[eps == 0])
    assert (eps == 0).sum() == 16


def test_l0_replaces_the_pixels_of_a_random_start():
    """However far they were moved, one step of a hundredth of the largest takes the pixels that matter."""
    x, eps = jnp.full((5, 1), 0.5), 2.0
    started = x.at[:2].set(1.0)
    gradient = jnp.array([0.1, -0.2, 3.0, 0.0, -4.0]).reshape(5, 1)
    moved = l0().project(started + eps / 40 * l0().ascent(gradient, started, eps), x, eps)
    np.testing.assert_array_equal(moved.ravel(), [0.5, 0.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("name", THREATS)
def test_the_projection_keeps_points_of_the_ball(name, float64):
    p, _, x, eps = projected(name, "float64")
    np.testing.assert_allclose(compiled(name)(p, x, eps), p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", THREATS)
def test_an_unlimited_radius_is_a_projection_onto_the_box(name, float64):
    p, z, x, eps = projected(name, "float64")
    far = eps == eps.max()
    expected = np.where(free(name)[None], np.clip(z, *THREATS[name].threat.box), x)
    np.testing.assert_allclose(p[far], expected[far], rtol=0, atol=1e-12)
    outermost = jax.jit(jax.vmap(lambda z, x: THREATS[name].threat.project(z, x, np.inf)))
    np.testing.assert_array_equal(outermost(z, x), expected)  # an infinite radius leaves the box alone


def feasible_points(name, x, eps, rng):
    """Points of one ball: random directions, sparse and dense, short and as long as can be; the axes' ends."""
    threat = THREATS[name].threat
    dense = rng.normal(size=(100, *SHAPE))
    sparse = dense * (rng.random(dense.shape) < 0.1)
    signs = np.sign(dense)
    axes = np.concatenate([np.eye(SIZE), -np.eye(SIZE)]).reshape(-1, *SHAPE)
    directions = np.concatenate([dense, sparse, signs, axes]) * free(name)[None]
    length = LENGTH[threat.name](directions)
    length = np.where(length > 0, length, 1)[:, None, None, None]
    full = np.clip(x + eps * directions / length, *threat.box)  # clipping brings every value nearer to x
    return np.concatenate([full, x + rng.random((len(full), 1, 1, 1)) * (full - x)])


@pytest.mark.parametrize("name", CONVEX)
def test_the_projection_is_the_nearest_point_of_the_ball(name, float64):
    """p is the nearest point of a convex set exactly if <z - p, q - p> <= 0 for all q of the set."""
    p, z, x, eps = double(*projected(name, "float64"))
    rng = np.random.default_rng(1)
    for i in range(len(p)):
        q = feasible_points(name, x[i], eps[i], rng)
        away, along = (z[i] - p[i]).ravel(), (q - p[i]).reshape(len(q), -1)
        assert (along @ away).max() <= 1e-10 * (1 + np.linalg.norm(away) * np.abs(along).max())


def test_the_l2_projection_is_the_nearest_point_where_the_box_cuts_nothing(float64):
    z, x, eps = cases("l2")
    inside, radius = 0.4 + 0.2 * x, 0.3 * eps / eps.max()
    nearest = compiled("l2-free")(z, inside, radius)
    assert (nearest > 0).all() and (nearest < 1).all()
    np.testing.assert_allclose(
        compiled("l2")(z, inside, radius), nearest, rtol=0, atol=1e-15
    )  # the two programs round differently


@pytest.mark.parametrize("name", THREATS)
def test_distance_is_the_length_of_the_change(name, float64):
    z, x, _ = cases(name)
    distance = jax.jit(jax.vmap(THREATS[name].threat.distance))
    np.testing.assert_allclose(distance(z, x), LENGTH[THREATS[name].threat.name](z - x), rtol=1e-12)
    np.testing.assert_array_equal(distance(x, x), 0)


@pytest.mark.parametrize("name", THREATS)
def test_samples_fill_the_ball_and_never_leave_it(name):
    threat, eps, _ = THREATS[name]
    x = jnp.asarray(cases(name)[1][0], jnp.float32)
    keys = jax.random.split(jax.random.key(0), 200)
    draws = jax.jit(jax.vmap(threat.sample, (0, None, None)))(keys, x, eps)
    assert draws.dtype == jnp.float32
    low, high = (np.broadcast_to(edge, SHAPE) for edge in threat.box)
    assert (np.asarray(draws) >= low).all() and (np.asarray(draws) <= high).all()
    draws, x = double(draws, x)
    change = draws - x
    rounding = 0 if threat.counts else 2 * float(jnp.finfo(jnp.float32).eps)
    length = LENGTH[threat.name](change)
    assert (length <= eps + LENGTH[threat.name](np.full_like(change, rounding))).all()
    assert length.mean() > 0.4 * eps
    movable = free(name) & (x > low + 0.1) & (x < high - 0.1)  # values at the box can move in one direction only
    assert (change == 0)[:, ~free(name)].all()
    assert (change.max(0) > 0)[movable].all() and (change.min(0) < 0)[movable].all()
    assert len(np.unique(draws.reshape(200, -1), axis=0)) == 200


@pytest.mark.parametrize("name", THREATS)
def test_a_sample_of_radius_zero_is_the_center(name):
    x = jnp.asarray(cases(name)[1][0], jnp.float32)
    np.testing.assert_array_equal(jax.jit(THREATS[name].threat.sample)(jax.random.key(0), x, 0.0), x)


# Ascent


def gradients(count=30):
    rng = np.random.default_rng(2)
    return rng.normal(size=(count, *SHAPE)) * 10.0 ** rng.integers(-18, 6, (count, 1, 1, 1))


def steps_of(threat, gradient, z, eps):
    return jax.jit(jax.vmap(threat.ascent, (0, 0, None)))(gradient, z, eps)


@pytest.mark.parametrize("name", ["linf", "l2", "l1", "l1-one-at-a-time"])
def test_an_ascent_has_length_one_in_its_norm(name):
    threat, eps, _ = THREATS[name]
    step = np.asarray(steps_of(threat, gradients().astype(np.float32), jnp.full((30, *SHAPE), 0.5), eps))
    np.testing.assert_allclose(LENGTH[threat.name](step), 1, rtol=1e-5)


@pytest.mark.parametrize("name", THREATS)
def test_without_a_gradient_there_is_no_ascent(name):
    threat, eps, _ = THREATS[name]
    step = threat.ascent(jnp.zeros(SHAPE), jnp.full(SHAPE, 0.5), eps)
    np.testing.assert_array_equal(step, jnp.zeros(SHAPE))


@pytest.mark.parametrize("name", ["linf", "l2", "l1-one-at-a-time"])
def test_no_step_of_length_one_climbs_faster_than_the_ascent(name, float64):
    threat, eps, _ = THREATS[name]
    gradient = gradients()
    step = np.asarray(steps_of(threat, gradient, jnp.full((30, *SHAPE), 0.5), eps))
    climbed = (gradient * step).sum((1, 2, 3))
    others = feasible_points("l2-free", np.zeros(SHAPE), 1.0, np.random.default_rng(3))
    length = LENGTH[threat.name](others)
    others = others[length > 0] / length[length > 0][:, None, None, None]
    best = np.einsum("bhwc,nhwc->bn", gradient, others).max(1)
    assert (climbed >= best * (1 - 1e-12)).all() and (climbed > 0).all()


def test_l1_spreads_its_step_over_the_largest_entries():
    gradient = jnp.array([0.1, -5.0, 3.0, -0.2, 0.0])
    middle = jnp.full(5, 0.5)
    np.testing.assert_allclose(l1(fraction=0.4).ascent(gradient, middle, 1.0), [0, -0.5, 0.5, 0, 0])
    np.testing.assert_allclose(l1(fraction=1.0).ascent(gradient, middle, 1.0), [0.25, -0.25, 0.25, -0.25, 0])
    np.testing.assert_allclose(l1(fraction=0.01).ascent(gradient, middle, 1.0), [0, -1, 0, 0, 0])  # at least one value


@pytest.mark.parametrize("threat", [l1(fraction=0.01), l0()], ids=["l1", "l0"])
def test_a_sparse_step_is_not_spent_on_pixels_stuck_at_the_box(threat):
    gradient = jnp.array([9.0, -8.0, 7.0, -6.0]).reshape(4, 1)
    z = jnp.array([1.0, 0.0, 0.5, 0.5]).reshape(4, 1)
    moved = threat.ascent(gradient, z, 1.0).ravel()
    assert np.flatnonzero(moved).tolist() == [2] and moved[2] > 0


def test_l0_moves_whole_pixels_and_no_more_than_eps():
    gradient = jnp.array([[1.0, -1.0], [5.0, 0.1], [0.0, 3.0]])
    step = l0(channels=True).ascent(gradient, jnp.full((3, 2), 0.5), 2.0)
    np.testing.assert_array_equal(jnp.sign(step), [[0, 0], [1, 1], [0, 1]])


# The l1 projection against a reference that sorts


def l1_reference(z, x, eps, bounds):
    """Float64, `[D]`: the threshold lies between two neighbours among the sorted breakpoints of a piecewise line."""
    change = z - x
    size, cap = np.abs(change), np.where(change > 0, bounds[1] - x, x - bounds[0])

    def total(t):
        return np.minimum(np.maximum(size - t, 0), cap).sum()

    if total(0) <= eps:
        return np.clip(z, *bounds)
    breaks = size - np.where(np.isfinite(cap), cap, 0)
    breaks = np.unique(np.concatenate([[0], size, breaks[breaks > 0]]))
    left, right = 0, len(breaks) - 1
    while right - left > 1:
        middle = (left + right) // 2
        left, right = (middle, right) if total(breaks[middle]) > eps else (left, middle)
    above, below = total(breaks[left]), total(breaks[right])
    t = breaks[left] + (above - eps) / (above - below) * (breaks[right] - breaks[left])
    return x + np.sign(change) * np.clip(size - t, 0, cap)


def l1_cases(count, size, bounds, seed=0):
    """Changes of many kinds, centers inside and at the corners, radii from nothing to more than enough."""
    rng = np.random.default_rng(seed)
    low, high = np.clip(bounds, -3, 3)
    kinds = {
        "normal": lambda: rng.normal(size=size),
        "heavy tails": lambda: rng.standard_cauchy(size).clip(-1e3, 1e3),
        "ties": lambda: rng.choice([-0.5, 0.0, 0.5], size),
        "constant": lambda: np.full(size, 0.7),
        "zero": lambda: np.zeros(size),
        "one": lambda: 5.0 * (np.arange(size) == size // 2),
        "magnitudes": lambda: 10.0 ** rng.uniform(-8, 2, size),
        "geometric": lambda: np.exp2(-np.arange(size) % 40),
    }
    rows = []
    for i in range(count):
        x = rng.uniform(low, high, size)
        if i % 3:
            x = np.where(rng.random(size) < (0.5, 1.0)[i % 2], rng.choice([low, high], size), x)
        change = list(kinds.values())[i % len(kinds)]()
        eps = np.abs(change).sum() * 10.0 ** rng.uniform(-9, 1) or 1.0
        rows.append((x + change, x, eps))
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


L1_BOUNDS = {"box": (0.0, 1.0), "wide": (-1.0, 2.0), "free": FREE}


@pytest.mark.parametrize("bounds", L1_BOUNDS)
@pytest.mark.parametrize(("count", "size"), [(160, 1), (400, 25), pytest.param(48, 3000, marks=pytest.mark.slow)])
def test_the_l1_projection_equals_that_by_sorting(count, size, bounds, float64):
    bounds = L1_BOUNDS[bounds]
    z, x, eps = l1_cases(count, size, bounds)
    found = jax.jit(jax.vmap(l1(bounds).project))(z, x, eps)
    expected = np.stack([l1_reference(*case, bounds) for case in zip(z, x, eps, strict=True)])
    scale = 1 + np.abs(z - x).max(1, keepdims=True)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-12)


def test_the_l1_projection_in_single_precision_is_the_rounded_one():
    z, x, eps = (a.astype(np.float32) for a in l1_cases(160, 3000, (0.0, 1.0), seed=1))
    found = jax.jit(jax.vmap(l1().project))(z, x, eps)
    expected = np.stack([l1_reference(*case, (0.0, 1.0)) for case in zip(*double(z, x, eps), strict=True)])
    scale = 1 + np.abs(z - x).max(1, keepdims=True)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bounds", L1_BOUNDS)
def test_the_l1_projection_shortens_all_moved_values_by_one_threshold(bounds, float64):
    """The conditions of Karush, Kuhn and Tucker, read from the result alone."""
    bounds = L1_BOUNDS[bounds]
    given = l1_cases(400, 25, bounds, seed=2)
    projections = np.asarray(jax.jit(jax.vmap(l1(bounds).project))(*given))
    cut = 0
    for z, x, eps, p in zip(*given, projections, strict=True):
        size, moved = np.abs(z - x), np.abs(p - x)
        cap = np.where(z > x, bounds[1] - x, x - bounds[0])
        tiny = 1e-10 * (1 + size.max())
        assert ((p - x) * (z - x) >= -tiny).all()
        between, still, capped = (moved > tiny) & (moved < cap - tiny), moved <= tiny, moved >= cap - tiny
        taken = size - moved
        # the threshold separates moved values from unmoved ones and from values at the box
        above = np.concatenate([taken[between], taken[still & ~capped], [0.0]]).max()
        below = np.concatenate([taken[between], taken[capped & ~still], [np.inf]]).min()
        assert above <= below + 2 * tiny
        if between.any():
            threshold = taken[between].mean()
            assert np.ptp(taken[between]) <= tiny
            assert threshold <= tiny or abs(moved.sum() - eps) <= 1e-9 * (eps + size.max())
            cut += threshold > tiny
    assert cut > 100


def test_l1_golden_example():
    free = l1(FREE).project
    np.testing.assert_allclose(free(jnp.array([3.0, -2.0, 1.0, 0.5]), jnp.zeros(4), 2.0), [1.5, -0.5, 0, 0])
    boxed = l1((-1.0, 1.0)).project  # the next values get the budget that the box takes from the first
    np.testing.assert_allclose(boxed(jnp.array([3.0, -2.0, 1.0, 0.5]), jnp.zeros(4), 2.0), [1, -1, 0, 0])
    np.testing.assert_allclose(boxed(jnp.array([3.0, -2.0, 1.0, 0.5]), jnp.zeros(4), 2.5), [1, -1, 0.5, 0])


# The l0 projection against all subsets


def l0_reference(z, x, eps, bounds):
    """The least squared distance from z to an image that differs from x in at most eps pixels."""
    inside, rows = np.clip(z, *bounds), x.reshape(-1, x.shape[-1])
    best = np.inf
    for chosen in itertools.combinations(range(len(rows)), min(len(rows), int(eps))):
        candidate = rows.copy()
        candidate[list(chosen)] = inside.reshape(rows.shape)[list(chosen)]
        best = min(best, ((candidate - z.reshape(rows.shape)) ** 2).sum())
    return best


@pytest.mark.parametrize("eps", [0, 0.5, 1, 2, 2.5, 5, 6, 100])
def test_no_choice_of_pixels_is_nearer_than_the_l0_projection(eps, float64):
    rng = np.random.default_rng(4)
    x = rng.random((60, 2, 3, 2))
    z = x + rng.normal(size=x.shape) * 10.0 ** rng.uniform(-2, 1, (60, 1, 1, 1)) * (rng.random(x.shape) < 0.8)
    p = np.asarray(jax.jit(jax.vmap(l0().project, (0, 0, None)))(z, x, float(eps)))
    expected = [l0_reference(a, b, eps, (0.0, 1.0)) for a, b in zip(z, x, strict=True)]
    np.testing.assert_allclose(((p - z) ** 2).sum((1, 2, 3)), expected, rtol=1e-12)
    assert LENGTH["l0"](p - x).max() <= eps


@pytest.mark.slow
def test_l0_of_a_table_changes_single_features_as_brute_force_does():
    """The best change of one feature of a linear model is known: the largest gain among all features and both ends."""
    rng = np.random.default_rng(0)
    x, w = rng.uniform(0.2, 0.8, (16, 12)).astype(np.float32), rng.normal(size=(12, 2)).astype(np.float32)
    logits = x @ w
    labels = logits.argmax(1).astype(np.int32)
    gain = (w[:, 1] - w[:, 0]) * np.where(labels == 0, 1, -1)[:, None]
    best = np.maximum(gain * (1 - x), -gain * x).max(1)
    expected = best > np.abs(logits[:, 0] - logits[:, 1])
    found = pgd(l0(), steps=10)(jax.random.key(0), lambda z: z @ w, x, labels, eps=1)
    changed = (np.asarray(found.x) != x).sum(1)
    assert changed.max() == 1 and found.distance.tolist() == changed.tolist()
    np.testing.assert_array_equal(found.success, expected)
    assert 0 < expected.sum() < 16


@pytest.mark.parametrize(("shape", "channels", "pixels"), [((4, 3), None, 12), ((4, 3), True, 4), ((4, 3, 2), None, 12),
                                                           ((4, 3, 2), False, 24), ((5,), None, 5)])  # fmt: skip
def test_what_a_pixel_is_follows_the_axes_of_an_example(shape, channels, pixels):
    x = jnp.full(shape, 0.5)
    assert float(l0(channels=channels).distance(x + 0.1, x)) == pixels


def test_l0_counts_pixels_exactly_where_the_radius_is_a_rounded_number():
    """Whole numbers above 256 are not all bfloat16 numbers."""
    x = jnp.zeros((20, 20, 1), jnp.bfloat16)
    p = l0().project(jnp.ones_like(x), x, jnp.asarray(256, jnp.bfloat16))
    assert int((p != x).sum()) == 256


# Errors


ERRORS = {
    "ranges-reversed": (
        lambda: linf((np.array([0.0, 2.0]), np.array([1.0, 1.0]))),
        "box must have low <= high for every feature; got 1 features where low is above high or NaN; swap their ends",
    ),
    "ranges-nan": (lambda: l2((np.array([0.0, np.nan]), 1.0)), "got 1 features where low is above high or NaN"),
    "ranges-shapes": (
        lambda: l1((np.zeros(2), np.ones(3))),
        "the ends of the box must have one shape; got (2,) and (3,)",
    ),
    "ranges-empty": (
        lambda: linf((np.ones(2), np.ones(2))),
        "box must have low < high for some feature; got low equal",
    ),
    "ranges-free-l0": (lambda: l0((np.zeros(2), np.array([1.0, np.inf]))), "l0 needs a finite box"),
    "mask-of-nothing": (
        lambda: masked(linf(), np.zeros(3, bool)),
        "mask must be true for some value; got (3,) without one",
    ),
    "linf-reversed": (lambda: linf((1.0, 0.0)), "box must be (low, high) with low < high; got (1.0, 0.0)"),
    "l2-empty": (lambda: l2((0.5, 0.5)), "low < high; got (0.5, 0.5)"),
    "l1-nan": (lambda: l1((0.0, float("nan"))), "low < high; got (0.0, nan)"),
    "l0-reversed": (lambda: l0((255.0, 0.0)), "low < high; got (255.0, 0.0)"),
    "l0-free": (lambda: l0(FREE), "l0 needs a finite box, which bounds the changed pixels; got (-inf, inf)"),
    "kept-nothing": (lambda: l1(fraction=0.0), "fraction must be in (0, 1]; got 0.0"),
    "kept-percent": (lambda: l1(fraction=5.0), "fraction must be in (0, 1]; got 5.0"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_value_and_the_fix(name):
    wrong, message = ERRORS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        wrong()


@pytest.mark.parametrize(
    ("default", "other"),
    [
        (lambda: l1(), lambda: l1(fraction=0.5)),
        (lambda: l0(), lambda: l0(channels=True)),
        (lambda: l0(channels=True), lambda: l0(channels=False)),
    ],
)
def test_the_recipe_names_the_settings_of_a_threat(default, other):
    """Kept results belong to a recipe, so two threats that move images differently need two recipes."""
    assert pgd(default()).recipe != pgd(other()).recipe
    assert not building.same_threat(default(), other())
    assert building.same_threat(other(), other())


@pytest.mark.parametrize("make", [linf, l2, l1, l0])
def test_an_infinite_radius_is_refused(make):
    x, labels = np.full((2, 3), 0.5, np.float32), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="eps must be finite; got inf; use the largest distance in the box"):
        pgd(make(), steps=1)(jax.random.key(0), lambda x: x, x, labels, eps=np.inf)
