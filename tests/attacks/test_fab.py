"""FAB: its projections against linear programming and bisection, its result against linear models' true distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from invjax.attacks import fab, l0, l1, l2, linf

KEY = jax.random.key(0)
NORMS = {"linf": (linf, np.inf), "l2": (l2, 2), "l1": (l1, 1)}
FREE, BOX = (-np.inf, np.inf), (0.0, 1.0)


def shortest(point, normal, offset, bounds, norm):
    """How far the hyperplane is inside the box; infinity where the box does not reach it."""
    low, high = bounds[0] - point, bounds[1] - point
    size, missing = len(point), offset - normal @ point
    if norm == "l2":  # the answer is clip(t normal, box) for the t that reaches the plane
        reach = lambda t: normal @ np.clip(t * normal, low, high)  # noqa: E731
        ends = [-1e4, 1e4]
        if not reach(ends[0]) <= missing <= reach(ends[1]):
            return np.inf
        for _ in range(200):
            middle = sum(ends) / 2
            ends[int(reach(middle) > missing)] = middle
        return np.linalg.norm(np.clip(ends[0] * normal, low, high))
    # over (change, bound): the bound is the largest |change|, or one for each coordinate
    one = np.eye(size)
    bound = np.ones((size, 1)) if norm == "linf" else one
    program = scipy.optimize.linprog(
        np.concatenate([np.zeros(size), np.ones(bound.shape[1])]),
        A_ub=np.block([[one, -bound], [-one, -bound]]),
        b_ub=np.zeros(2 * size),
        A_eq=np.concatenate([normal, np.zeros(bound.shape[1])])[None],
        b_eq=[missing],
        bounds=[*zip(low, high, strict=True), *[(0, None)] * bound.shape[1]],
    )
    return program.fun if program.success else np.inf


def planes(bounds, count=24, size=7):
    """Points in the unit box and hyperplanes on both sides of them, with a coordinate that does not matter."""
    rng = np.random.default_rng(0)
    points, normals = rng.random((count, size)), rng.normal(size=(count, size))
    points[::3] = points[::3].round()  # points in corners of the box
    normals[:, 2] = 0
    change = rng.normal(size=(count, size)) if bounds is FREE else 0.6 * (rng.random((count, size)) - points)
    return points, normals, (normals * (points + change)).sum(1)


@pytest.mark.parametrize("bounds", [FREE, BOX], ids=["free", "box"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_step_to_a_hyperplane_is_the_shortest_inside_the_box(norm, bounds, float64):
    points, normals, offsets = planes(bounds)
    steps = jax.jit(jax.vmap(NORMS[norm][0](bounds).to_hyperplane))(points, normals, offsets)
    expected = [shortest(*plane, bounds, norm) for plane in zip(points, normals, offsets, strict=True)]
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(np.linalg.norm(steps, NORMS[norm][1], axis=1), expected, rtol=1e-7)
    np.testing.assert_allclose((normals * (points + steps)).sum(1), offsets, atol=1e-9)
    assert (points + steps >= bounds[0] - 1e-12).all() and (points + steps <= bounds[1] + 1e-12).all()
    if bounds is BOX:  # the box limits the step
        free = [shortest(*plane, FREE, norm) for plane in zip(points, normals, offsets, strict=True)]
        assert (np.array(expected) > np.array(free) * 1.01).sum() > 3


@pytest.mark.parametrize("norm", NORMS)
def test_a_hyperplane_out_of_reach_is_approached_as_far_as_the_box_allows(norm):
    points, normals, _ = planes(BOX)
    corners = (normals > 0).astype(float)  # where the product is largest
    offsets = (normals * corners).sum(1) + 0.5
    for sign in (1, -1):
        steps = jax.jit(jax.vmap(NORMS[norm][0](BOX).to_hyperplane))(
            *(jnp.asarray(a, jnp.float32) for a in (points, sign * normals, sign * offsets))
        )
        reached = (normals * (points + steps)).sum(1)
        np.testing.assert_allclose(reached, offsets - 0.5, atol=1e-5)
        assert (steps[:, 2] == 0).all()


@pytest.mark.parametrize("bounds", [FREE, BOX], ids=["free", "box"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_step_is_zero_on_the_hyperplane_or_for_a_zero_normal(norm, bounds):
    point = jnp.array([0.25, 0.5, 1.0])
    normal = jnp.array([1.0, -2.0, 0.0])
    step = jax.jit(NORMS[norm][0](bounds).to_hyperplane)
    np.testing.assert_array_equal(step(point, normal, jnp.float32(-0.75)), np.zeros(3))
    np.testing.assert_array_equal(step(point, 0 * normal, jnp.float32(0.5)), np.zeros(3))


# linear models


def linear(classes, size=6):
    rng = np.random.default_rng(classes)
    weights, bias = rng.normal(size=(size, classes)), 0.3 * rng.normal(size=classes)
    logits_fn = lambda x: x @ jnp.asarray(weights, x.dtype) + jnp.asarray(bias, x.dtype)[None]  # noqa: E731
    images = np.random.default_rng(9).random((12, size)).astype(np.float32)
    return weights, bias, logits_fn, images, np.asarray(logits_fn(images)).argmax(1).astype(np.int32)


def true_distances(weights, bias, images, labels, bounds, norm):
    """To the nearest of the boundaries with every other class; on a boundary with any, the label has lost."""

    def of(x, y):
        others = [k for k in range(len(bias)) if k != y]
        return min(shortest(x, weights[:, k] - weights[:, y], bias[y] - bias[k], bounds, norm) for k in others)

    return np.array([of(x, y) for x, y in zip(images.astype(np.float64), labels, strict=True)])


@pytest.mark.parametrize(
    ("norm", "classes", "bounds"),
    [
        ("linf", 2, BOX),
        ("l2", 3, BOX),
        ("l1", 3, BOX),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("linf", 3, FREE), ("l2", 2, FREE), ("l1", 2, FREE)]
        ),
    ],
)
def test_fab_finds_the_distance_to_the_boundary_of_a_linear_model(norm, classes, bounds):
    weights, bias, logits_fn, images, labels = linear(classes)
    true = true_distances(weights, bias, images, labels, bounds, norm)
    if bounds is BOX:  # the box makes the distance longer or infinite
        assert (true > 1.01 * true_distances(weights, bias, images, labels, FREE, norm)).any()
    attack = fab(NORMS[norm][0](bounds), steps=30, targets=classes - 1)
    run = jax.jit(lambda eps: attack(KEY, logits_fn, images, labels, eps=eps))
    result = run(1e6)
    np.testing.assert_array_equal(result.success, np.isfinite(true))
    found, true = np.asarray(result.distance)[np.isfinite(true)], true[np.isfinite(true)]
    assert (found >= true * (1 - 1e-5)).all()
    # FAB overshoots the boundary by 5 % of the step, and by up to a tenth of that through its bias to the image
    assert (found <= true * 1.02).all()
    np.testing.assert_allclose(-result.loss[result.success], found, rtol=1e-6)  # the order of rounding differs

    middle = np.float32(np.median(found))
    some = run(middle)  # the points are equal, but only those within the radius count
    inside = np.asarray(result.success & (result.distance <= middle))
    assert 0 < inside.sum() < len(inside)
    np.testing.assert_array_equal(some.success, inside)
    np.testing.assert_array_equal(some.x[inside], result.x[inside])
    np.testing.assert_array_equal(some.x[~inside], images[~inside])


def test_misclassified_images_are_successes_as_they_are():
    _, _, logits_fn, images, labels = linear(3)
    wrong = (labels + 1) % 3
    result = jax.jit(lambda: fab(linf(), steps=3, targets=1)(KEY, logits_fn, images, wrong, eps=0.0))()
    assert result.success.all()
    np.testing.assert_array_equal(result.x, images)
    np.testing.assert_array_equal(result.distance, np.zeros(12))


def test_the_distance_of_the_nearest_example_never_grows():
    def curved(x):
        return jnp.stack([(x**2).sum(-1), 1 + 0.3 * jnp.sin(9 * x[:, 0]), x[:, 1] - 1, x[:, 2] - 2], -1)

    x = np.random.default_rng(4).random((8, 5)).astype(np.float32) * 0.4 + 0.5
    labels = np.zeros(8, np.int32)
    result = jax.jit(lambda: fab(l2(), steps=15, targets=1)(KEY, curved, x, labels, eps=9.0))()
    assert result.success.all() and result.trace.shape == (8, 15)
    assert (np.diff(np.asarray(result.trace)[:, 3:]) >= 0).all()
    np.testing.assert_array_equal(result.trace[:, -1], result.loss)
    assert (result.trace[:, -1] > result.trace[:, 3]).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: fab(l0(), targets=1), "fab does not support the threat 'l0'; it supports 'linf', 'l2', 'l1'"),
     (lambda: fab(targets=3), "targets must be less than the 3 classes of the model; got 3")],
)  # fmt: skip
def test_bad_arguments_of_fab_are_refused(make, message):
    _, _, logits_fn, images, labels = linear(3)
    with pytest.raises(ValueError, match=message):
        make()(KEY, logits_fn, images, labels, eps=0.1)
