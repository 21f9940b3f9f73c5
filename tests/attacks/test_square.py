"""Square: its schedule, its shapes, and that it needs nothing of a model but its logits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.attacks import l0, l1, l2, linf, square
from invjax.attacks._square import square_sizes
from invjax.attacks._square_proposals import bump

KEY = jax.random.key(0)
THREATS = {"linf": (linf, 0.1), "l2": (l2, 1.0), "l1": (l1, 4.0)}
FREE = (-np.inf, np.inf)
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


def runs(values):
    """`[(value, how often in a row)]`."""
    starts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    return [(int(values[a]), int(b - a)) for a, b in zip(starts, [*starts[1:], len(values)], strict=True)]


# the schedule and the shapes


def test_square_has_the_published_sizes_for_mnist():
    """0.8 of 784 pixels, halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries."""
    expected = [(25, 6), (18, 20), (13, 75), (9, 150), (6, 250), (4, 500), (3, 1000), (2, 2000), (1, 999)]
    assert runs(square_sizes(5000, 28, 28, fraction=0.8, order=np.inf)) == expected


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_bumps_have_an_odd_side_of_at_least_three(norm):
    expected = [(25, 6), (19, 20), (13, 75), (9, 150), (7, 250), (5, 500), (3, 3999)]
    assert runs(square_sizes(5000, 28, 28, fraction=0.8, order=ORDER[norm])) == expected


def test_the_schedule_is_stretched_over_the_queries():
    assert runs(square_sizes(10_000, 10, 10, fraction=0.5, order=np.inf))[:3] == [(7, 11), (5, 40), (4, 150)]
    assert runs(square_sizes(100, 28, 28, fraction=0.8, order=np.inf))[:5] == [
        (25, 1),
        (13, 2),
        (9, 3),
        (6, 5),
        (4, 10),
    ]


@pytest.mark.parametrize("size", [(4, 4), (5, 9), (12, 6), (28, 28)])
@pytest.mark.parametrize("norm", THREATS)
def test_squares_fit_into_the_image(norm, size):
    for fraction in (0.01, 0.8, 1.0):
        sides = square_sizes(50, *size, fraction=fraction, order=ORDER[norm])
        assert sides.shape == (50,) and sides.min() >= 1 and sides.max() <= min(size)
        assert norm == "linf" or (sides % 2 == 1).all()


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8, 13, 25])
def test_a_bump_has_length_one_in_two_halves_of_opposite_sign(side):
    pattern = bump(side)
    assert pattern.shape == (side, side)
    np.testing.assert_allclose((pattern**2).sum(), 1)
    upper, lower = pattern[: side // 2], pattern[side // 2 :]
    assert (upper >= 0).all() and (lower <= 0).all()
    if side > 1:
        np.testing.assert_allclose([(upper**2).sum(), (lower**2).sum()], [0.5, 0.5])
    if side % 2 == 0:
        np.testing.assert_array_equal(upper, -lower)


def test_a_bump_rises_in_rings():
    """The lower half of side 5, 3 x 5, around its center (1, 2): 1, 1 / 4 and 1 / 9 for each ring and those in it."""
    rings = np.array([[2, 1, 1, 1, 2], [2, 1, 0, 1, 2], [2, 1, 1, 1, 2]])
    heights = np.array([1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9])[rings]
    lower = bump(5)[2:]
    np.testing.assert_allclose(lower / lower[1, 2], heights / heights[1, 2])


# the search


def data(shape=(8, 8, 1), batch=12, classes=3):
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(int(np.prod(shape)), classes)), jnp.float32)
    images = rng.random((batch, *shape)).astype(np.float32)

    def logits_fn(x):
        return jnp.tanh(x.reshape(len(x), -1) - 0.5) @ weights

    return logits_fn, images, np.asarray(logits_fn(images)).argmax(1).astype(np.int32)


@pytest.mark.parametrize(("norm", "shape"), [("linf", (5, 9, 3)), ("l2", (7, 4, 1)), ("l1", (5, 9, 3))])
def test_the_loss_never_falls_and_the_search_stays_in_the_ball(norm, shape):
    logits_fn, images, labels = data(shape)
    threat, eps = THREATS[norm]
    result = jax.jit(lambda: square(threat(), queries=25)(KEY, logits_fn, images, labels, eps=eps))()
    assert result.trace.shape == (12, 25)
    assert (np.diff(np.asarray(result.trace)) >= 0).all()
    assert (result.trace[:, -1] > result.trace[:, 0]).any()
    np.testing.assert_array_equal(result.trace[:, -1], result.loss)
    assert (result.distance <= eps * (1 + 1e-5)).all()
    assert result.x.min() >= 0 and result.x.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7,), (9, 2), (2, 4, 5, 1), (3, 8, 2), (1,)], ids=str)
@pytest.mark.parametrize("norm", THREATS)
def test_examples_that_are_no_images_are_searched_too(norm, shape):
    """Rows of a table, sequences, videos and narrow images: within the ball and the box, and never worse."""
    logits_fn, images, labels = data(shape)
    threat, eps = THREATS[norm]
    free, boxed = jax.jit(
        lambda: [square(threat(box), queries=40)(KEY, logits_fn, images, labels, eps=eps) for box in (FREE, (0, 1))]
    )()
    np.testing.assert_allclose(free.distance, eps, rtol=1e-5)
    for found in (free, boxed):
        trace = np.asarray(found.trace)
        assert found.x.shape == images.shape and (np.diff(trace) >= 0).all()
        assert (trace[:, -1] > trace[:, 0]).any() or shape == (1,)
    assert (boxed.distance <= eps * (1 + 1e-5)).all() and boxed.x.min() >= 0 and boxed.x.max() <= 1
    changed = np.abs(np.asarray(boxed.x) - images).reshape(len(images), -1).sum(1) > 0
    assert changed.all()


@pytest.mark.parametrize("norm", THREATS)
def test_a_video_of_one_frame_is_attacked_as_the_image(norm):
    logits_fn, images, labels = data((4, 5, 2))
    threat, eps = THREATS[norm]
    attack = square(threat(), queries=12)
    image, video = jax.jit(lambda: [attack(KEY, logits_fn, x, labels, eps=eps) for x in (images, images[:, None])])()
    np.testing.assert_allclose(image.x, video.x[:, 0], rtol=0, atol=1e-6)  # two programs, which round differently


def test_each_frame_of_a_video_gets_the_same_square():
    """The order of frames and channels survives the search: what it returns differs from the images by the radius."""
    _, images, labels = data((2, 6, 6, 3))
    corner = lambda x: jnp.stack([x[:, 1, 2, 3, 2], 1 - x[:, 1, 2, 3, 2]], 1)  # noqa: E731
    labels = np.asarray(corner(images)).argmax(1).astype(np.int32)
    found = jax.jit(lambda: square(linf(FREE), queries=40)(KEY, corner, images, labels, eps=1.0))()
    assert found.success.mean() > 0.5
    np.testing.assert_allclose(np.abs(np.asarray(found.x) - images), 1, atol=1e-5)


def test_windows_of_a_table_are_sets_of_features_and_those_of_a_sequence_are_segments():
    from invjax.attacks import _square_proposals as proposals

    sides, z = np.array([4]), jnp.zeros((12, 1))
    for unordered in (True, False):
        canvas = proposals.canvas(linf(FREE), 0.5, (12, 1), sides, z.dtype, unordered)
        draw = lambda key, canvas=canvas: proposals.new_square(canvas, key, z, z, jnp.array(4), jnp.array(0))  # noqa: E731
        moved = np.asarray(jax.vmap(draw)(jax.random.split(KEY, 200)))[..., 0] != 0
        assert (moved.sum(1) == 4).all()
        apart = [np.ptp(np.flatnonzero(row)) for row in moved]
        assert set(apart) == {3} if not unordered else max(apart) == 11
        if unordered:
            assert (np.abs(moved.mean(0) - 1 / 3) < 0.12).all()


@pytest.mark.parametrize("norm", THREATS)
def test_without_a_box_the_whole_radius_is_spent(norm):
    logits_fn, images, labels = data()
    threat, eps = THREATS[norm]
    result = jax.jit(lambda: square(threat(FREE), queries=10)(KEY, logits_fn, images, labels, eps=eps))()
    np.testing.assert_allclose(result.distance, eps, rtol=1e-5)


def test_square_in_linf_changes_each_value_by_the_radius():
    logits_fn, images, labels = data((6, 6, 2))
    result = jax.jit(lambda: square(linf(FREE), queries=10)(KEY, logits_fn, images, labels, eps=0.1))()
    np.testing.assert_allclose(np.abs(result.x - images), 0.1, atol=1e-6)


def test_square_starts_with_vertical_stripes():
    _, images, labels = data((6, 6, 2))
    flat = lambda x: jnp.zeros((len(x), 2)).at[:, 0].add(1)  # noqa: E731  # no query improves the loss of the start
    found = jax.jit(lambda: square(linf(FREE), queries=1)(KEY, flat, images, 0 * labels, eps=0.25))()
    change = np.asarray(found.x) - images
    np.testing.assert_allclose(change, np.broadcast_to(change[:, :1], change.shape), atol=1e-6)
    assert len(np.unique(np.sign(change))) == 2


@pytest.mark.parametrize("norm", THREATS)
def test_square_breaks_a_model_without_gradients(norm):
    """The rounded model has a gradient of zero."""
    logits_fn, images, _ = data()
    threat, eps = THREATS[norm]

    def rounded(x):
        return logits_fn(jnp.round(8 * x) / 8)

    labels = np.asarray(rounded(images)).argmax(1).astype(np.int32)
    assert not jax.grad(lambda x: rounded(x).sum())(jnp.asarray(images)).any()
    found = jax.jit(lambda: square(threat(), queries=60)(KEY, rounded, images, labels, eps=2 * eps))()
    assert found.success.mean() >= 0.5


def test_square_does_not_change_an_image_after_its_success():
    """One query and many queries give the same first success, even if the loss could grow further."""
    logits_fn, images, labels = data()
    few, many = (jax.jit(lambda n=n: square(queries=n)(KEY, logits_fn, images, labels, eps=0.3))() for n in (1, 40))
    trace = np.asarray(many.trace)
    for i, row in enumerate(trace):
        fallen = np.flatnonzero(row > 0)
        assert (row[fallen] == row[fallen[:1]]).all(), i
    assert many.success.sum() > few.success.sum() - 1


def test_square_calls_the_model_once_for_each_query():
    """It also calls the model for the start and for the result."""
    logits_fn, images, labels = data()
    calls = []

    def counted(x):
        jax.debug.callback(lambda _: calls.append(1), x[0, 0, 0, 0])
        return logits_fn(x)

    jax.jit(lambda: square(queries=7)(KEY, counted, images, labels, eps=0.1))()
    jax.effects_barrier()
    assert len(calls) == 7 + 2


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: square(l0()), "square does not support the threat 'l0'; it supports 'linf', 'l2', 'l1'"),
        (lambda: square(queries=0), "queries must be positive; got queries=0"),
        (lambda: square(fraction=0.0), "fraction must be in (0, 1]; got 0.0"),
        (lambda: square(fraction=1.5), "fraction must be in (0, 1]; got 1.5"),
    ],
)
def test_bad_arguments_of_square_are_refused(run, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run()


def test_the_schedule_of_the_standard_ensemble_is_not_stretched():
    stretched, published = (
        square_sizes(5000, 28, 28, fraction=0.8, order=np.inf, rescale=rescale) for rescale in (True, False)
    )
    assert stretched[-1] == round((0.8 / 512) ** 0.5 * 28) and published[-1] == round((0.8 / 128) ** 0.5 * 28)
    np.testing.assert_array_equal(published[:20:2], stretched[:10])
