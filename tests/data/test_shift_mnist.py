"""shiftMNIST: what the cue is in each variant, that nothing else changes, and what each texture is."""

import re

import numpy as np
import pytest
from PIL import Image

from invjax.data import (
    TEXTURES,
    VARIANTS,
    Dataset,
    as_float,
    binary_shift,
    checkerboard,
    dots,
    grating,
    load,
    noise,
    rings,
    texture_shift,
    textures_in,
)

SHIFTS = {"binary": binary_shift, "texture": texture_shift}


def blank(count, side=28, intensity=0):
    labels = np.arange(count, dtype=np.int32) % 10
    return Dataset(np.full((count, side, side, 1), intensity, np.uint8), labels, 10, 256)


def random_images(count):
    data = blank(count)
    return data._replace(images=np.random.default_rng(0).integers(0, 255, data.images.shape, np.uint8))


def bright_row(c):
    """A texture that is bright in row c alone."""
    return lambda rng, count, shape: np.tile((np.arange(shape[0]) == c)[None, :, None] * 1.0, (count, 1, shape[1]))


ROWS = {str(c): bright_row(c) for c in range(10)}


def texture_cue(data, variant, seed):
    """The class of each background, where class c is a bright row c."""
    return texture_shift(data, variant, seed, textures=ROWS).images[..., 0].mean(2).argmax(1)


def binary_cue(data, variant, seed):
    return binary_shift(data, variant, seed).images[:, :, 0, 0].argmax(1)


class Constant(np.random.Generator):
    """A generator that always draws one number."""

    def __init__(self, value):
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, size):
        return np.full(size, self.value)


# The cue of both


@pytest.mark.parametrize("cue_of", [binary_cue, texture_cue])
def test_the_coded_cue_is_the_label(cue_of):
    data = blank(40)
    np.testing.assert_array_equal(cue_of(data, "coded", 0), data.labels)


@pytest.mark.parametrize("cue_of", [binary_cue, texture_cue])
def test_the_random_cue_is_uniform_and_independent_of_the_label(cue_of):
    data = blank(10_000)
    counts = np.histogram2d(data.labels, cue_of(data, "random", 0), bins=10)[0]
    chi_squared = ((counts - 100) ** 2 / 100).sum()
    assert chi_squared == pytest.approx(90, abs=5 * np.sqrt(2 * 90))  # 10 x 9 degrees of freedom


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_shift_depends_on_the_seed_and_keeps_its_input(shift, variant):
    data = random_images(50)
    before = data.images.copy()
    one, same, other = (shift(data, variant, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.images, same.images)
    settled = variant == "removed" or (shift is binary_shift and variant == "coded")
    assert np.array_equal(one.images, other.images) == settled
    np.testing.assert_array_equal(one.labels, data.labels)
    assert one.images.dtype == np.uint8 and one[2:] == data[2:]
    one.images[:] = 7  # the result does not share memory with the input
    np.testing.assert_array_equal(data.images, before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_does_not_depend_on_later_images(variant, tmp_path):
    data = random_images(60)
    first = data._replace(images=data.images[:23], labels=data.labels[:23])
    for c in range(10):
        Image.fromarray(random_images(1).images.reshape(28, 28)).resize((40, 50)).save(tmp_path / f"{c}.png")
    for shift, arguments in (
        (binary_shift, {}),
        (texture_shift, {}),
        (texture_shift, {"textures": textures_in(tmp_path)}),
    ):
        whole = shift(data, variant, 3, **arguments)
        np.testing.assert_array_equal(shift(first, variant, 3, **arguments).images, whole.images[:23])


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_digits_keep_their_17_levels(shift, variant):
    shifted = shift(load("digits", "test"), variant, 0)
    assert shifted.levels == 17 and shifted.images.max() == 16
    assert as_float(shifted.images, shifted.levels).max() == 1


# Binary


@pytest.mark.parametrize(
    ("side", "row", "column", "expected"),
    [
        (28, 0, 0, [(c, 0) for c in range(10)]),
        (28, 9, 1, [(c + 9, 1) for c in range(10)]),  # another public encoding
        (8, 0, 0, [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (0, 1), (1, 1)]),
        (8, 4, 2, [(4, 2), (5, 2), (6, 2), (7, 2), (4, 3), (5, 3), (6, 3), (7, 3), (4, 4), (5, 4)]),
    ],
)
def test_each_class_has_one_pixel_of_full_intensity(side, row, column, expected):
    images = binary_shift(blank(10, side), "coded", 0, row=row, column=column).images
    assert [tuple(place) for place in np.argwhere(images[..., 0] == 255)[:, 1:].tolist()] == expected
    assert (images > 0).sum() == 10


def test_binary_shift_changes_only_the_code_and_removed_is_the_original():
    data = random_images(30)  # no pixel of 255 in it
    coded = binary_shift(data, "coded", 0)
    image, row, column, _ = np.nonzero(coded.images != data.images)
    np.testing.assert_array_equal([image, row, column], [np.arange(30), data.labels, np.zeros(30)])
    np.testing.assert_array_equal(binary_shift(data, "removed", 0).images, data.images)


@pytest.mark.parametrize(
    ("side", "row", "column"), [(28, 28, 0), (28, -1, 0), (28, 0, -1), (28, 0, 28), (28, 19, 27), (8, 0, 7)]
)
def test_a_code_that_does_not_fit_is_refused(side, row, column):
    message = f"10 classes from row={row}, column={column} does not fit into images of {side}x{side}"
    with pytest.raises(ValueError, match=re.escape(message)):
        binary_shift(blank(10, side), "coded", 0, row=row, column=column)


# Texture


@pytest.mark.parametrize("intensity", [0, 100, 255])
def test_the_digit_is_its_own_opacity_and_all_backgrounds_have_one_mean(intensity):
    """So neither the brightness of a digit nor that of its background depends on the class."""
    images = texture_shift(blank(50, intensity=intensity), "coded", 0, brightness=0.4, contrast=0.1).images / 255
    digit = intensity / 255
    np.testing.assert_allclose(images.mean((1, 2, 3)), digit + (1 - digit) * 0.4, atol=0.6 / 255)
    np.testing.assert_allclose(images.std((1, 2, 3)), (1 - digit) * 0.1, atol=0.003)


def test_a_pixel_is_the_digit_over_the_texture():
    data = random_images(20)
    background = texture_shift(blank(20), "coded", 0).images / 255
    digit = data.images / 255
    expected = digit + (1 - digit) * background
    np.testing.assert_allclose(texture_shift(data, "coded", 0).images / 255, expected, atol=1.01 / 255)


def test_without_its_texture_the_background_is_plain():
    data = blank(3)
    data.images[:, 5, 5] = 255
    images = texture_shift(data, "removed", 0, brightness=0.4).images
    assert np.unique(images).tolist() == [102, 255] and (images[:, 5, 5] == 255).all()


@pytest.mark.parametrize(("side", "least"), [(28, 0.97), (8, 0.6)])
def test_the_texture_tells_the_class(side, least):
    """Nearest mean of power spectra: fitted on some images, right on others."""

    def spectra(seed):
        data = blank(1000, side)
        power = np.abs(np.fft.rfft2(texture_shift(data, "coded", seed).images[..., 0] / 255.0 - 0.3)) ** 2
        return (power / power.sum((1, 2), keepdims=True)).reshape(1000, -1), data.labels

    (train, labels), (test, _) = spectra(0), spectra(1)
    means = np.stack([train[labels == c].mean(0) for c in range(10)])
    distances = ((test[:, None] - means[None]) ** 2).sum(-1)
    assert (distances.argmin(1) == labels).mean() > least


@pytest.mark.parametrize("angle", [0, 45, 90, 135])
def test_a_grating_is_one_wave_in_its_direction(angle):
    waves = grating(angle, period=8 * np.cos(np.radians(angle % 90)))(np.random.default_rng(0), 3, (32, 32))
    power = np.abs(np.fft.fft2(waves)) ** 2
    dy, dx = {0: (0, 4), 45: (4, 4), 90: (4, 0), 135: (4, -4)}[angle]  # cycles along 32 rows and columns
    np.testing.assert_allclose(power[:, dy, dx] + power[:, -dy, -dx], power.sum((1, 2)), rtol=1e-6)


def test_gratings_begin_anywhere():
    values = grating(0)(np.random.default_rng(0), 4000, (1, 1)).ravel()
    quantiles = np.quantile(values, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quantiles, [-(0.5**0.5), 0, 0.5**0.5], atol=0.1)  # the arcsine law


def test_a_checkerboard_alternates_every_cell():
    board = checkerboard(np.random.default_rng(0), 40, (12, 14), cell=3)
    np.testing.assert_array_equal(board[:, 3:], 1 - board[:, :-3])
    np.testing.assert_array_equal(board[:, :, 3:], 1 - board[:, :, :-3])
    assert len({piece.tobytes() for piece in board}) == 18  # 6 x 6 shifts, two of them the same board


def test_rings_depend_on_the_distance_from_their_center():
    (image,) = rings(Constant(0.25), 1, (20, 12), period=4)
    for row, column in ((5, 3), (5, 5), (8, 7), (1, 3), (19, 11)):
        radius = np.hypot(row - 5, column - 3)
        assert image[row, column] == pytest.approx(np.sin(np.pi / 2 * radius), abs=1e-12)


def test_dots_are_small_round_and_on_a_lattice():
    lattice = dots(np.random.default_rng(0), 5, (20, 20), spacing=5)
    np.testing.assert_allclose(lattice[:, 5:], lattice[:, :-5])
    np.testing.assert_allclose(lattice[:, :, 5:], lattice[:, :, :-5])
    high, low = lattice.max(), lattice.min()
    assert 0.05 < (lattice > (high + low) / 2).mean() < 0.25
    (centered,) = dots(Constant(0), 1, (5, 5))
    np.testing.assert_allclose(centered, centered.T)
    assert centered.argmax() == 0


@pytest.mark.parametrize("exponent", [-1, 0, 1])
def test_the_amplitude_of_noise_is_a_power_of_the_frequency(exponent):
    power = (np.abs(np.fft.fft2(noise(exponent)(np.random.default_rng(0), 500, (32, 32)))) ** 2).mean(0)
    cycles = np.fft.fftfreq(32)
    frequency = np.hypot(cycles[:, None], cycles[None])
    slope, _ = np.polyfit(np.log(frequency.ravel()[1:]), 0.5 * np.log(power.ravel()[1:]), 1)
    assert slope == pytest.approx(exponent, abs=0.02)


def test_a_piece_of_one_gray_is_a_plain_background():
    flat = dict.fromkeys(map(str, range(10)), lambda rng, count, shape: np.full((count, *shape), 0.7))
    np.testing.assert_array_equal(
        texture_shift(blank(10), "coded", 0, textures=flat).images, texture_shift(blank(10), "removed", 0).images
    )


# Photographs


def test_photographs_are_cropped_at_random_in_the_order_of_their_names(tmp_path):
    bright, dark = np.arange(12 * 14, dtype=np.uint8).reshape(12, 14), np.zeros((12, 14), np.uint8)
    Image.fromarray(bright).save(tmp_path / "b.png")
    Image.fromarray(dark).convert("RGB").save(tmp_path / "a.JPG")
    (tmp_path / "LICENSE.txt").write_text("no image")
    (tmp_path / "._a.JPG").write_bytes(b"what a file manager notes of a.JPG")
    textures = textures_in(tmp_path)
    assert list(textures) == ["a", "b"]
    pieces = textures["b"](np.random.default_rng(0), 300, (10, 9))
    tops, lefts = np.divmod(pieces[:, 0, 0].astype(int), 14)
    for piece, top, left in zip(pieces, tops, lefts, strict=True):
        np.testing.assert_array_equal(piece, bright[top : top + 10, left : left + 9])
    assert {(top, left) for top, left in zip(tops.tolist(), lefts.tolist(), strict=True)} == {
        (top, left) for top in range(3) for left in range(6)
    }
    assert not textures["a"](np.random.default_rng(0), 2, (12, 14)).any()


@pytest.mark.parametrize("shorter_side", [12, 48])
def test_photographs_are_resized_to_their_shorter_side(tmp_path, shorter_side):
    ramp = np.tile(np.linspace(0, 240, 36).astype(np.uint8), (24, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    shape = (shorter_side, shorter_side * 3 // 2)
    (whole,) = textures_in(tmp_path, shorter_side)["ramp"](np.random.default_rng(0), 1, shape)
    assert np.abs(whole - np.linspace(0, 240, shape[1])[None]).max() < 12
    with pytest.raises(ValueError, match="smaller"):
        textures_in(tmp_path, shorter_side)["ramp"](np.random.default_rng(0), 1, (shape[0] + 1, shape[1]))


def test_real_photographs_make_textures(shared_data):
    data = blank(20)
    textures = textures_in(shared_data / "textures" / "dtd10", shorter_side=84)
    images = texture_shift(data, "coded", 0, textures=textures).images / 255
    assert len({image.tobytes() for image in images}) == 20
    assert np.median(images.std((1, 2, 3))) == pytest.approx(0.15, abs=0.03)


def test_folders_without_readable_photographs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere has no \.png, \.jpg or \.jpeg files; give a folder with one"):
        textures_in(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no \.png"):
        textures_in(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG half a file")
    with pytest.raises(ValueError, match=r"a\.png is not a readable image"):
        textures_in(tmp_path)
    Image.fromarray(np.full((9, 9), 1000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png has mode I;16, more than 8 bits a channel"):
        textures_in(tmp_path)
    Image.fromarray(np.zeros((30, 20), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="shorter_side must be positive"):
        textures_in(tmp_path, 0)
    with pytest.raises(ValueError, match=r"one texture for each of the 10 classes; got 1: a; add or remove some"):
        texture_shift(blank(10), "coded", 0, textures=textures_in(tmp_path))
    textures = dict.fromkeys(map(str, range(10)), textures_in(tmp_path)["a"])
    with pytest.raises(ValueError, match=r"a\.png is 30x20, smaller than the images of 28x28"):
        texture_shift(blank(10), "coded", 0, textures=textures)


# Bad input


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
@pytest.mark.parametrize(
    ("changes", "variant", "message"),
    [
        ({}, "adversarial", "variant must be one of 'coded', 'removed', 'random'; got 'adversarial'"),
        ({"images": np.zeros((4, 28, 28, 1), np.float32)}, "coded", "of uint8; got ndarray of dtype float32"),
        ({"images": np.zeros((4, 28, 28), np.uint8)}, "coded", "and shape (4, 28, 28)"),
        ({"levels": 17}, "coded", "images must be in 0..16; got 200; correct Dataset.levels"),
        ({"labels": np.array([0, 1, 2, 10], np.int32)}, "coded", "labels must be in [0, 10)"),
        ({"labels": np.array([0, 1, 2], np.int32)}, "random", "labels must have shape [4]"),
    ],
)
def test_data_without_uint8_images_and_labels_are_refused(shift, changes, variant, message):
    data = blank(4, intensity=200)._replace(**changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        shift(data, variant, 0)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"brightness": 1.2}, "brightness must be in [0, 1]; got 1.2"),
        ({"contrast": 0.0}, "contrast must be positive; got contrast=0.0"),
        ({"textures": {"dots": TEXTURES["dots"]}}, "got 1: dots"),
    ],
)
def test_textures_out_of_range_are_refused(numbers, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        texture_shift(blank(4), "coded", 0, **numbers)
