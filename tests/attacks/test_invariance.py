"""Aligned neighbours against scipy's warps and a search of every pair; the attacks on images made for it."""

from collections import deque
from functools import partial
from itertools import combinations, product

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy import ndimage

from invjax.attacks import (
    Neighbours,
    affine_grid,
    aligned_neighbours,
    l0_invariance,
    linf_invariance,
    nearest_of,
    pixels_of,
    reference_bank,
    unwarp,
    warp,
)
from invjax.attacks._l0_invariance import _regions
from invjax.data import as_float, load

compiled_warp, compiled_unwarp = jax.jit(warp), jax.jit(unwarp)

TRANSFORMS = np.array(
    [[90, 0, 0, 1, 0], [0, 2, -1, 1, 0], [25, 2, 1, 1, 0], [-12, 0.3, -1.7, 0.8, 0.2], [50, -1, 2.5, 1.3, -0.3]],
    np.float32,
)


def matrix(transform):
    """T's linear part and shift, put together from its steps."""
    rotation, down, right, scale, shear = np.float64(transform)
    angle = np.deg2rad(rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.array([[1, 0], [shear, 1]]) @ np.diag([scale, scale]), np.array([down, right])


def scipy_warp(image, transform, backwards=False):
    """`warp` (or `unwarp`) by scipy's interpolation."""
    linear, shift = matrix(transform)
    if not backwards:
        linear = np.linalg.inv(linear)
        shift = -linear @ shift
    center = (np.array(image.shape[:2]) - 1) / 2
    return np.stack(
        [
            ndimage.affine_transform(
                np.float64(channel), linear, center + shift - linear @ center, order=1, mode="grid-constant"
            )
            for channel in np.moveaxis(image, -1, 0)
        ],
        -1,
    )


def blobs(size=32):
    """A smooth picture, zero near its border, that no turn, shift or shear leaves nearly as it is."""
    rows, columns = np.mgrid[:size, :size] - size / 2
    return sum(
        height * np.exp(-((rows - down) ** 2) / wide - (columns - right) ** 2 / narrow)
        for height, down, right, wide, narrow in ((0.9, -4, 1, 8, 20), (0.5, 4, -5, 12, 8), (0.7, 3, 5, 9, 9))
    )[..., None].astype(np.float32)


# Warps


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_warps_are_scipys(transform):
    image = np.random.default_rng(0).random((7, 10, 2)).astype(np.float32)  # neither square nor zero at its border
    np.testing.assert_allclose(compiled_warp(image, transform), scipy_warp(image, transform), atol=2e-5)
    np.testing.assert_allclose(
        compiled_unwarp(image, transform), scipy_warp(image, transform, backwards=True), atol=2e-5
    )


def test_directions_of_rotation_and_shift():
    image = np.random.default_rng(0).random((9, 9, 1)).astype(np.float32)
    np.testing.assert_allclose(compiled_warp(image, TRANSFORMS[0]), np.rot90(image), atol=1e-5)
    moved = np.asarray(compiled_warp(image, TRANSFORMS[1]))
    np.testing.assert_array_equal(moved[2:, :-1], image[:-2, 1:])
    assert not moved[:2].any() and not moved[:, -1:].any()
    np.testing.assert_array_equal(compiled_warp(image, np.float32([0, 0, 0, 1, 0])), image)


def test_unwarp_takes_warp_back_and_negated_numbers_do_not():
    image, transform = blobs(), np.float32([25, 3, 2.5, 1, 0])
    there = compiled_warp(image, transform)
    back = np.abs(compiled_unwarp(there, transform) - image).max()
    negated = np.abs(compiled_warp(there, transform * np.float32([-1, -1, -1, 1, 1])) - image).max()
    assert back < 0.1 and negated > 4 * back


def test_warps_have_the_gradients_of_differences(float64):
    image, weights = np.float64(blobs(8)), np.random.default_rng(1).random((8, 8, 1))
    transform = np.float64(TRANSFORMS[3]) + 0.01234  # between pixels

    @jax.jit
    @jax.value_and_grad
    def total_and_gradient(t):
        return (unwarp(image, t) * weights).sum()

    def total(t):
        return float(total_and_gradient(t)[0])

    gradient = np.asarray(total_and_gradient(transform)[1])
    for i in range(5):
        h = 1e-7 * np.eye(5)[i]
        np.testing.assert_allclose(gradient[i], (total(transform + h) - total(transform - h)) / 2e-7, rtol=1e-5)


def test_grid_is_the_published_one_unless_told_otherwise():
    grid = affine_grid()
    assert grid.shape == (775, 5) and grid.dtype == np.float32
    assert set(grid[:, 0]) == set(range(-30, 31, 2))
    assert {tuple(pair) for pair in grid[:, 1:3]} == set(product((-3, -1.5, 0, 1.5, 3), repeat=2))
    assert (grid[:, 3:] == [1, 0]).all()
    small = affine_grid(rotation=[0], shift=[0], scale=[0.5, 2], shear=[-1, 0, 1])
    assert small.tolist() == [[0, 0, 0, scale, shear] for scale in (0.5, 2) for shear in (-1, 0, 1)]


# Search

GRID = affine_grid(rotation=(-20, 0, 20), shift=(-1, 0, 0.5))


def digits(split, count):
    data = load("digits", split)
    return as_float(data.images[:count], data.levels), data.labels[:count]


BANK, BANK_LABELS = digits("train", 200)
X, LABELS = digits("test", 4)
KINDS = [("l0", None), ("l0", 5), ("l2", None), ("l2", 5), ("linf", 64)]


@pytest.mark.parametrize("norm, components", KINDS)
def test_bounds_never_exceed_the_distance(norm, components):
    bank = reference_bank(BANK, BANK_LABELS, norm=norm, components=components)
    queries = pixels_of(np.random.default_rng(0).random((7, 8, 8, 1)).astype(np.float32), norm)
    squared = ((bank.pixels[:, None] - queries[None]) ** 2).sum(2).min(1)
    bounds = np.asarray(bank.lower_bounds(queries))
    if components == 5:
        assert (bounds <= squared + 1e-4).all() and (bounds > 0.1 * squared).all()
    else:
        np.testing.assert_allclose(bounds, squared, rtol=1e-4)


@pytest.mark.parametrize("components", [1, 2, 6])
def test_search_finds_the_nearest_of_every_group(components):
    rng = np.random.default_rng(0)
    bank = reference_bank(rng.random((200, 2, 3, 1)).astype(np.float32), np.arange(200) % 2, norm="l2",
                          components=components)  # fmt: skip
    queries = rng.random((3, 6)).astype(np.float32)
    groups = [np.arange(150), np.arange(150, 198), np.arange(198, 200)]
    squared = ((bank.pixels[:, None] - queries[None]) ** 2).sum(2)
    rows, columns = nearest_of(bank, groups, queries, 3)
    for g, group in enumerate(groups):
        order = group[np.argsort(squared[group].min(1))][:3]
        assert rows[g].tolist() == [*order, *[order[0]] * (3 - len(order))]
    assert columns.tolist() == squared.argmin(1)[rows].tolist()


@pytest.mark.parametrize("norm, components", KINDS[:-1])
def test_neighbours_are_those_of_a_search_of_every_pair(norm, components):
    bank = reference_bank(BANK, BANK_LABELS, norm=norm, components=components)
    found = aligned_neighbours(X, LABELS, bank, transforms=GRID, candidates=1, steps=0, min_brightness=0)

    def black_and_white(images):
        return images > 0.5 if norm == "l0" else images

    identity = np.float32([0, 0, 0, 1, 0])
    for i, (x, label) in enumerate(zip(X, LABELS, strict=True)):
        warped = np.stack([scipy_warp(x, t) for t in GRID])
        assert found.classes[i].tolist() == [c for c in range(10) if c != label]
        for k, c in enumerate(found.classes[i]):
            members = np.flatnonzero(c == BANK_LABELS)
            options = []
            for queries, transforms in ((warped, GRID), (x[None], identity[None])):
                gaps = black_and_white(BANK[members])[:, None] * 1.0 - black_and_white(queries)[None] * 1.0
                squared = (gaps**2).sum((2, 3, 4))
                for a, t in np.argwhere(squared <= squared.min() + 1e-4):  # a tie has two valid answers
                    moved = scipy_warp(BANK[members[a]], transforms[t], backwards=True)
                    gap = (black_and_white(moved) * 1.0 - black_and_white(x) * 1.0) ** 2
                    options.append((gap.sum() if norm == "l0" else np.sqrt(gap.sum()), members[a], moved))
            match = [option for option in options if abs(option[0] - found.distance[i, k]) < 1e-3]
            assert found.ids[i, k] in [option[1] for option in match]
            assert found.distance[i, k] <= max(option[0] for option in options) + 1e-3
            assert any(np.abs(black_and_white(m) - found.images[i, k]).max() < 1e-3 for _, _, m in match)


@pytest.mark.parametrize("norm", ["l0", "l2", "linf"])
def test_neighbours_are_nearer_than_without_transforms_and_than_the_grid(norm):
    bank = reference_bank(BANK, BANK_LABELS, norm=norm)
    found, still, rough = (
        aligned_neighbours(X, LABELS, bank, candidates=1, **options)
        for options in (
            {"transforms": GRID},
            {"transforms": affine_grid(rotation=[0], shift=[0])},
            {"transforms": GRID, "steps": 0},
        )
    )
    cut = (lambda images: images > 0.5) if norm == "l0" else (lambda images: images)
    gap = np.abs(cut(found.images) * 1.0 - cut(X)[:, None] * 1.0)
    measured = {"l0": gap.sum((2, 3, 4)), "l2": np.sqrt((gap**2).sum((2, 3, 4))), "linf": gap.max((2, 3, 4))}[norm]
    np.testing.assert_allclose(found.distance, measured, rtol=1e-5)
    assert (found.distance <= rough.distance).all() and (rough.distance <= still.distance + 1e-6).all()
    assert found.distance.mean() < rough.distance.mean() < still.distance.mean()
    assert (BANK_LABELS[found.ids] == found.classes).all()
    assert (found.transforms >= GRID.min(0) - 1e-5).all() and (found.transforms <= GRID.max(0) + 1e-5).all()
    assert (found.transforms[..., 3:] == [1, 0]).all()  # the grid has no other scale and no shear
    for image, row, transform in zip(found.images[0], found.ids[0], found.transforms[0], strict=True):
        np.testing.assert_allclose(image, cut(scipy_warp(BANK[row], transform, backwards=True)), atol=1e-4)
    if norm == "l2":
        flat = [BANK.reshape(200, 64), X.reshape(4, 64)]
        for i, c in np.ndindex(4, 9):
            members = flat[0][found.classes[i, c] == BANK_LABELS]
            np.testing.assert_allclose(still.distance[i, c], np.linalg.norm(members - flat[1][i], axis=1).min(), 1e-5)


FINE = affine_grid(rotation=(-10, 0, 10), shift=(-2, 0, 2), scale=(0.9, 1, 1.2), shear=(-0.1, 0.1))


@pytest.mark.slow
def test_a_moved_copy_is_found_and_moved_back():
    # another class contains x, turned, shifted, enlarged and sheared between the points of the grid
    x, moved = np.zeros((28, 28, 3), np.float32), np.float32([7, 1.3, -0.6, 1.12, 0.08])
    x[..., :1] = blobs(28)
    rng = np.random.default_rng(0)
    bank = np.stack([compiled_warp(x, moved), *rng.random((5, 28, 28, 3)).astype(np.float32) ** 4, x])
    bank = reference_bank(bank, np.array([1, 1, 1, 2, 2, 2, 0]), norm="l2", components=64)
    rough, found = (aligned_neighbours(x[None], np.array([0]), bank, transforms=FINE, steps=steps) for steps in (0, 12))
    assert found.ids[0, 0] == 0 and found.classes.tolist() == [[1, 2]]
    assert found.distance[0, 0] < 0.25 < 0.3 * rough.distance[0, 0]
    np.testing.assert_allclose(found.transforms[0, 0], moved, atol=0.12)


def test_an_image_that_loses_pixels_at_the_border_is_no_neighbour():
    # another class contains x three rows lower under a line, which the inverse shift moves out of the image
    x, other = np.zeros((2, 8, 8, 1), np.float32)
    x[1:3, 2:4] = other[4:6, 2:4] = other[0] = 1
    bank = reference_bank(np.stack([x] + [other] * 9), np.arange(10), norm="l2")
    grid = affine_grid(rotation=[0], shift=(0, 3))
    near = partial(aligned_neighbours, x[None], np.array([0]), bank, transforms=grid, steps=0, candidates=1)
    assert not near(min_brightness=0).distance.any() and (near(min_brightness=0).images == x).all()
    np.testing.assert_allclose(near().distance, 4)
    assert (near().images == other).all()


@pytest.mark.slow
def test_color_images_and_batches_of_any_size():
    rng = np.random.default_rng(0)
    images = rng.random((7, 28, 28, 3)).astype(np.float32)  # the same shape as above, which is compiled already
    bank = reference_bank(images, np.arange(7) % 3, norm="l2", components=64)
    options = {"transforms": FINE, "steps": 2}
    both = aligned_neighbours(images[:2] ** 2, np.array([0, 1]), bank, **options)
    one = aligned_neighbours(images[1:2] ** 2, np.array([1]), bank, **options)
    assert both.images.shape == (2, 2, 28, 28, 3) and both.classes.tolist() == [[1, 2], [0, 2]]
    for batch, single in zip(both, one, strict=True):
        np.testing.assert_array_equal(batch[1:], single)


@pytest.mark.slow  # it searches all 60,000 training images
def test_published_neighbours_are_matched(shared_data):
    folder = shared_data / "excessive_invariance" / "linf_attack"
    x = as_float(np.load(folder / "X_test_100.npy")[:2, ..., None])
    train = load("mnist", "train", shared_data)
    classes = np.load(folder / "all_y_nns.npy")[:2]
    labels = 45 - classes.sum(1, dtype=np.int32)  # the class that is not among the nine others
    found = aligned_neighbours(x, labels, reference_bank(as_float(train.images), train.labels, norm="l2"))
    stored = as_float(np.load(folder / "all_nns.npy")[:2, ..., None])
    stored = np.sqrt(((stored - x[:, None]) ** 2).sum((2, 3, 4)))
    assert (found.classes == np.sort(classes, 1)).all()
    assert (found.distance <= np.take_along_axis(stored, np.argsort(classes, 1), 1)).all()


# Bad input


@pytest.mark.parametrize(
    "options, words",
    [
        ({"rotation": []}, "rotation must hold at least one value"),
        ({"shear": ()}, "shear must hold at least one value"),
        ({"scale": (1, 0)}, "scale must be positive"),
    ],
)
def test_bad_arguments_of_the_grid_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        affine_grid(**options)


@pytest.mark.parametrize(
    "images, labels, options, words",
    [
        (BANK, BANK_LABELS, {"norm": "l1"}, "norm must be one of 'l0', 'l2', 'linf'; got 'l1'"),
        (BANK * 255, BANK_LABELS, {}, r"images must lie in \(0.0, 1.0\)"),
        (BANK, BANK_LABELS[:-1], {}, r"labels must have shape \[200\], one for each image; got \(199,\)"),
        (BANK, 0 * BANK_LABELS + 3, {}, r"the bank must hold images of two classes or more; got \[3\]"),
        (BANK, BANK_LABELS, {"components": 0}, "components must be positive"),
    ],
)
def test_bad_arguments_of_the_bank_are_refused(images, labels, options, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    with pytest.raises(ValueError, match=words):
        reference_bank(images, labels, **{"norm": "l2"} | options)


@pytest.mark.parametrize(
    "x, labels, options, words",
    [
        (X[:, :6], LABELS, {}, r"x must have images of the bank's size \(8, 8, 1\); got \(6, 8, 1\)"),
        (X - 1, LABELS, {}, r"x must lie in \(0.0, 1.0\)"),
        (X * np.nan, LABELS, {}, "x holds 256 NaN"),
        (X, LABELS[:3], {}, r"labels must have shape \[4\]"),
        (X[:0], LABELS[:0], {}, "x must hold at least one example; got shape"),
        (X, LABELS + 10, {}, r"the bank has no image of the classes \[10, 12, 14, 17\] of x"),
        (X, LABELS, {"transforms": GRID[:0]}, r"transforms must be \[T, 5\], .*; got \(0, 5\)"),
        (X, LABELS, {"transforms": GRID * np.float32([1, 1, 1, 0, 1])}, "scale must be positive"),
        (X, LABELS, {"transforms": GRID * np.float32(np.nan)}, "transforms holds"),
        (X, LABELS, {"candidates": 0}, "candidates must be positive"),
    ],
)
def test_bad_arguments_of_the_alignment_are_refused(x, labels, options, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=words):
        aligned_neighbours(x, labels, reference_bank(BANK, BANK_LABELS, norm="l2"), **options)


def test_a_bank_of_another_norm_is_refused():
    bank = reference_bank(BANK, BANK_LABELS, norm="l2")._replace(norm="l1")
    with pytest.raises(ValueError, match="norm of the bank must be one of 'l0', 'l2', 'linf'; got 'l1'"):
        aligned_neighbours(X, LABELS, bank)


# Within the linf ball

RNG = np.random.default_rng(0)


def neighbours_of(images, classes):
    images, classes = np.asarray(images, np.float32), np.asarray(classes)
    zeros = np.zeros(classes.shape)
    return Neighbours(images, classes, zeros, zeros.astype(int), np.zeros((*classes.shape, 5)))


START = RNG.random((6, 4, 4, 1)).astype(np.float32)
OTHERS = neighbours_of(RNG.random((6, 3, 4, 4, 1)), np.tile([2, 5, 7], (6, 1)))


def test_linf_goes_as_far_towards_a_neighbour_as_the_ball_allows():
    eps = 0.3
    found = linf_invariance(START, OTHERS, eps=eps)
    towards = OTHERS.images[np.arange(6), found.neighbour]
    allowed = np.abs(towards - START) <= eps
    assert 0 < allowed.mean() < 1
    np.testing.assert_array_equal(found.x[allowed], towards[allowed])
    np.testing.assert_allclose((found.x - START)[~allowed], eps * np.sign(towards - START)[~allowed], atol=1e-6)
    np.testing.assert_allclose(found.distance, np.abs(found.x - START).max((1, 2, 3)))
    assert found.distance.max() <= eps + 1e-6 and found.x.min() >= 0 and found.x.max() <= 1
    beyond = np.maximum(np.abs(OTHERS.images - START[:, None]) - eps, 0)
    assert found.neighbour.tolist() == (beyond**2).sum((2, 3, 4)).argmin(1).tolist()
    assert len(set(found.neighbour.tolist())) > 1 and found.success is None
    assert found.target.tolist() == [[2, 5, 7][i] for i in found.neighbour]
    whole = linf_invariance(START, OTHERS, eps=1)
    np.testing.assert_array_equal(whole.x, OTHERS.images[:, 0])


def test_linf_prefers_examples_that_the_judge_accepts():
    free = linf_invariance(START, OTHERS, eps=0.3)
    fifth = np.clip(OTHERS.images[:, 1], START - np.float32(0.3), START + np.float32(0.3))
    seen_in = fifth[[0, 1, 3]]  # the judge sees a 5 in these three images only

    def judge(x):
        same = np.abs(np.asarray(x)[:, None] - seen_in[None]).max((2, 3, 4)).min(1) < 1e-6
        return np.where(same, 5, np.where(np.asarray(x)[:, 0, 0, 0] > 0.5, 9, -1))

    found = linf_invariance(START, OTHERS, eps=0.3, judge=judge, batch_size=4)
    assert found.success.tolist() == [True, True, False, True, False, False]
    np.testing.assert_array_equal(found.x[[0, 1, 3]], seen_in)
    assert (found.target[[0, 1, 3]] == 5).all() and not (free.target[[0, 1, 3]] == 5).all()
    np.testing.assert_array_equal(found.x[[2, 4, 5]], free.x[[2, 4, 5]])
    logits = linf_invariance(START, OTHERS, eps=0.3, judge=lambda x: (judge(x)[:, None] == np.arange(10)) + 0.5)
    np.testing.assert_array_equal(logits.x, found.x)


@pytest.mark.parametrize("eps", [0, 1.01, -0.1, np.nan, 30])
def test_linf_refuses_other_radii(eps):
    with pytest.raises(ValueError, match="eps must"):
        linf_invariance(START, OTHERS, eps=eps)


# Within the l0 ball


def flood(differ):
    """Connected regions with corners, by walking: a list of sets of pixels."""
    left, found = {tuple(p) for p in np.argwhere(differ)}, []
    while left:
        region, queue = set(), deque([min(left)])
        while queue:
            p = queue.popleft()
            if p in left:
                left.remove(p)
                region.add(p)
                queue.extend((p[0] + i, p[1] + j) for i, j in product((-1, 0, 1), repeat=2))
        found.append(region)
    return sorted(found, key=len, reverse=True)


def test_regions_are_connected_within_their_image_and_the_small_ones_are_one():
    differ = np.random.default_rng(3).random((20, 7, 8)) < 0.25
    differ[3] = False
    differ[4:6, :2] = True  # the same pixels in neighbouring images
    region, sizes = _regions(differ, 3)
    assert sizes.shape == (20, 3) and (region >= 0).tolist() == differ.tolist()
    for image, (numbers, expected) in enumerate(zip(region, map(flood, differ), strict=True)):
        lengths = [len(r) for r in expected]
        assert sizes[image].tolist() == [*lengths[:2], *[0] * (2 - len(lengths[:2])), sum(lengths[2:])]
        for part in expected:
            assert len({numbers[p] for p in part}) == 1
        for k, size in enumerate(sizes[image]):
            assert (numbers == k).sum() == size


BLACK = np.zeros((5, 9, 9, 1), np.float32)
PARTS = neighbours_of(np.random.default_rng(5).random((5, 2, 9, 9, 1)) < 0.12, np.tile([1, 2], (5, 1)))


@pytest.mark.parametrize("batch_size", [7, 500])
def test_l0_finds_the_smallest_subset_that_the_judge_accepts(batch_size):
    weights = np.random.default_rng(6).normal(size=(81, 3)).astype(np.float32)
    bias = np.float32([4, 0, 0])

    def judge(x):
        return np.asarray(x).reshape(-1, 81) @ weights + bias[None]

    x = (np.random.default_rng(7).random((5, 9, 9, 1)) < 0.1).astype(np.float32)
    found = l0_invariance(x, PARTS, judge=judge, regions=8, batch_size=batch_size)
    assert found.success.any() and not found.success.all()
    for i in range(5):
        best = np.inf
        for k in range(2):
            target = PARTS.images[i, k]
            regions = flood(np.abs(target - x[i])[..., 0] > 0.5)
            regions = [*regions[:7], set().union(*regions[7:])] if len(regions) > 8 else regions
            for count in range(1, len(regions) + 1):
                for subset in combinations(regions, count):
                    z = x[i].copy()
                    for p in set().union(*subset):
                        z[p] = target[p]
                    if np.asarray(judge(z[None])).argmax() == k + 1:
                        best = min(best, np.abs(z - x[i]).sum())
        assert found.success[i] == np.isfinite(best)
        changed = np.abs(found.x[i] - x[i]).sum()
        assert found.distance[i] == changed
        if found.success[i]:
            assert changed == best and np.asarray(judge(found.x[i][None])).argmax() == found.target[i]
        else:  # all pixels of the nearest neighbour
            pixels = np.abs(PARTS.images[i] - x[i][None]).sum((1, 2, 3))
            assert found.neighbour[i] == pixels.argmin() and changed == pixels.min()
            np.testing.assert_array_equal(found.x[i], PARTS.images[i, pixels.argmin()])
        assert found.target[i] == found.neighbour[i] + 1


def test_l0_keeps_pixels_that_differ_by_less_than_a_half():
    x = np.full((1, 9, 9, 1), 0.2, np.float32)
    target = np.full((1, 1, 9, 9, 1), 0.4, np.float32)
    target[0, 0, 4, 4:7] = 1
    found = l0_invariance(x, neighbours_of(target, [[3]]), judge=lambda z: jnp.full(len(z), 3))
    assert found.distance.tolist() == [3] and found.success.all() and found.target.tolist() == [3]
    expected = x.copy()
    expected[0, 4, 4:7] = 1
    np.testing.assert_array_equal(found.x, expected)


def test_l0_makes_no_unnecessary_query_of_the_judge():
    asked = []

    def judge(x):
        asked.append(np.asarray(x).sum((1, 2, 3)))
        return np.ones(len(x), int)  # the judge accepts every image of class 1

    found = l0_invariance(BLACK, PARTS, judge=judge, regions=8, batch_size=10)
    assert found.success.all() and (found.target == 1).all()
    assert len(asked) < 40 and np.concatenate(asked).max() < 10


def test_a_neighbour_equal_to_the_image_is_no_example():
    found = l0_invariance(BLACK, neighbours_of(BLACK[:, None], np.full((5, 1), 4)), judge=lambda z: np.full(len(z), 4))
    assert not found.success.any() and not found.distance.any()
    np.testing.assert_array_equal(found.x, BLACK)


@pytest.mark.parametrize("regions", [0, 17])
def test_l0_refuses_other_numbers_of_regions(regions):
    with pytest.raises(ValueError, match=f"regions must be from 1 to 16, .*; got regions={regions}"):
        l0_invariance(BLACK, PARTS, judge=lambda z: jnp.zeros(len(z), int), regions=regions)


@pytest.mark.parametrize("attack", [partial(linf_invariance, eps=0.3), l0_invariance], ids=["linf", "l0"])
def test_attacks_refuse_other_images_and_judges_that_do_not_judge(attack):
    def judging(answer):
        return {"judge": lambda x: answer(len(x))}

    good = judging(lambda n: jnp.zeros(n, int))
    with pytest.raises(ValueError, match=r"neighbours must be those of x \(4, 9, 9, 1\); got neighbours of 5 images"):
        attack(BLACK[:4], PARTS, **good)
    with pytest.raises(ValueError, match=r"x must lie in \(0.0, 1.0\)"):
        attack(BLACK + 3, PARTS, **good)
    with pytest.raises(ValueError, match="the judge's logits holds"):
        attack(BLACK, PARTS, **judging(lambda n: jnp.full((n, 3), jnp.nan)))
    with pytest.raises(ValueError, match=r"the judge must give logits .* got float32 \("):
        attack(BLACK, PARTS, **judging(lambda n: jnp.zeros(n)))
