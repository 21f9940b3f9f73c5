"""Slices of decision regions show the logits of the classifier at the stated points."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from invjax.analysis import decision_segment, decision_slice
from invjax.training import data_mesh

SHAPE = (2, 3, 1)


def points(count=3, seed=0, dtype=np.float32, shape=SHAPE):
    return list(np.random.default_rng(seed).random((count, *shape)).astype(dtype))


def identity(x):
    """Logits that are the image: what comes out says where the classifier was asked."""
    return x.reshape(len(x), -1)


def image_at(found, basis, origin, row, column):
    a, b = found.first_axis[column], found.second_axis[row]
    return origin.ravel() + a * basis[0] + b * basis[1]


def by_qr(origin, first, second):
    """The orthonormal basis, by another way than the library's."""
    q, r = np.linalg.qr(np.stack([(point - origin).ravel() for point in (first, second)], 1).astype(np.float64))
    return (q * np.sign(np.diag(r))[None]).T


# Planes


@pytest.mark.parametrize("orthonormal", [True, False])
def test_the_logits_are_those_of_the_images_at_the_coordinates(orthonormal, float64):
    origin, first, second = points(dtype=np.float64)
    basis = by_qr(origin, first, second)
    if not orthonormal:
        basis = np.stack([(first - origin).ravel(), (second - origin).ravel()])
    extent = ((-1.0, 2.0), (0.5, 3.0))
    found = decision_slice(
        identity, origin, first, second, orthonormal=orthonormal, extent=extent, resolution=5, batch_size=7
    )
    np.testing.assert_allclose(found.first_axis, np.linspace(-1, 2, 5))
    np.testing.assert_allclose(found.second_axis, np.linspace(0.5, 3, 5))
    assert found.logits.shape == (5, 5, 6)
    for row in range(5):
        for column in range(5):
            expected = image_at(found, basis, origin, row, column)
            np.testing.assert_allclose(found.logits[row, column], expected, atol=1e-12)


@pytest.mark.parametrize("orthonormal", [True, False])
def test_the_anchors_are_the_coordinates_of_the_three_points(orthonormal, float64):
    three = points(dtype=np.float64)
    anchors = decision_slice(identity, *three, orthonormal=orthonormal, resolution=2).anchors
    for anchor, point in zip(anchors, three, strict=True):
        extent = [(value, value + 1) for value in anchor]
        found = decision_slice(identity, *three, orthonormal=orthonormal, extent=extent, resolution=2)
        np.testing.assert_allclose(found.logits[0, 0], point.ravel(), atol=1e-12)


def test_distances_in_an_orthonormal_slice_are_those_of_the_images():
    three = points()
    anchors = decision_slice(identity, *three, resolution=2).anchors
    for i, j in ((0, 1), (0, 2), (1, 2)):
        np.testing.assert_allclose(
            np.linalg.norm(anchors[i] - anchors[j]), np.linalg.norm(three[i] - three[j]), rtol=1e-6
        )
    assert anchors[1, 1] == 0 and anchors[1, 0] > 0 and anchors[2, 1] > 0
    skew = decision_slice(identity, *three, orthonormal=False, resolution=2).anchors
    np.testing.assert_array_equal(skew, [[0, 0], [1, 0], [0, 1]])


def test_without_an_extent_the_slice_is_a_square_with_room_round_the_points():
    found = decision_slice(identity, *points(), resolution=3)
    low, high = found.anchors.min(0), found.anchors.max(0)
    width = 2 * (high - low).max()
    for axis, middle in ((found.first_axis, (low + high)[0] / 2), (found.second_axis, (low + high)[1] / 2)):
        np.testing.assert_allclose(axis, middle + width * np.array([-0.5, 0, 0.5]), atol=1e-12)


def test_labels_are_the_largest_logits_and_margins_their_lead():
    found = decision_slice(identity, *points(), resolution=4)
    ordered = np.sort(found.logits, -1)
    for row, column in np.ndindex(4, 4):
        label = found.labels()[row, column]
        assert found.logits[row, column, label] == ordered[row, column, -1]
        np.testing.assert_allclose(found.margins()[row, column], ordered[row, column, -1] - ordered[row, column, -2])


def test_a_disc_holds_the_points_within_its_radius():
    """A count of grid points: the area of a circle, of a circle off the middle, and of one beyond the edge."""
    corners = [np.array(corner, np.float32) for corner in ((0, 0), (1, 0), (0, 1))]
    found = decision_slice(identity, *corners, extent=[(-1, 1), (-1, 3)], resolution=401)
    cell = (2 / 400) * (4 / 400)
    for center, radius, area in (((0, 0), 0.5, np.pi / 4), ((-0.4, 2), 0.5, np.pi / 4), ((1, 1), 0.5, np.pi / 8)):
        np.testing.assert_allclose(found.disc(center, radius).sum() * cell, area, rtol=0.02)
    chosen = found.disc((-0.4, 2), 0.5)
    np.testing.assert_allclose(found.logits[chosen].mean(0), [-0.4, 2], atol=1e-3)  # the images there


def where(devices, x):
    devices.add(len(x.devices()))
    return identity(x)


def test_devices_and_batches_do_not_change_a_slice():
    three, devices = points(), set()
    alone = decision_slice(identity, *three, resolution=5)
    mesh = data_mesh(jax.devices()[:4])
    spread = decision_slice(partial(where, devices), *three, resolution=5, batch_size=6, mesh=mesh)
    np.testing.assert_allclose(spread.logits, alone.logits, atol=1e-6)
    assert devices == {4}


def test_all_batches_of_smoothing_have_one_shape():
    seen = set()

    def watched(x):
        seen.add((x.shape, x.dtype))
        return identity(x)

    decision_slice(watched, *points(), resolution=5, batch_size=4)
    decision_segment(watched, np.stack(points(3)), np.stack(points(3, 1)), resolution=2, batch_size=4)
    assert seen == {((4, *SHAPE), np.dtype(np.float32))}


# Lines


def test_a_segment_has_equal_steps_between_two_images():
    first, second = np.stack(points(5)), np.stack(points(5, 1))
    found = decision_segment(identity, first, second, resolution=4, batch_size=8)
    assert found.shape == (5, 4, 6)
    for i in range(5):
        expected = np.linspace(first[i].ravel(), second[i].ravel(), 4)
        np.testing.assert_allclose(found[i], expected, atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], first.reshape(5, -1))
    np.testing.assert_array_equal(found[:, -1], second.reshape(5, -1))


def test_devices_do_not_change_a_line():
    first, second, devices = jnp.stack(points(5)), jnp.stack(points(5, 1)), set()
    alone = decision_segment(identity, first, second, resolution=3)
    mesh = data_mesh(jax.devices()[:2])
    spread = decision_segment(partial(where, devices), first, second, resolution=3, batch_size=6, mesh=mesh)
    np.testing.assert_allclose(spread, alone, atol=1e-6)
    assert devices == {2}


# Bad input


A, B, C = points()
SPOILT = C.copy()
SPOILT[0, :2, 0] = np.nan, np.inf


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            (A, B, C[:1]),
            "points must have the same shape; got {'origin': (2, 3, 1), 'first': (2, 3, 1), 'second': (1, 3, 1)}",
        ),
        (
            (A, B, SPOILT),
            "second holds 2 NaN or infinite values of 6; remove them",
        ),
        (((255 * A).astype(np.uint8), B, C), "origin must be floating point; got dtype uint8"),
        ((A, A, C), "must not lie on one line; got first - origin of length 0"),
        ((A, B, A), "must not lie on one line; got"),
        ((A, B, B), "must not lie on one line; got"),
        ((A, B, A + 3 * (A - B)), "away from that line; choose another point"),
        ((0 * A, 1e3 * B, 1e3 * B + 1e-5), "away from that line; choose another point"),
    ],
)
@pytest.mark.parametrize("orthonormal", [True, False])
def test_points_that_span_no_plane_are_refused(given, message, orthonormal, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    with pytest.raises(ValueError, match=re.escape(message)):
        decision_slice(identity, *given, orthonormal=orthonormal, resolution=2)


def test_points_that_nearly_lie_on_one_line_are_not():
    found = decision_slice(identity, A, B, B + 1e-3 * (C - B), resolution=2)
    np.testing.assert_allclose(
        np.linalg.norm(found.anchors[2] - found.anchors[1]), 1e-3 * np.linalg.norm(C - B), rtol=1e-3
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 1}, "resolution must be 2 or more points along each axis; got 1"),
        ({"extent": [(0, 1)]}, "extent must be ((low, high), (low, high)) with low < high; got [(0, 1)]"),
        ({"extent": [(0, 1), (1, 1)]}, "with low < high; got [(0, 1), (1, 1)]"),
        ({"extent": [(0, 1), (0, np.inf)]}, "with low < high"),
        ({"logits_fn": lambda x: x}, "to logits [4, classes]; got (4, 2, 3, 1); return a row of logits for each"),
        ({"logits_fn": lambda x: x[:, 0, 0]}, "two classes need two logits"),
        ({"logits_fn": lambda x: identity(x)[:1]}, "to logits [4, classes]; got (1, 6); return a row of logits"),
        (
            {"logits_fn": lambda x: jnp.log(identity(x) - 9)},
            "logits_fn returns 24 NaN or infinite values of 24; pass a smaller",
        ),
    ],
)
def test_bad_arguments_of_a_slice_are_refused(change, message):
    given = {"logits_fn": identity, "resolution": 2, "batch_size": 4} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        decision_slice(origin=A, first=B, second=C, **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"second": np.stack([A])},
            "the same shape; got {'first': (2, 2, 3, 1), 'second': (1, 2, 3, 1)}",
        ),
        ({"first": np.full((2, *SHAPE), np.nan, np.float32)}, "first holds 12 NaN"),
        ({"first": np.zeros((2, *SHAPE), np.uint8)}, "first must be floating point"),
        ({"resolution": 1}, "resolution must be 2 or more points on each line"),
        ({"logits_fn": lambda x: x[..., 0, 0, 0]}, "two classes need two logits"),
        ({"logits_fn": lambda x: jnp.log(identity(x) - 9)}, "NaN or infinite values of 36; move the ends closer"),
    ],
)
def test_bad_arguments_of_a_segment_are_refused(change, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    given = {"logits_fn": identity, "first": np.stack([A, B]), "second": np.stack([C, A]), "resolution": 3} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        decision_segment(**given)
