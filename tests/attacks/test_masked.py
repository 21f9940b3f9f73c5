"""Masks, ranges of features and threats of one's own: every attack obeys the threat, for each image its own."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from invjax import attacks, evaluation
from invjax.attacks import (
    apgd,
    autoattack_stages,
    diagnose,
    fab,
    feature_adversary,
    fgsm,
    jit_attack,
    l0,
    l1,
    l2,
    line_search,
    linf,
    masked,
    pgd,
    smallest,
    square,
    transformed,
    worst_of,
)
from invjax.attacks.building import check_radius, climb, same_threat
from invjax.evaluation import Options, ThreatModel, benchmark, certificate_curve, report, robustness_curve
from invjax.features import non_transferable, robustify

COUNT, SHAPE, SIZE = 6, (4, 4, 2), 32
KEY, RNG = jax.random.key(0), np.random.default_rng(0)
X = (0.2 + 0.6 * RNG.random((COUNT, *SHAPE))).astype(np.float32)
W = RNG.normal(size=(SIZE, 2)).astype(np.float32)
MASK = RNG.random((4, 4, 1)) < 0.5
MASKS = RNG.random((COUNT, 4, 4, 1)) < 0.5
MASKS[4] = False


def linear(w, x):
    return x.reshape(len(x), -1) @ w


Y = np.asarray(linear(W, X)).argmax(1).astype(np.int32)


def needed_in_linf(masks):
    """The radius that flips each image of the linear model inside its mask, while no value reaches the box."""
    logits, inside = X.reshape(COUNT, -1).astype(np.float64) @ W, np.broadcast_to(masks, X.shape).reshape(COUNT, -1)
    slope = (inside * np.abs(W[:, 1] - W[:, 0])[None]).sum(1)
    return np.abs(logits[:, 1] - logits[:, 0]) / np.where(slope > 0, slope, 1e-9)


# A threat of one's own


def gray():
    """In l2, all channels of a pixel change alike, as far as the box allows."""

    def project(z, x, eps):
        change = (z - x).mean(-1, keepdims=True) * jnp.ones_like(x)
        length = jnp.sqrt((change**2).sum())
        change = change * jnp.minimum(1, eps / jnp.maximum(length, 1e-12))
        low, high = (0 - x).max(-1, keepdims=True), (1 - x).min(-1, keepdims=True)
        return x + jnp.clip(change, low, high)

    return l2()._replace(name="gray", project=project)


@pytest.mark.slow
def test_every_attack_stays_in_the_region_of_a_threat_of_ones_own():
    makes = {
        "pgd": lambda t: pgd(t, steps=3),
        "apgd": lambda t: apgd(t, steps=4),
        "fab": lambda t: fab(t, steps=6, targets=1),
        "square": lambda t: square(t, queries=6),
        "smallest": lambda t: smallest(pgd(t, steps=2), steps=3),
        "worst_of": lambda t: worst_of([fgsm(t), fab(t, steps=2, targets=1)]),
        "non_transferable": lambda t: non_transferable(lambda x: linear(W, x)[None], Y, t, steps=2),
    }
    alike = np.repeat(W[::2], 2, 0) + 0.1 * W  # channels of nearly equal weight: a step within the region crosses
    apply = partial(linear, alike)
    labels = np.asarray(apply(X)).argmax(1).astype(np.int32)
    run = jax.jit(lambda x, y: {name: make(gray())(KEY, apply, x, y, eps=1.5).x for name, make in makes.items()})
    for name, found in run(X, labels).items():
        change = np.asarray(found) - X
        assert (change != 0).any(), name
        np.testing.assert_allclose(change, np.repeat(change.mean(-1, keepdims=True), 2, -1), atol=1e-6, err_msg=name)


def test_a_threat_without_what_an_attack_needs_is_refused_by_name():
    bare = gray()._replace(to_hyperplane=None, order=None)
    for make in (apgd, fab, square, lambda t: autoattack_stages(t, num_classes=2)):
        with pytest.raises(ValueError, match="does not support the threat 'gray'; it supports 'linf', 'l2', 'l1'"):
            make(bare)
    with pytest.raises(ValueError, match="fab does not support the threat 'masked-l0'"):
        fab(masked(l0(), MASK))


def test_a_threat_can_differ_between_images_in_other_ways_than_a_mask():
    """Features may only rise, each image from its own values on."""
    low = jnp.asarray(X)
    rising = linf()._replace(name="rising", for_image=lambda i: linf((low[i], 1.0)))
    order = np.array([3, 1, 5])
    found = jit_attack(pgd(rising, steps=3), linear)(KEY, W, X[order], Y[order], eps=0.1, ids=order)
    change = np.asarray(found.x) - X[order]
    assert (change >= 0).all() and (change > 0.05).any() and (change == 0).any()


# One mask an image


def test_equal_masks_of_all_images_are_one_mask():
    one, each = masked(l2(), MASK), masked(l2(), np.repeat(MASK[None], COUNT, 0), per_image=True)
    found = [jit_attack(pgd(t, steps=3), linear)(KEY, W, X, Y, eps=0.5) for t in (one, each)]
    np.testing.assert_allclose(found[0].x, found[1].x, atol=1e-6)
    assert (np.asarray(found[0].x) != X).any((1, 2, 3)).all()


@pytest.mark.slow
def test_an_image_without_a_value_to_change_stays_as_it_is():
    for attack, eps in ((apgd(masked(l1(), MASKS, per_image=True), steps=4), 3.0),
                        (square(masked(l2(), MASKS, per_image=True), queries=5), 1.0),
                        (fab(masked(linf(), MASKS, per_image=True), steps=3, targets=1), 0.5)):  # fmt: skip
        found = jit_attack(attack, linear)(KEY, W, X, Y, eps=eps)
        np.testing.assert_array_equal(found.x[4], X[4])
        assert not np.isnan(found.loss).any() and (np.asarray(found.x) != X).any()


@pytest.mark.slow
def test_masks_in_masks_are_their_intersection():
    other = RNG.random((4, 4, 1)) < 0.7
    twice = masked(masked(l1(), MASK), other)
    assert twice.name == "masked-l1"
    np.testing.assert_array_equal(twice.mask, MASK & other)
    z, x = X[0] + RNG.normal(size=SHAPE).astype(np.float32), X[0]
    expected = masked(l1(), MASK & other).project(z, x, 1.0)
    np.testing.assert_array_equal(twice.project(z, x, 1.0), expected)
    for nested in (
        masked(masked(l1(), MASKS, per_image=True), other),
        masked(masked(l1(), other), MASKS, per_image=True),
    ):
        np.testing.assert_array_equal(nested.mask, MASKS & other[None])
        np.testing.assert_array_equal(
            nested.for_image(2).project(z, x, 1.0), masked(l1(), MASKS[2] & other).project(z, x, 1.0)
        )


@pytest.mark.slow
def test_square_covers_the_mask_in_each_query():
    """The mask is one pixel of many: most squares of the whole image would miss it."""
    mask = np.zeros((12, 12, 1), bool)
    mask[2, 9] = True
    x, labels = np.full((8, 12, 12, 1), 0.5, np.float32), np.zeros(8, np.int32)
    logits_fn = lambda z: jnp.stack([0.05 - (z[:, 2, 9, 0] - 0.5), z[:, 2, 9, 0] - 0.5], 1)  # noqa: E731
    for threat in (masked(linf(), mask), masked(l2(), mask)):
        found = square(threat, queries=20, fraction=0.02)(KEY, logits_fn, x, labels, eps=0.3)
        assert found.success.all(), threat.name


@pytest.mark.slow
def test_feature_adversaries_keep_what_is_outside_of_the_mask():
    targets = linear(W, X[::-1])
    for threat, masks in ((masked(l2(), MASK), MASK[None]), (masked(l2(), MASKS, per_image=True), MASKS)):
        found = feature_adversary(partial(linear, W), X, targets, eps=1.0, threat=threat, steps=5)
        outside = ~np.broadcast_to(masks, X.shape)
        np.testing.assert_array_equal(np.asarray(found.x)[outside], X[outside])
        assert (np.asarray(found.x) != X).any()


# A data set: masks follow the positions of the images


def test_a_curve_uses_the_mask_of_each_image(tmp_path):
    masks = MASKS | (np.arange(COUNT) == 4)[:, None, None, None] & MASK
    needed = needed_in_linf(masks)
    epsilons = np.quantile(needed, [0.1, 0.5, 0.7])  # between the radii that the images need
    first = needed[:, None] < epsilons[None]
    expected = np.where(first.any(1), epsilons[first.argmax(1)], np.inf)
    options = Options(batch_size=4, directory=tmp_path)
    threat = masked(linf((-9.0, 9.0)), masks, per_image=True)
    curve = partial(
        robustness_curve, KEY, apply_fn=linear, params=W, images=X, labels=Y, epsilons=epsilons, options=options
    )
    np.testing.assert_allclose(curve(attack=fgsm(threat)).broken_at, expected)
    np.testing.assert_allclose(curve(attack=fgsm(threat), vectorize=True).broken_at, expected)
    with pytest.raises(ValueError, match="attack"):  # another mask, which only the digest of the recipe tells
        curve(attack=fgsm(masked(linf((-9.0, 9.0)), masks[::-1].copy(), per_image=True)))


@pytest.mark.slow
def test_a_benchmark_and_a_report_use_the_mask_of_each_image():
    masks = MASKS | (np.arange(COUNT) == 4)[:, None, None, None] & MASK
    threat, needed = masked(linf((-9.0, 9.0)), masks, per_image=True), needed_in_linf(masks)
    eps = float(np.median(needed))
    stages = autoattack_stages(threat, num_classes=2, steps=3, queries=3)[:1]
    found = benchmark(KEY, linear, W, X, Y, threat=threat, eps=eps, stages=stages, options=Options(batch_size=4))
    np.testing.assert_array_equal(found.broken, needed < eps)
    outside = ~np.broadcast_to(masks, X.shape)
    np.testing.assert_array_equal(found.x[outside], X[outside])
    whole = linf((-9.0, 9.0))
    threats = [ThreatModel(fgsm(threat), eps, bisections=12), ThreatModel(fgsm(whole), eps, certify="ibp")]
    entries = report(KEY, linear, W, X, Y, threats=threats, options=Options(batch_size=4))
    near = entries.sensitivity["masked-linf"].smallest_eps
    reached = needed < 2 * eps
    np.testing.assert_allclose(near[reached], needed[reached], rtol=2e-3)
    assert evaluation.table(entries)[1].name == f"adversarial error, masked-linf, eps {eps:g}"
    with pytest.raises(ValueError, match="a threat to certify must be one of 'linf', 'l2'; got 'masked-linf'"):
        report(KEY, linear, W, X, Y, threats=[threats[0]._replace(certify="ibp")])


def test_an_attack_in_a_mask_or_in_ranges_is_compiled_once():
    from invjax.evaluation._curve import _program

    for threat in (masked(linf(), MASK), linf((np.zeros(SHAPE), np.ones(SHAPE)))):
        attack = fgsm(threat)
        assert hash(attack) == hash(replace(attack)) and attack == replace(attack)
        assert _program(attack, linear, False) is _program(replace(attack), linear, False)
        assert attack != replace(attack, threat=linf()) and threat != linf()
    assert same_threat(masked(linf(), MASK), masked(linf(), MASK.copy()))
    assert not same_threat(masked(linf(), MASK), masked(linf(), ~MASK))
    assert not same_threat(linf((np.zeros(2), 1.0)), linf((np.full(2, -1.0), 1.0)))
    with pytest.raises(ValueError, match="worst_of needs attacks of one threat"):
        worst_of([pgd(masked(linf(), MASK)), fgsm(masked(linf(), ~MASK))])


# Ranges of features


def test_certificates_hold_in_the_ranges_of_the_features():
    """IBP is exact on a linear model, so an image is certified where no change within ball and ranges flips it."""
    low, high = np.array([0.1, 0.0], np.float32), np.full(SHAPE, 0.9, np.float32)
    sign = np.where(Y == 0, 1, -1)[:, None]
    slope = sign * (W[:, 1] - W[:, 0])[None].astype(np.float64)
    flat = X.reshape(COUNT, -1).astype(np.float64)
    cap = np.where(slope > 0, np.broadcast_to(high, X.shape).reshape(COUNT, -1) - flat,
                   flat - np.broadcast_to(low, X.shape).reshape(COUNT, -1))  # fmt: skip
    gap = -(slope * flat).sum(1)
    needed = [0.05, 0.2, 0.4, 0.6]
    holds = np.stack([(np.abs(slope) * np.minimum(cap, eps)).sum(1) < gap for eps in needed], 1)
    assert holds.any() and (~holds).any()
    curve = certificate_curve(linear, W, X, Y, epsilons=needed, method="ibp", box=(low, high), slack=0.0)
    np.testing.assert_array_equal(curve.broken_at[:, None] > np.array(needed)[None], holds)


@pytest.mark.slow
def test_a_line_search_and_diagnose_take_ranges_and_masks():
    low, high = np.array([0.0, 0.1], np.float32), np.full(SHAPE, 1.0, np.float32)
    direction = np.where(Y == 0, 1, -1)[:, None, None, None] * (W[:, 1] - W[:, 0]).reshape(SHAPE)[None]
    t = line_search(partial(linear, W), X, Y, direction.astype(np.float32), eps=1.0, box=(low, high), points=10)
    ends = np.clip(X + np.asarray(t)[:, None, None, None] * direction, low, high)
    gap = (np.asarray(linear(W, ends.astype(np.float32))) * np.array([[1, -1]])).sum(1)
    np.testing.assert_allclose(gap, 0, atol=1e-4)
    for threat in (linf((low, high)), masked(linf(), MASKS, per_image=True)):
        names = {found.name for found in diagnose(KEY, linear, W, X, Y, eps=0.3, threat=threat, queries=5, show=None)}
        assert not names & {"image range", "radius", "unbounded", "gradients", "finite logits"}, names


def test_images_of_other_features_stay_in_the_ranges():
    low, high = np.array([0.45, 0.4], np.float32), np.full(SHAPE, 0.55, np.float32)
    inside = np.clip(X, low, high)
    found = np.asarray(robustify(KEY, partial(linear, W), inside, steps=4, step_size=2.0, box=(low, high)).x)
    assert (found >= low).all() and (found <= high).all() and (found == low).any() and (found == high).any()


# Bad input

MISTAKES = {
    "mask of other axes": (
        lambda: fgsm(masked(linf(), MASK[..., 0])),
        {},
        "must have the axes of an image of x, (4, 4, 2), of full length or of length 1; got (4, 4); add an axis",
    ),
    "mask of another size": (lambda: fgsm(masked(linf(), np.ones((5, 4, 1), bool))), {}, "length 1; got (5, 4, 1)"),
    "masks for one": (lambda: fgsm(masked(linf(), MASKS)), {}, "give one mask for each image with per_image=True"),
    "too few masks": (
        lambda: fgsm(masked(linf(), MASKS[:3], per_image=True)), {}, "has 3 masks for 6 images of x; give one mask"
    ),
    "ids beyond the masks": (
        lambda: fgsm(masked(linf(), MASKS, per_image=True)),
        {"ids": np.arange(3, 9)},
        "ids must be positions of the 6 masks of masked-linf; got ids from 3 to 8",
    ),
    "ranges of other features": (
        lambda: fgsm(linf((np.zeros(3), np.ones(3)))),
        {},
        "of shapes (3,) and (3,), do not broadcast against x of shape (6, 4, 4, 2); give one value",
    ),
    "images outside of their ranges": (
        lambda: fgsm(linf((np.array([0.0, 0.9]), np.array([1.0, 2.0])))),
        {},
        "x must lie in the box; got 96 of 192 values outside of it, the first at (0, 0, 0, 1): "
        f"{X[0, 0, 0, 1]:.4g} is not in (0.9, 2)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_mask_or_box_that_does_not_fit_is_refused(name, compiled):
    make, given, message = MISTAKES[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        if compiled:
            jit_attack(make(), linear)(KEY, W, X, Y, eps=0.1, **given)
        else:
            make()(KEY, partial(linear, W), X, Y, eps=0.1, **given)


def test_a_mask_of_numbers_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    with pytest.raises(ValueError, match=r"mask must be boolean, True where values may change; got float64; give mask"):
        masked(linf(), np.ones(3))


def test_evaluations_refuse_masks_of_another_number_of_images():
    attack = fgsm(masked(linf(), MASKS[:5], per_image=True))
    with pytest.raises(ValueError, match="masked-linf has 5 masks for 6 images of images"):
        robustness_curve(KEY, attack, linear, W, X, Y, epsilons=[0.1])


def test_the_functions_of_a_threat_with_many_masks_name_the_way_to_one_image():
    threat = masked(l2(), MASKS, per_image=True)
    with pytest.raises(ValueError, match=r"masked-l2 has one mask for each image, so ascent needs the position"):
        climb(lambda z: (z.sum((1, 2, 3)), jnp.zeros(len(z), bool)), threat, X, X, 0.1, jnp.ones(2))
    np.testing.assert_allclose(threat.distance(X[0] + 0.5, X[0]), 0.5 * np.sqrt(SIZE), rtol=1e-6)


def test_a_radius_that_reaches_all_of_the_mask_gives_a_warning():
    threat = masked(l0(), MASK)
    check_radius(threat, MASK.sum(), X)
    with pytest.warns(UserWarning, match=f"reaches every image of the box .*distance is {MASK.sum()}"):
        check_radius(threat, MASK.sum() + 1, X)


def test_a_moved_image_keeps_what_is_outside_of_the_mask():
    """The transform comes first; at radius 0 it is all that happens."""
    attack = jit_attack(transformed(pgd(masked(linf(), MASK), steps=2), tries=2, shift=1), linear)
    moved, changed = (np.asarray(attack(KEY, W, X, Y, eps=eps).x) for eps in (0.0, 0.1))
    outside = ~np.broadcast_to(MASK, X.shape)
    np.testing.assert_array_equal(changed[outside], moved[outside])
    assert (changed != moved).any() and attacks.masked is masked


@pytest.mark.slow
def test_each_image_may_have_its_own_mask_and_its_own_radius():
    attack, radii = pgd(masked(linf(), MASKS, per_image=True), steps=3), np.linspace(0.05, 0.2, COUNT)
    every = jit_attack(attack, linear)(KEY, W, X, Y, eps=radii)
    part = np.array([2, 5])
    some = attack(KEY, partial(linear, W), X[part], Y[part], eps=radii[part], ids=part)
    np.testing.assert_allclose(some.x, every.x[part], rtol=0, atol=1e-6)
    np.testing.assert_allclose(every.distance, np.where(MASKS.any((1, 2, 3)), radii, 0), atol=1e-6)


def test_one_mask_for_each_image_is_one_for_each():
    with pytest.raises(ValueError, match="1 masks for 6 images"):
        pgd(masked(linf(), MASKS[:1], per_image=True), steps=1)(KEY, partial(linear, W), X, Y, eps=0.1)


def test_a_moved_image_has_no_ranges_of_features():
    ranges = np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.float32)
    with pytest.raises(ValueError, match="got a box of arrays; give one range for all pixels"):
        transformed(pgd(linf(ranges), steps=1))
