"""Spheres: closed forms against integrals over the angle to the last axis, and against points."""

import math
from functools import cache

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from invjax.attacks import l2, pgd
from invjax.theory import spheres

KEY = jax.random.key(0)
CASES = [(2, (1.0, 2.0)), (3, (1.0, 1.3)), (100, (1.0, 10.0))]


change_last = jax.jit(spheres.change_last, static_argnames=("radius", "far"))


@cache
def drawn(dimension, radii, double):
    count = 400 if double else 40_000
    run = jax.jit(lambda key: spheres.sample(key, count=count, dimension=dimension, radii=radii))
    return jax.tree.map(np.asarray, run(KEY))


def draw(dimension, radii, count):
    x, labels = drawn(dimension, radii, jax.config.read("jax_enable_x64"))
    assert count <= len(x)
    return x[:count], labels[:count]


@cache
def classifier(name, radii):
    """Compiled, as a function of NumPy arrays."""
    run = jax.jit(getattr(spheres, name)(radii))
    return lambda x: np.asarray(run(x))


def over_angles(function, dimension, high=math.pi / 2):
    """E f(angle), angle < high: a uniform point is at this angle from the last axis with density ~ sin^(d-2)."""
    # scaled by its largest value, because the integral of a tail underflows the tolerance of quad
    scale = math.sin(high) ** (dimension - 2)
    density = lambda angle: (math.sin(angle) / math.sin(high)) ** (dimension - 2)  # noqa: E731
    exact = {"epsabs": 0, "epsrel": 1e-11, "limit": 500}
    value, _ = scipy.integrate.quad(lambda angle: function(angle) * density(angle), 0, high, **exact)
    total, _ = scipy.integrate.quad(lambda angle: math.sin(angle) ** (dimension - 2), 0, math.pi / 2, **exact)
    return scale * value / total


# points -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimension", "radii"), CASES)
def test_points_lie_on_the_two_spheres_in_turn(dimension, radii, float64):
    x, labels = draw(dimension, radii, 7)
    assert x.shape == (7, dimension) and labels.tolist() == [0, 1, 0, 1, 0, 1, 0] and labels.dtype == np.int32
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), np.array(radii)[labels], rtol=1e-14)


def test_directions_are_uniform():
    """Every coordinate's square is R^2 times a Beta(1/2, (d-1)/2), signs are even, coordinates uncorrelated."""
    x, _ = draw(5, (1.0, 3.0), 20_000)
    for half, radius in ((x[::2], 1), (x[1::2], 3)):
        for coordinate in half.T:
            assert scipy.stats.kstest(coordinate**2 / radius**2, scipy.stats.beta(0.5, 2).cdf).pvalue > 1e-3
        np.testing.assert_allclose((half > 0).mean(0), 0.5, atol=0.025)
        np.testing.assert_allclose(half.T @ half / len(half) / radius**2, np.eye(5) / 5, atol=0.01)


# classifiers --------------------------------------------------------------------------------------------------------


def test_the_classifiers_compare_a_length_with_the_middle_of_the_radii():
    x = np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 6.9], [0.0, 0.0, -7.1], [0.0, 8.0, 0.0]], np.float32)
    z = np.array([13, 6.9, 7.1, 8]) - 7
    np.testing.assert_allclose(classifier("max_margin", (4, 10))(x), np.stack([-z, z], 1), rtol=1e-5)
    z = np.array([5, 0, 0, 8]) - 7
    np.testing.assert_allclose(classifier("misaligned", (4, 10))(x), np.stack([-z, z], 1), rtol=1e-5)


def test_gradients_are_finite_also_where_the_length_is_zero():
    x = np.array([[0.0, 0.0, 2.0], [3.0, 4.0, 1.0]], np.float32)
    gradient = jax.jit(jax.grad(lambda x: spheres.misaligned((1, 2))(x)[:, 1].sum()))(x)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [0.6, 0.8, 0]], rtol=1e-6)


def test_the_margin_is_where_an_attack_starts_to_succeed():
    radii = (1.0, 10.0)
    x, labels = draw(100, radii, 8)
    logits_fn = spheres.misaligned(radii)
    margins = np.where(labels == 0, 1, -1) * classifier("misaligned", radii)(x)[:, 0]
    attack = pgd(l2((-math.inf, math.inf)), steps=3, random_start=False)
    run = jax.jit(lambda x, labels, eps: attack(KEY, logits_fn, x, labels, eps=eps).success)
    for side in (labels == 0, labels == 1):
        below, above = (
            np.asarray(run(x[side], labels[side], eps))
            for eps in (0.99 * margins[side].min(), 1.05 * margins[side].max())
        )
        assert not below.any() and above.all()


# the last coordinate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimension", "radii", "far"), [(2, (1.0, 2.0), True), (100, (1.0, 10.0), False)])
def test_every_inner_point_moves_to_the_outer_sphere_and_no_logit_moves(dimension, radii, far, float64):
    inner = draw(dimension, radii, 200)[0][::2]
    moved = jax.tree.map(np.asarray, change_last(inner, radius=radii[1], far=far))
    assert moved.possible.all()
    np.testing.assert_allclose(np.linalg.norm(moved.x, axis=1), radii[1], rtol=1e-14)
    np.testing.assert_array_equal(moved.x[:, :-1], inner[:, :-1])
    np.testing.assert_array_equal(np.sign(moved.x[:, -1]), np.sign(inner[:, -1]) * (-1 if far else 1))
    np.testing.assert_allclose(moved.distance, np.linalg.norm(moved.x - inner, axis=1), rtol=1e-12)
    logits_fn = classifier("misaligned", radii)
    np.testing.assert_array_equal(logits_fn(moved.x), logits_fn(inner))
    assert (logits_fn(moved.x).argmax(-1) == 0).all()  # the moved point is an outer point that is classified as inner
    assert (classifier("max_margin", radii)(moved.x).argmax(-1) == 1).all()


def test_an_outer_point_moves_inwards_only_if_its_other_coordinates_are_short_enough(float64):
    dimension, radii = 3, (1.0, 1.3)
    outer = draw(dimension, radii, 400)[0][1::2]
    moved = jax.tree.map(np.asarray, change_last(outer, radius=radii[0]))
    short = np.linalg.norm(outer[:, :-1], axis=1) <= radii[0]
    np.testing.assert_array_equal(moved.possible, short)
    assert 0 < short.sum() < len(short)
    np.testing.assert_allclose(np.linalg.norm(moved.x[short], axis=1), radii[0], rtol=1e-14)
    np.testing.assert_array_equal(moved.x[~short], outer[~short])
    assert (moved.distance[~short] == 0).all() and (moved.distance[short] > 0.2).all()


def test_a_point_on_the_target_sphere_does_not_move_in_float32():
    x = draw(100, (1.0, 10.0), 2000)[0][::2].copy()
    x[:, -1] = 0
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    moved = change_last(x, radius=1)
    assert moved.possible.all() and float(moved.distance.max()) < 1e-3


# closed forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dimension", "radii", "published"),
    [(100, (1, 10), 1.9e-27), (100, (1, 1.3), 8.9e-7), (500, (1, 1.3), 2.0e-28)],
)
def test_the_error_of_the_misaligned_classifier_equals_the_published_tail(dimension, radii, published):
    error = spheres.misaligned_error(dimension=dimension, radii=radii)
    assert error == pytest.approx(published, rel=0.03, abs=0)
    high = math.asin(sum(radii) / 2 / radii[1])
    assert error == pytest.approx(over_angles(lambda angle: 1, dimension, high), rel=1e-9, abs=0)


@pytest.mark.parametrize(("dimension", "radii"), CASES)
def test_closed_forms_are_integrals_over_the_angle(dimension, radii):
    inner, outer = radii
    setting = {"dimension": dimension, "radii": radii}
    assert spheres.reachable(**setting) == pytest.approx(
        over_angles(lambda angle: 1, dimension, math.asin(inner / outer)), rel=1e-9, abs=0
    )
    for far, sign in ((False, -1), (True, 1)):
        way = over_angles(
            lambda angle, sign=sign: (
                math.sqrt(outer**2 - (inner * math.sin(angle)) ** 2) + sign * inner * math.cos(angle)
            ),
            dimension,
        )
        assert spheres.mean_distance(**setting, far=far) == pytest.approx(way, rel=1e-9)
    middle, share = (inner + outer) / 2, over_angles(math.sin, dimension)
    np.testing.assert_allclose(
        spheres.mean_margin(**setting), (middle - inner * share, outer * share - middle), atol=1e-9
    )


@pytest.mark.parametrize(("dimension", "radii"), CASES)
def test_closed_forms_agree_with_sampled_points(dimension, radii):
    x, _ = draw(dimension, radii, 40_000)
    inner, outer = x[::2], x[1::2]
    setting, logits_fn = {"dimension": dimension, "radii": radii}, classifier("misaligned", radii)

    def agrees(values, expected):
        values = np.asarray(values, np.float64)
        assert abs(values.mean() - expected) <= 5 * values.std() / math.sqrt(len(values)) + 1e-5

    margins = logits_fn(inner)[:, 0], logits_fn(outer)[:, 1]
    agrees(margins[1] < 0, spheres.misaligned_error(**setting))
    assert (margins[0] > 0).all()
    for values, expected in zip(margins, spheres.mean_margin(**setting), strict=True):
        agrees(values, expected)
    for far in (False, True):
        moved = change_last(inner, radius=radii[1], far=far)
        agrees(moved.distance, spheres.mean_distance(**setting, far=far))
    agrees(change_last(outer, radius=radii[0]).possible, spheres.reachable(**setting))


# errors -------------------------------------------------------------------------------------------------------------

POINTS = np.zeros((2, 3), np.float32)
SETTING = {"dimension": 3, "radii": (1, 2)}
ERRORS = {  # name: (the fault, the value and the fix in the message)
    "no point": (lambda: spheres.sample(KEY, count=0, **SETTING), r"count must be positive; got count=0"),
    "a line": (
        lambda: spheres.sample(KEY, count=2, dimension=1, radii=(1, 2)),
        r"2 or more, as one classifier ignores a coordinate; got 1",
    ),
    "radii in reverse": (lambda: spheres.mean_distance(dimension=3, radii=(2, 1)), r"inner < outer; got \(2, 1\)"),
    "equal radii": (lambda: spheres.mean_margin(dimension=3, radii=(2, 2)), r"inner < outer; got \(2, 2\)"),
    "no inner sphere": (lambda: spheres.misaligned_error(dimension=3, radii=(0, 1)), r"0 < inner.*got \(0, 1\)"),
    "radius NaN": (lambda: spheres.max_margin((1, math.nan)), r"0 < inner < outer; got \(1, nan\)"),
    "endless radius": (lambda: spheres.misaligned((1, math.inf)), r"0 < inner < outer; got \(1, inf\)"),
    "radius of nothing": (lambda: spheres.change_last(POINTS, radius=0), r"radius must be positive; got radius=0"),
    "one coordinate": (lambda: spheres.misaligned((1, 2))(POINTS[:, :1]), r"dimension 2 or more; got \(2, 1\)"),
    "images": (lambda: spheres.max_margin((1, 2))(POINTS.reshape(2, 1, 3, 1)), r"got \(2, 1, 3, 1\)"),
    "NaN": (lambda: spheres.change_last(POINTS * np.nan, radius=1), r"points holds 6 NaN"),
    "integers": (lambda: spheres.max_margin((1, 2))(POINTS.astype(np.int32)), r"points must be floating point.*int32"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_value_and_the_fix(name):
    wrong, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        wrong()
