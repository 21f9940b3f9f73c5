"""Images drawn again: moved within their ranges, bent by noise of the stated size, in ink of the stated range."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from invjax import data
from invjax.data._augment import _displaced, _smooth_noise

KEY = jax.random.key(0)
STILL = {"rotation": 0, "shift": 0, "scale": 0, "shear": 0}


# one compilation for all numbers but `elastic`, and one number of images in most tests
compiled_augment = jax.jit(data.augment, static_argnames="elastic")
compiled_ink = jax.jit(data.uneven_ink)
MANY = 300


def augment(key, x, **numbers):
    return np.asarray(
        compiled_augment(key, x, **{"rotation": 20.0, "shift": 3.0, "scale": 0.1, "shear": 0.1} | numbers)
    )


def blob(count=MANY, size=29, at=(0, 0), width=2.0):
    """Round blobs, `at` so many pixels down and right of the center."""
    rows, columns = np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    image = np.exp(-((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / (2 * width**2))
    return np.repeat(image[None, ..., None], count, 0).astype(np.float32)


def centers(images):
    """Centers of mass, pixels down and right of the center, `[B, 2]`."""
    half = (images.shape[1] - 1) / 2
    return np.array([ndimage.center_of_mass(np.asarray(image)[..., 0]) for image in images]) - half


def test_nothing_moves_where_all_ranges_are_zero():
    for x in (blob(), np.random.default_rng(0).random((3, 7, 9, 2), np.float32)):
        np.testing.assert_allclose(augment(KEY, x, **STILL), x, atol=1e-5)


def test_shifts_fill_their_range_in_both_directions():
    moved = centers(augment(KEY, blob(MANY), **STILL | {"shift": 3}))
    assert np.abs(moved).max() < 3.05 and (moved.max(0) > 2.8).all() and (moved.min(0) < -2.8).all()
    # uniform, and the two directions are drawn apart
    assert moved.std() == pytest.approx(3 / np.sqrt(3), rel=0.1) and abs(np.corrcoef(moved.T)[0, 1]) < 0.2


def test_rotations_turn_about_the_center_within_their_range():
    moved = centers(augment(KEY, blob(MANY, at=(0, 8)), **STILL | {"rotation": 20}))
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 8, atol=0.1)
    angles = np.rad2deg(np.arctan2(-moved[:, 0], moved[:, 1]))
    assert 19 < angles.max() < 20.5 and -20.5 < angles.min() < -19


def test_scales_keep_the_center_and_fill_their_range():
    scaled = centers(augment(KEY, blob(MANY, at=(0, 6), width=1), **STILL | {"scale": 0.25}))
    assert 4.45 < scaled[:, 1].min() < 4.6 and 7.4 < scaled[:, 1].max() < 7.55 and np.abs(scaled[:, 0]).max() < 0.05


def test_shears_are_slopes():
    sheared = centers(augment(KEY, blob(MANY, at=(0, 6), width=1), **STILL | {"shear": 0.2}))
    along = centers(augment(KEY, blob(MANY, at=(6, 0), width=1), **STILL | {"shear": 0.2}))
    moved = np.stack([sheared - np.array([[0, 6]]), along - np.array([[6, 0]])])
    # one axis is fixed, and the other leans by a slope of up to 0.2
    np.testing.assert_allclose(np.sort(np.abs(moved).max(1).ravel()), [0, 0, 0, 1.2], atol=0.05)


def test_augment_uses_all_transforms_but_elastic_noise_by_default():
    x = blob(at=(3, 5))
    given = augment(KEY, x, rotation=20.0, shift=3.0, scale=0.1, shear=0.1, elastic=0.0)
    signature = inspect.signature(data.augment).parameters
    defaults = {
        name: argument.default for name, argument in signature.items() if argument.default is not argument.empty
    }
    np.testing.assert_array_equal(augment(KEY, x, **defaults), given)
    assert not np.allclose(given, x, atol=0.1)
    assert not np.allclose(given, augment(KEY, x, elastic=1.0))


def test_smooth_noise_has_variance_one_everywhere_and_no_jumps():
    fields = np.asarray(jax.jit(_smooth_noise, static_argnums=(1, 2))(KEY, (3000, 12, 20), jnp.float32))
    assert fields.shape == (3000, 2, 12, 20)
    np.testing.assert_allclose(fields.var(0), 1, atol=0.15)
    np.testing.assert_allclose(fields.mean(0), 0, atol=0.1)
    assert abs(np.corrcoef(fields[:, 0, 5, 5], fields[:, 1, 5, 5])[0, 1]) < 0.1
    # a Gaussian of a seventh of the width on both points: correlation exp(-d^2 / (4 s^2))
    for gap in (1, 3, 6):
        seen = np.corrcoef(fields[:, 0, 6, 7], fields[:, 0, 6, 7 + gap])[0, 1]
        assert seen == pytest.approx(np.exp(-(gap**2) / (4 * (20 / 7) ** 2)), abs=0.05)


def test_elastic_noise_displaces_by_pixels():
    moved = centers(augment(KEY, blob(MANY, width=1.0), **STILL, elastic=1.0))
    # a blob averages the field over its width, so it moves slightly less
    assert 0.8 < moved.std() < 1.05 and abs(np.corrcoef(moved.T)[0, 1]) < 0.2
    field = np.stack([np.full((29, 29), 2.0), np.zeros((29, 29))]).astype(np.float32)
    shown = jax.jit(_displaced)(blob(1, at=(0, 0))[0], field)  # x'(p) = x(p + d)
    np.testing.assert_allclose(centers(np.asarray(shown)[None]), [[-2, 0]], atol=1e-3)


@pytest.mark.slow
def test_images_are_drawn_alike_without_jit():
    x = blob(at=(3, 5))
    np.testing.assert_allclose(data.augment(KEY, x, elastic=1.0), augment(KEY, x, elastic=1.0), atol=1e-5)


def test_augment_depends_on_the_key_and_moves_each_image_separately():
    x = blob(at=(3, 5))
    first = augment(KEY, x, elastic=1.0)
    np.testing.assert_array_equal(first, augment(KEY, x, elastic=1.0))
    assert not np.allclose(first, augment(jax.random.key(1), x, elastic=1.0))
    assert not np.allclose(first[0], first[1])


def test_uneven_ink_is_uniform_between_its_ends_and_smooth():
    x = np.ones((2000, 14, 14, 2), np.float32)
    shades = np.asarray(compiled_ink(KEY, x, faintest=0.4))
    np.testing.assert_array_equal(shades[..., 0], shades[..., 1])  # one pressure for all channels
    assert 0.4 <= shades.min() < 0.41 and 0.99 < shades.max() <= 1
    assert stats.kstest((shades[:, 7, 7, 0] - 0.4) / 0.6, "uniform").pvalue > 1e-3
    assert np.abs(np.diff(shades, axis=1)).mean() < 0.3 * np.abs(shades[1:] - shades[:-1]).mean()


def test_uneven_ink_only_dims_and_leaves_black_black():
    x = np.random.default_rng(0).random((2000, 14, 14, 2), np.float32)
    x[:, 0] = 0
    faintest = inspect.signature(data.uneven_ink).parameters["faintest"].default
    dimmed = np.asarray(compiled_ink(KEY, x, faintest=faintest))
    assert (dimmed <= x).all() and (dimmed >= 0.3 * x - 1e-6).all() and not dimmed[:, 0].any()
    np.testing.assert_allclose(data.uneven_ink(KEY, x, faintest=1.0), x, rtol=1e-6)  # numbers are checked without jit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotation": -1}, "rotation must not be negative"),
        ({"shift": float("nan")}, "shift must not be negative"),
        ({"scale": 1.0}, "scale must be below 1"),
        ({"elastic": -0.5}, "elastic must not be negative"),
    ],
    ids=["rotation", "shift", "scale", "elastic"],
)
def test_bad_numbers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        data.augment(KEY, blob(1, 5), **changes)


def test_impossible_ink_is_refused():
    for faintest in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"faintest must (not be negative|be at most 1)"):
            data.uneven_ink(KEY, blob(1, 5), faintest=faintest)
