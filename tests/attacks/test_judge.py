"""A judge gives a label where enough of its voters agree, and stays silent elsewhere."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.attacks import Neighbours, judge, l0_invariance, linf_invariance
from invjax.attacks._judge import votes
from invjax.data import as_float, load
from invjax.models import fit_gaussian_classes, gaussian_class_log_densities

CLASSES = 3


def fixed(labels):
    """A voter that gives these labels to the images of a batch, whatever they are."""
    return lambda x: jax.nn.one_hot(jnp.array(labels), CLASSES)


def of_pixel(i):
    """A voter that reads the class off one pixel: 0 is black, 1 is gray, 2 is white."""
    return lambda x: -jnp.abs(x[:, 0, i, :1] - jnp.array([0, 0.5, 1])[None])


def four_images():
    return jnp.zeros((4, 2, 2, 1))


@pytest.mark.parametrize(
    ("agreement", "expected"),
    [(0.51, [0, 1, 2, -1]), (0.6, [0, 1, 2, -1]), (0.7, [0, 1, -1, -1]), (0.8, [0, 1, -1, -1]), (1, [0, -1, -1, -1])],
)
def test_a_label_needs_its_fraction_of_the_voters(agreement, expected):
    voters = [fixed(row) for row in ([0, 1, 2, 0], [0, 1, 2, 0], [0, 1, 2, 1], [0, 1, 0, 1], [0, 2, 1, 2])]
    np.testing.assert_array_equal(judge(voters, agreement=agreement)(four_images()), expected)


@pytest.mark.parametrize(("count", "of", "says"), [(7, 10, True), (6, 10, False), (14, 20, True), (13, 20, False)])
def test_an_agreement_of_exactly_the_fraction_is_enough_despite_rounding(count, of, says):
    voters = [fixed([2])] * count + [fixed([0])] * (of - count)
    assert judge(voters, agreement=0.7)(four_images()[:1]).tolist() == [2 if says else -1]


def test_the_default_is_the_fraction_of_the_human_study():
    seven, six = ([fixed([1])] * n + [fixed([0])] * (10 - n) for n in (7, 6))
    assert judge(seven)(four_images()[:1]).tolist() == [1] and judge(six)(four_images()[:1]).tolist() == [-1]


def test_a_tie_or_nan_logits_give_no_vote_but_count_as_a_voter():
    tied = lambda x: jnp.zeros((len(x), CLASSES)).at[:, 1:].set(1)  # noqa: E731
    broken = lambda x: jnp.full((len(x), CLASSES), jnp.nan).at[:, 1].set(5)  # noqa: E731
    x = four_images()[:1]
    np.testing.assert_array_equal(votes([tied, broken, fixed([1])], x), [[0, 1, 0]])
    negative = lambda x: jnp.concatenate([-jnp.full((len(x), 1), jnp.nan), jnp.ones((len(x), 1)), 0 * x[:, 0, 0]], 1)  # noqa: E731
    np.testing.assert_array_equal(votes([negative], x), [[0, 0, 0]])  # NaN with its sign bit set, as inf - inf gives it
    assert judge([fixed([1])] * 2 + [tied], agreement=0.7)(x).tolist() == [-1]
    assert judge([fixed([1])] * 2 + [broken], agreement=0.6)(x).tolist() == [1]
    assert judge([tied], agreement=1)(x).tolist() == [-1]


def test_one_voter_is_always_agreed_with_itself():
    np.testing.assert_array_equal(judge([fixed([2, 0, 1, 1])], agreement=1)(four_images()), [2, 0, 1, 1])


def test_a_judge_returns_the_same_integers_under_jit_and_for_other_dtypes():
    x = jax.random.uniform(jax.random.key(0), (16, 2, 2, 1))
    voters = [of_pixel(0), of_pixel(1), lambda x: of_pixel(0)(x).astype(jnp.float16)]
    plain, compiled = judge(voters)(x), jax.jit(judge(voters))(x)
    assert plain.dtype == jnp.int32 and plain.shape == (16,) and {-1, 0, 1, 2} == set(plain.tolist())
    np.testing.assert_array_equal(plain, compiled)
    np.testing.assert_array_equal(judge(voters)(np.asarray(x)), plain)


def neighbours_of(x):
    """Images of one gray, in place of each of the two other classes of black images."""
    images = jnp.stack([jnp.full_like(x, 0.5), jnp.ones_like(x)], 1)
    number = np.broadcast_to(np.arange(1, 3), (len(x), 2))
    images = np.array(images)
    return Neighbours(images, number, images.max((2, 3, 4)), number, np.zeros((len(x), 2, 5), np.float32))


def test_the_linf_attack_succeeds_where_the_judge_accepts():
    x = np.zeros((3, 2, 2, 1), np.float32)
    ask = jax.jit(judge([of_pixel(0), of_pixel(1)]))
    # gray from 1/4 on, white from 3/4 on
    for eps, success in ((0.2, [False] * 3), (0.4, [True] * 3)):
        found = linf_invariance(x, neighbours_of(x), eps=eps, judge=ask, batch_size=4)
        assert found.success.tolist() == success and (found.target == 1).all()
    split = jax.jit(judge([of_pixel(0), lambda x: jnp.roll(of_pixel(1)(x), 1, 1)]))
    assert not linf_invariance(x, neighbours_of(x), eps=0.4, judge=split, batch_size=4).success.any()


def test_the_l0_attack_changes_as_few_pixels_as_the_judge_asks_for():
    x = np.zeros((2, 3, 3, 1), np.float32)
    neighbours = neighbours_of(x)
    neighbours.images[:, 1] = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]], np.float32)[..., None]  # four regions
    corner = l0_invariance(x, neighbours, judge=jax.jit(judge([of_pixel(0)])), regions=4, batch_size=8)
    both = l0_invariance(x, neighbours, judge=jax.jit(judge([of_pixel(0), of_pixel(2)])), regions=4, batch_size=8)
    assert corner.success.all() and corner.distance.tolist() == [1, 1]
    assert both.success.all() and both.distance.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("voters", "agreement", "message"),
    [
        ([], 0.7, "voters must hold one function or more"),
        ([fixed([0])], 0.5, "above 1/2 and at most 1.*agreement=0.5"),
        ([fixed([0])], 1.1, "agreement=1.1"),
        ([fixed([0])], float("nan"), "agreement=nan"),
    ],
    ids=["none", "half", "more than all", "nan"],
)
def test_bad_settings_are_refused(voters, agreement, message):
    with pytest.raises(ValueError, match=message):
        judge(voters, agreement=agreement)


@pytest.mark.parametrize(
    "voters",
    [
        [fixed([0] * 4), lambda x: jnp.zeros((len(x), CLASSES + 1))],
        [lambda x: jnp.zeros(len(x))],
        [partial(fixed([0] * 3))],
    ],
    ids=["classes", "no classes", "images"],
)
def test_voters_of_other_shapes_are_refused(voters):
    with pytest.raises(ValueError, match="must map images"):
        judge(voters)(four_images())


@pytest.mark.slow
def test_densities_whose_logits_are_computed_inside_jit_all_vote():
    """Compared with their maximum, these logits equalled it on a third of the images, because it was computed twice."""
    digits = load("digits", "train")
    x = np.asarray(as_float(digits.images[:], digits.levels))
    classes = fit_gaussian_classes(x, digits.labels, num_classes=10, components=20)
    found = jax.jit(lambda x: votes([partial(gaussian_class_log_densities, classes)], x))(x[:200])
    assert found.sum(1).tolist() == [1] * 200
    np.testing.assert_array_equal(found.argmax(1), gaussian_class_log_densities(classes, x[:200]).argmax(1))
