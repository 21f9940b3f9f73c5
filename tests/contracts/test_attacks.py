"""Every attack keeps the same promises. A new one is one line in ATTACKS and inherits every check.

The network of the general checks is one of flax, the linear models of the optimum checks are bare functions.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.optimize
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from invjax.attacks import (
    THREATS,
    Attack,
    Threat,
    apgd,
    apgd_targeted,
    autoattack,
    confident,
    fab,
    fgsm,
    iterated_ll,
    jit_attack,
    l0,
    l1,
    l2,
    linf,
    masked,
    pgd,
    restarts,
    smallest,
    square,
    step_ll,
    top_k,
    transformed,
    worst_of,
)
from invjax.features import relabel_by_attack
from invjax.losses import log_odds, margin
from invjax.models import mlp

SHAPE, CLASSES, BATCH = (5, 5, 2), 5, 6
SIZE = 50
ONE_BY_ONE = l1(fraction=1 / SIZE)  # the steepest l1 step moves one value
MASK = np.random.default_rng(4).random((*SHAPE[:2], 1)) < 0.6  # whole pixels
MASKS = np.random.default_rng(5).random((BATCH, *SHAPE)) < 0.6  # single values, other ones for each image
RANGES = tuple(
    edge.astype(np.float32)
    for edge in (-np.random.default_rng(6).random(SHAPE), 1 + np.random.default_rng(7).random(SHAPE[-1:]))
)


def minus_log_odds(logits, labels):
    return -log_odds(logits, labels)


def minus_margin(logits, labels):
    return -margin(logits, labels)


def second_margin(logits, labels):
    """The margin to the second best wrong class."""
    wrong = np.where(np.eye(CLASSES, dtype=bool)[labels], -np.inf, logits)
    return np.sort(wrong, 1)[:, -2] - np.asarray(logits)[np.arange(len(labels)), labels]


def not_in_top_2(logits, labels):
    return second_margin(logits, labels) > 0


def confidently_wrong(logits, labels):
    """Whether another class has the probability 0.4."""
    probs = np.exp(np.asarray(logits, np.float64))
    probs /= probs.sum(1, keepdims=True)
    return np.where(np.eye(CLASSES, dtype=bool)[labels], 0, probs).max(1) >= 0.4


class Member(NamedTuple):
    make: Callable[[int], Attack]  # steps -> attack
    threat: Threat
    eps: float
    draws: bool = False  # whether the key matters
    targeted: bool = False
    climbs: Callable | None = log_odds  # (logits, labels) -> loss of the result, if one function gives it
    optimum: tuple[float, float] | None = (1.0, 1.0)  # fraction of the optimum reached: in mid-box, at its edges
    nearest: bool = False  # whether the attack minimises the distance instead of maximising the loss
    rule: Callable | None = None  # (logits, labels) -> success, if it is not a wrong prediction or the target


ATTACKS = {
    "fgsm-linf": Member(lambda steps: fgsm(), linf(), 0.1),
    "fgsm-l2": Member(lambda steps: fgsm(l2()), l2(), 0.5, optimum=(1.0, 0.65)),
    "fgsm-l1": Member(lambda steps: fgsm(ONE_BY_ONE), ONE_BY_ONE, 0.4, optimum=(1.0, 0.0)),
    "fgsm-l0": Member(lambda steps: fgsm(l0()), l0(), 3.0, optimum=(1.0, 0.6)),
    "step_ll": Member(lambda steps: step_ll(), linf(), 0.1, climbs=None, optimum=None),
    "iterated_ll": Member(lambda steps: iterated_ll(steps=steps), linf(), 0.1, climbs=None, optimum=None),
    "pgd-linf": Member(lambda steps: pgd(steps=steps), linf(), 0.1, draws=True),
    "pgd-l2": Member(lambda steps: pgd(l2(), steps=steps), l2(), 0.5, draws=True, optimum=(0.97, 0.95)),
    "pgd-l1": Member(lambda steps: pgd(l1(fraction=0.1), steps=steps), l1(), 2.0, draws=True, optimum=(0.96, 0.95)),
    "pgd-l0": Member(lambda steps: pgd(l0(), steps=steps), l0(), 3.0, draws=True, optimum=(1.0, 0.4)),
    "pgd-targeted": Member(
        lambda steps: pgd(steps=steps, targeted=True), linf(), 0.1, draws=True, targeted=True, climbs=minus_log_odds,
        optimum=None,
    ),
    "apgd-linf": Member(lambda steps: apgd(steps=steps), linf(), 0.1, draws=True),
    "apgd-l2": Member(lambda steps: apgd(l2(), steps=steps), l2(), 0.5, draws=True, optimum=(1.0, 0.95)),
    "apgd-l1": Member(lambda steps: apgd(l1(), steps=steps), l1(), 2.0, draws=True, optimum=(0.999, 0.97)),
    "apgd_targeted": Member(
        lambda steps: apgd_targeted(steps=steps, targets=2), linf(), 0.1, draws=True, climbs=None
    ),
    "fab-linf": Member(
        lambda steps: fab(steps=steps, targets=2), linf(), 0.2, climbs=None, optimum=(0.99, 0.99), nearest=True
    ),
    "fab-l2": Member(
        lambda steps: fab(l2(), steps=steps, targets=2), l2(), 1.0, climbs=None, optimum=(0.99, 0.99), nearest=True
    ),
    "fab-l1": Member(
        lambda steps: fab(l1(), steps=steps, targets=2), l1(), 5.0, climbs=None, optimum=(0.99, 0.99), nearest=True
    ),
    "square-linf": Member(
        lambda steps: square(queries=5 * steps), linf(), 0.2, draws=True, climbs=margin, optimum=None
    ),
    "square-l2": Member(
        lambda steps: square(l2(), queries=5 * steps), l2(), 1.0, draws=True, climbs=margin, optimum=None
    ),
    "square-l1": Member(
        lambda steps: square(l1(), queries=5 * steps), l1(), 5.0, draws=True, climbs=margin, optimum=None
    ),
    "restarts": Member(lambda steps: restarts(pgd(l2(), steps=steps), 2), l2(), 0.5, draws=True, optimum=(0.97, 0.95)),
    "worst_of": Member(
        lambda steps: worst_of([fgsm(), pgd(steps=steps)]), linf(), 0.1, draws=True, climbs=log_odds
    ),
    "smallest": Member(
        lambda steps: smallest(pgd(l2(), steps=steps), steps=10), l2(), 1.0, draws=True, climbs=None,
        optimum=(0.96, 0.93), nearest=True,
    ),
    "apgd-labels": Member(
        lambda steps: apgd(steps=steps, targeted=True), linf(), 0.1, draws=True, targeted=True, climbs=minus_log_odds,
        optimum=None,
    ),
    "fab-labels": Member(
        lambda steps: fab(l2(), steps=steps, targeted=True), l2(), 1.0, targeted=True, climbs=None, optimum=None
    ),
    "square-labels": Member(
        lambda steps: square(queries=5 * steps, targeted=True), linf(), 0.2, draws=True, targeted=True,
        climbs=minus_margin, optimum=None,
    ),
    "top_k": Member(
        lambda steps: top_k(pgd(steps=steps, loss=margin), 2), linf(), 0.1, draws=True, climbs=second_margin,
        optimum=None, rule=not_in_top_2,
    ),
    "confident": Member(
        lambda steps: confident(pgd(steps=steps), 0.4), linf(), 0.1, draws=True, climbs=None, optimum=None,
        rule=confidently_wrong,
    ),
    # one mask, one mask for each image, and a range for each value
    "pgd-l2-mask": Member(
        lambda steps: pgd(masked(l2(), MASK), steps=steps), masked(l2(), MASK), 1.0, draws=True, optimum=(0.97, 0.93)
    ),
    "pgd-l0-mask": Member(
        lambda steps: pgd(masked(l0(), MASK), steps=steps), masked(l0(), MASK), 4.0, draws=True, optimum=(0.97, 0.4)
    ),
    "apgd-linf-mask": Member(
        lambda steps: apgd(masked(linf(), MASK), steps=steps), masked(linf(), MASK), 0.2, draws=True
    ),
    "apgd-l1-mask": Member(
        lambda steps: apgd(masked(l1(), MASK), steps=steps), masked(l1(), MASK), 3.0, draws=True, optimum=(0.998, 0.97)
    ),
    "fab-l2-mask": Member(
        lambda steps: fab(masked(l2(), MASK), steps=steps, targets=2), masked(l2(), MASK), 1.5, climbs=None,
        optimum=(0.99, 0.99), nearest=True,
    ),
    "fab-l1-mask": Member(
        lambda steps: fab(masked(l1(), MASK), steps=steps, targets=2), masked(l1(), MASK), 5.0, climbs=None,
        optimum=(0.99, 0.99), nearest=True,
    ),
    "square-linf-mask": Member(
        lambda steps: square(masked(linf(), MASK), queries=5 * steps), masked(linf(), MASK), 0.3, draws=True,
        climbs=margin, optimum=None,
    ),
    "square-l2-mask": Member(
        lambda steps: square(masked(l2(), MASK), queries=5 * steps), masked(l2(), MASK), 1.5, draws=True,
        climbs=margin, optimum=None,
    ),
    "pgd-linf-masks": Member(
        lambda steps: pgd(masked(linf(), MASKS, per_image=True), steps=steps), masked(linf(), MASKS, per_image=True),
        0.2, draws=True,
    ),
    "apgd-l1-masks": Member(
        lambda steps: apgd(masked(l1(), MASKS, per_image=True), steps=steps), masked(l1(), MASKS, per_image=True),
        3.0, draws=True, optimum=(0.98, 0.97),
    ),
    "smallest-l2-masks": Member(
        lambda steps: smallest(fab(masked(l2(), MASKS, per_image=True), steps=steps, targets=2), steps=6),
        masked(l2(), MASKS, per_image=True), 1.5, climbs=None, optimum=(0.99, 0.99), nearest=True,
    ),
    "pgd-l0-ranges": Member(
        lambda steps: pgd(l0(RANGES), steps=steps), l0(RANGES), 3.0, draws=True, optimum=(0.9, 0.4)
    ),
    "apgd-l1-ranges": Member(
        lambda steps: apgd(l1(RANGES), steps=steps), l1(RANGES), 2.0, draws=True, optimum=(0.97, 0.97)
    ),
    "fab-linf-ranges": Member(
        lambda steps: fab(linf(RANGES), steps=steps, targets=2), linf(RANGES), 0.2, climbs=None, optimum=(0.99, 0.99),
        nearest=True,
    ),
    "square-l2-ranges": Member(
        lambda steps: square(l2(RANGES), queries=5 * steps), l2(RANGES), 1.0, draws=True, climbs=margin, optimum=None
    ),
}  # fmt: skip
# members whose code another member runs too; the slow tier tests them
SLOW = (
    "fgsm-l2", "fgsm-l1", "step_ll", "apgd-l2", "fab-linf", "fab-l1", "square-l2", "apgd-labels", "square-labels",
    "confident", "pgd-l2-mask", "pgd-l0-mask", "apgd-linf-mask", "fab-l1-mask", "square-linf-mask", "apgd-l1-masks",
    "smallest-l2-masks", "apgd-l1-ranges", "square-l2-ranges",
    "fab-l2-mask", "apgd-l1-mask", "square-l2-mask", "fab-linf-ranges", "pgd-l0-ranges",
)  # fmt: skip


def of_attacks(names):
    """Parametrize a test over attacks."""
    return pytest.mark.parametrize(
        "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else []) for n in names]
    )


EVERY = of_attacks(ATTACKS)
LENGTH = {
    "linf": lambda d: np.abs(d).max((1, 2, 3)),
    "l2": lambda d: np.sqrt((d**2).sum((1, 2, 3))),
    "l1": lambda d: np.abs(d).sum((1, 2, 3)),
    "l0": lambda d: (d != 0).any(-1).sum((1, 2)),
}
LENGTH[ONE_BY_ONE.name] = LENGTH["l1"]
LENGTH |= {f"masked-{name}": length for name, length in LENGTH.items()}
NET = mlp(CLASSES, (8,))
KEY, STEPS = jax.random.key(1), 12


def images(seed=0):
    x = np.random.default_rng(seed).random((BATCH, *SHAPE))
    x[:, 0] = x[:, 0] > 0.5  # some pixels at the box
    return x.astype(np.float32)


@cache
def trained(seed=0):
    """Scaled up, so that an attack of these radii wins on some images and not on others."""
    return jax.tree.map(lambda leaf: 2 * leaf, NET.init(jax.random.key(seed), images()))


@cache
def usual_labels(targeted=False):
    """What the network says, so that success is the attack's; but the last image is misclassified as it is."""
    predicted = np.asarray(NET.apply(trained(), images())).argmax(-1)
    other = (predicted + 1) % CLASSES
    return np.where(np.arange(BATCH) < BATCH - 1, other if targeted else predicted, other).astype(np.int32)


@cache
def compiled(name):
    """The attack, compiled for the network, and how often the network has been traced."""
    traces = []

    def apply(params, x):
        traces.append(1)
        return NET.apply(params, x)

    return jit_attack(ATTACKS[name].make(STEPS), apply), traces


def run(name, *, params=None, key=KEY, order=None, x=None, labels=None, eps=None):
    """The attack with all as usual but what is given; `order` are the places of the images in the data set."""
    member = ATTACKS[name]
    order = np.arange(BATCH) if order is None else order
    x = images() if x is None else x
    y = usual_labels(member.targeted) if labels is None else labels
    eps = member.eps if eps is None else eps
    return compiled(name)[0](key, params or trained(), x[order], y[order], eps=eps, ids=order)


@cache
def result(name):
    return jax.tree.map(np.asarray, run(name))


def limits(threat):
    """The smallest and the largest value, and whether a value may change, for each image of the data set."""
    shape = (BATCH, *SHAPE)
    return tuple(np.broadcast_to(part, shape) for part in (*threat.box, True if threat.mask is None else threat.mask))


def assert_same(a, b, **tolerances):
    for field, left, right in zip(a._fields, a, b, strict=True):
        np.testing.assert_allclose(left, right, err_msg=field, **tolerances)


def assert_bits(a, b):
    for field, left, right in zip(a._fields, a, b, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=field)


# Fields of a result


@EVERY
def test_the_image_found_is_inside_the_ball_and_the_box(name):
    _, threat, eps, *_ = ATTACKS[name]
    found = result(name).x
    assert found.shape == images().shape and found.dtype == np.float32
    low, high, free = limits(threat)
    assert (found >= low).all() and (found <= high).all()
    np.testing.assert_array_equal(found[~free], images()[~free])  # bit for bit
    change = found.astype(np.float64) - images()
    rounding = np.full_like(change, 0 if threat.counts else 2e-7)
    assert (LENGTH[threat.name](change) <= eps + LENGTH[threat.name](rounding)).all()
    assert (change != 0).any()


@EVERY
def test_success_is_computed_from_the_returned_image(name):
    member, found = ATTACKS[name], result(name)
    logits, goal = np.asarray(NET.apply(trained(), found.x)), usual_labels(member.targeted)
    predicted = logits.argmax(-1)
    expected = (predicted == goal) if member.targeted else (predicted != goal)
    np.testing.assert_array_equal(found.success, member.rule(logits, goal) if member.rule else expected)


def test_the_attacks_of_these_tests_succeed_on_some_images_only():
    """Otherwise the checks of success would prove little."""
    share = np.mean([result(name).success[:-1] for name in ATTACKS if name not in SLOW])
    assert 0.2 < share < 0.9


@pytest.mark.slow
@EVERY
def test_radii_of_each_image_equal_calls_with_one_radius_bit_for_bit(name):
    member = ATTACKS[name]
    radii = np.where(np.arange(BATCH) % 2, 0.5 * member.eps if member.threat.name != "l0" else 1.0, member.eps)
    found = run(name, eps=radii.astype(np.float32))
    for radius in np.unique(radii):
        chosen = np.equal(radii, radius)
        alike = result(name) if radius == member.eps else run(name, eps=float(radius))
        mine, theirs = (jax.tree.map(lambda leaf, chosen=chosen: np.asarray(leaf)[chosen], a) for a in (found, alike))
        if name == "restarts":  # the compiler rounds its loop of loops differently
            assert_same(mine, theirs, rtol=1e-4, atol=1e-6)
        else:
            assert_bits(mine, theirs)


@EVERY
def test_distance_is_that_of_the_image_found(name):
    found = result(name)
    expected = LENGTH[ATTACKS[name].threat.name](found.x.astype(np.float64) - images())
    np.testing.assert_allclose(found.distance, expected, rtol=1e-5, atol=1e-6)


@of_attacks(name for name, member in ATTACKS.items() if member.climbs)
def test_loss_is_that_of_the_image_found(name):
    member, found = ATTACKS[name], result(name)
    expected = member.climbs(NET.apply(trained(), found.x), usual_labels(member.targeted))
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4, atol=1e-4)


@EVERY
def test_the_trace_has_one_row_for_each_image(name):
    trace = result(name).trace
    assert trace.ndim == 2 and len(trace) == BATCH and trace.shape[1] >= 1
    assert not np.isnan(trace).any()


@EVERY
def test_a_radius_of_zero_returns_the_image_bit_for_bit(name):
    found = run(name, eps=0.0)
    np.testing.assert_array_equal(found.x, images())
    np.testing.assert_array_equal(found.distance, 0)


# Keys, batches, devices


@EVERY
def test_a_key_fixes_every_bit_and_another_changes_some(name):
    assert_bits(run(name), result(name))
    others = jax.tree.leaves(run(name, key=jax.random.key(2)))
    same = [np.array_equal(a, b) for a, b in zip(others, jax.tree.leaves(result(name)), strict=True)]
    assert all(same) != ATTACKS[name].draws


@EVERY
def test_the_result_of_an_image_does_not_depend_on_the_batch(name):
    order = np.array([3, 0, 5, 1, 4, 2])
    shuffled = run(name, order=order)
    assert_bits(shuffled, jax.tree.map(lambda leaf: leaf[order], result(name)))
    company = np.where((np.arange(BATCH) == 2)[:, None, None, None], images(), images(seed=9))
    alone = run(name, x=company)
    assert_bits(*(jax.tree.map(lambda leaf: np.asarray(leaf)[2:3], a) for a in (alone, result(name))))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "pgd-linf" else pytest.mark.slow) for n in ATTACKS])
def test_radii_mapped_on_two_devices_equal_those_on_one_device(name):
    member = ATTACKS[name]
    attack, apply = member.make(STEPS), partial(NET.apply, trained())
    radii = jnp.array([0.0, member.eps], jnp.float32)
    batch = NamedSharding(Mesh(jax.devices()[:2], ("data",)), PartitionSpec("data"))
    data = jax.device_put((images(), usual_labels(member.targeted), np.arange(BATCH)), batch)

    @jax.jit
    def mapped(x, y, ids):
        return jax.vmap(lambda eps: attack(KEY, apply, x, y, eps=eps, ids=ids))(radii)

    found = mapped(*data)
    assert len(found.x.sharding.device_set) == 2
    nothing, full = (jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in (0, 1))
    np.testing.assert_array_equal(nothing.x, images())
    assert_same(full, result(name), rtol=1e-4, atol=1e-5)


# Compilation and transforms


@EVERY
def test_new_parameters_radii_and_keys_do_not_compile_again(name):
    run(name)
    traces = compiled(name)[1]
    before = len(traces)
    found = run(name, params=trained(3), eps=0.9 * ATTACKS[name].eps, key=jax.random.key(7), x=images(5))
    assert len(traces) == before > 0
    assert not np.array_equal(found.x, result(name).x)


@EVERY
@pytest.mark.parametrize("parameters", ["float32", "bfloat16"])
def test_attacks_on_bfloat16_search_in_float32(name, parameters):
    member, x = ATTACKS[name], jax.ShapeDtypeStruct((BATCH, *SHAPE), jnp.bfloat16)
    cast = jax.tree.map(lambda leaf: leaf.astype(parameters), trained())
    y = usual_labels(member.targeted)
    found = jax.eval_shape(lambda x: member.make(3)(KEY, partial(mlp_by_hand, cast), x, y, eps=member.eps), x)
    assert found.x.dtype == found.distance.dtype == jnp.float32


@pytest.mark.parametrize("name", ["pgd-linf", "pgd-l1"])
def test_images_in_bfloat16_stay_in_ball_and_box(name):
    member, x = ATTACKS[name], jnp.asarray(images(), jnp.bfloat16)
    found = jit_attack(member.make(3), mlp_by_hand)(KEY, trained(), x, usual_labels(), eps=member.eps)
    assert found.x.min() >= 0 and found.x.max() <= 1
    change = np.asarray(found.x, np.float64) - np.asarray(x, np.float64)
    assert (LENGTH[member.threat.name](change) <= member.eps * (1 + 1e-5)).all()
    assert (change != 0).any((1, 2, 3)).all()


def mlp_by_hand(params, x):
    first, second = params["params"]["Dense_0"], params["params"]["Dense_1"]
    hidden = jax.nn.relu(x.reshape(len(x), -1) @ first["kernel"] + first["bias"][None])
    return hidden @ second["kernel"] + second["bias"][None]


def test_a_bare_function_is_attacked_like_a_flax_network():
    found = jit_attack(ATTACKS["pgd-linf"].make(STEPS), mlp_by_hand)(KEY, trained(), images(), usual_labels(), eps=0.1)
    assert_same(found, result("pgd-linf"), rtol=1e-5, atol=1e-6)


# The optimum on linear models


def best_gain(norm, w, x, eps, low=0.0, high=1.0):
    """The most that `w . z` can exceed `w . x` for z in ball and box, float64; `w`, `x`: one example."""
    cap = np.where(w > 0, high - x, x - low)  # largest ascent of each value within the box
    slope = np.abs(w)
    if norm == "linf":
        return (slope * np.minimum(cap, eps)).sum()
    if norm == "l1":  # the steepest values move first, each to the end of the box
        order = np.argsort(-slope, axis=None)
        before = np.cumsum(cap.ravel()[order]) - cap.ravel()[order]
        return (slope.ravel()[order] * np.clip(eps - before, 0, cap.ravel()[order])).sum()
    if norm == "l0":
        return np.sort((slope * cap).sum(-1), axis=None)[::-1][: int(eps)].sum()
    scale = bisect(lambda s: np.linalg.norm(np.minimum(s * slope, cap)) - eps, 1e6)
    return (slope * np.minimum(scale * slope, cap)).sum()


def bisect(increasing, high):
    low = 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if increasing(middle) > 0 else (middle, high)
    return high


def least_distance(norm, w, x, gap, low=0.0, high=1.0):
    return bisect(lambda eps: best_gain(norm, w, x, eps, low, high) - gap, 1e3)


def test_best_gain_equals_the_linear_program():
    rng = np.random.default_rng(0)
    for eps in (0.05, 0.4, 3.0, 20.0):
        w, x = rng.normal(size=SHAPE), rng.random(SHAPE)
        flat, low, high = w.ravel(), -x.ravel(), 1 - x.ravel()
        box = np.stack([np.maximum(low, -eps), np.minimum(high, eps)], 1)
        linf_best = -scipy.optimize.linprog(-flat, bounds=box).fun
        np.testing.assert_allclose(best_gain("linf", w, x, eps), linf_best, rtol=1e-9)
        both = np.stack([np.zeros(2 * SIZE), np.concatenate([high, -low])], 1)  # up and down are two variables
        l1_best = -scipy.optimize.linprog(
            np.concatenate([-flat, flat]), A_ub=np.ones((1, 2 * SIZE)), b_ub=[eps], bounds=both
        ).fun
        np.testing.assert_allclose(best_gain("l1", w, x, eps), l1_best, rtol=1e-9)


def test_best_gain_is_the_dual_norm_where_the_box_is_far():
    w, x = np.random.default_rng(1).normal(size=SHAPE), np.full(SHAPE, 0.5)
    for norm, dual in (("linf", 1), ("l2", 2), ("l1", np.inf)):
        np.testing.assert_allclose(best_gain(norm, w, x, 0.1), 0.1 * np.linalg.norm(w.ravel(), dual), rtol=1e-9)


def linear_problem():
    """Half of the images in the middle of the box, half at its edges; the boundary is at `w . z = w . x + gap`."""
    rng = np.random.default_rng(2)
    x = rng.random((BATCH, *SHAPE))
    x = np.where((np.arange(BATCH) % 2)[:, None, None, None], 0.45 + 0.1 * x, 0.01 + 0.98 * x.round())
    return rng.normal(size=SHAPE), x.astype(np.float32), rng.uniform(0.5, 1.0, BATCH)


def linear_params(w, offset):
    """The network whose logits are `offset - w . z`, its negative, and three that never matter."""
    first = np.zeros((SIZE, 8), np.float32)
    first[:, 0] = w.ravel()
    bias = np.zeros(8, np.float32)
    bias[0] = 64 - offset  # the inputs of relu are positive, so relu is linear
    second = np.zeros((8, CLASSES), np.float32)
    second[0, :2] = -1, 1
    out = {"kernel": second, "bias": np.array([64, -64, -50, -51, -52], np.float32)}
    return {"params": {"Dense_0": {"kernel": first, "bias": bias}, "Dense_1": out}}


@of_attacks(name for name, member in ATTACKS.items() if member.optimum)
def test_the_optimum_on_linear_models(name):
    """One boundary for all images: each gets the offset of its own by running alone in a batch of copies."""
    member = ATTACKS[name]
    w, x, gaps = linear_problem()
    norm, y = member.threat.name.removeprefix("masked-").split("-")[0], np.zeros(BATCH, np.int32)
    parts = [(w * free, low, high) for low, high, free in zip(*limits(member.threat), strict=True)]  # of each copy
    for image, gap, share in zip(x, gaps, member.optimum[::-1] * (BATCH // 2), strict=True):
        network = linear_params(w, (w * image.astype(np.float64)).sum() + gap)
        found = run(name, params=network, x=np.broadcast_to(image, x.shape), labels=y)
        if member.nearest:
            best = np.array([least_distance(norm, v, image, gap, low, high) for v, low, high in parts])
            assert (best < 0.9 * member.eps).all()
            np.testing.assert_array_equal(found.success, True)
            assert (found.distance <= best / share).all(), found.distance / best
            assert (found.distance >= best * (1 - 1e-4)).all()
        else:
            gained = (w[None] * (np.asarray(found.x, np.float64) - image)).sum((1, 2, 3))
            best = np.array([best_gain(norm, v, image, member.eps, low, high) for v, low, high in parts])
            assert (gained <= best * (1 + 1e-5)).all()
            assert (gained >= best * (share - 1e-5)).all(), gained / best
            np.testing.assert_array_equal(found.success, gained > gap)


# Bad input


def not_run(*_):
    raise AssertionError("the model ran before the input was refused")


def shape_only(logits_fn):
    """A model that can be traced for its shape but not run."""

    def fn(x):
        return logits_fn(x) if isinstance(x, jax.core.Tracer) else not_run()

    return fn


LINEAR = jnp.asarray(np.random.default_rng(3).normal(size=(SIZE, CLASSES)), jnp.float32)


def linear(w, x):
    return x.reshape(len(x), -1) @ w


def spoiled(value):
    x = images()
    x[1, 2, 3, 0] = value
    return x


BAD = {  # name: (the change, the value and the fix in the message)
    "images above the bounds": ({"x": 255 * images()}, "x must lie in (0.0, 1.0); got values from 0 to 255; scale"),
    "images below the bounds": ({"x": spoiled(-0.5)}, "x must lie in (0.0, 1.0); got values from -0.5 to 1"),
    "bytes": ({"x": images().astype(np.uint8)}, "x must be floating point; got dtype uint8; convert bytes"),
    "NaN images": ({"x": spoiled(np.nan)}, "x holds 1 NaN or infinite values of 300; remove them"),
    "infinite images": ({"x": spoiled(np.inf)}, "x holds 1 NaN or infinite values of 300; remove them"),
    "one-hot labels": (
        {"labels": np.eye(CLASSES, dtype=np.int32)[usual_labels()]},
        "labels must have shape [6], one for each image; got (6, 5); use labels.argmax(1)",
    ),
    "too few labels": ({"labels": usual_labels()[:2]}, "labels must have shape [6], one for each image; got (2,)"),
    "labels from 1": ({"labels": usual_labels() * 0 + 5}, "labels must be in [0, 5); got values from 5 to 5; check"),
    "negative labels": ({"labels": usual_labels() * 0 - 1}, "labels must be in [0, 5); got values from -1 to -1"),
    "float labels": ({"labels": usual_labels() * 1.0}, "labels must be integer class indices; got dtype float"),
    "negative eps": ({"eps": -0.1}, "eps must not be negative; got eps=-0.1"),
    "NaN eps": ({"eps": float("nan")}, "eps must not be negative; got eps=nan"),
    "many eps": (
        {"eps": np.array([0.1, 0.2])},
        "eps must be one number, or one for each of the 6 images; got an array of shape (2,); for several radii use",
    ),
    "one logit": (
        {"apply": lambda w, x: linear(w, x)[:, 0]},
        "the model must map images (6, 5, 5, 2) to logits [6, classes]; got (6,); two classes need two logits",
    ),
    "one class": ({"apply": lambda w, x: linear(w, x)[:, :1]}, "to logits [6, classes]; got (6, 1); two classes need"),
    "pair of outputs": ({"apply": lambda w, x: (linear(w, x), x)}, "to logits [6, classes]; got 2 outputs; return"),
    "too few ids": ({"ids": np.arange(3)}, "ids must have shape [6], one for each image; got (3,)"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "compile"),
    [(name, compile) for name in BAD for compile in (False, True)],
)
@pytest.mark.parametrize("attack", [pgd(steps=2), apgd(steps=2), square(queries=2)], ids=["pgd", "apgd", "square"])
def test_bad_input_is_refused_before_anything_runs(monkeypatch, name, compile, attack):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    change, message = BAD[name]
    given = {"x": images(), "labels": usual_labels(), "eps": 0.1, "ids": None, "apply": linear} | change
    x, y, eps, ids, apply = given.values()
    with pytest.raises(ValueError, match=re.escape(message)):
        if compile:
            jit_attack(attack, apply)(KEY, LINEAR, x, y, eps=eps, ids=ids)
        else:
            attack(KEY, shape_only(partial(apply, LINEAR)), x, y, eps=eps, ids=ids)


def nan_logits(w, x):
    return linear(w, x) * jnp.where(x[:, 0, 0, 0] > 2, 1, jnp.nan)[:, None]


@pytest.mark.slow
@pytest.mark.parametrize("attack", [pgd(steps=2), fab(steps=2, targets=1)], ids=["pgd", "fab"])
def test_nan_logits_are_refused_and_count_as_broken_inside_jit(attack):
    with pytest.raises(ValueError, match=r"the model's logits are NaN on 6 of 6 images that .*; check the parameters"):
        attack(KEY, partial(nan_logits, LINEAR), images(), usual_labels(), eps=0.1)
    with pytest.raises(ValueError, match=r"the model's logits are NaN on 6 of 6 images that .*; check the parameters"):
        jit_attack(attack, nan_logits)(KEY, LINEAR, images(), usual_labels(), eps=0.1)
    run = jax.jit(lambda x, y: attack(KEY, partial(nan_logits, LINEAR), x, y, eps=0.1))
    found = run(images(), usual_labels())
    assert found.success.all() and np.isnan(found.loss).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: worst_of([]), "worst_of needs at least one attack; got none"),
        (lambda: restarts(fgsm(), 0), "n must be positive; got n=0"),
        (lambda: pgd(steps=0), "steps must be positive; got steps=0"),
        (lambda: iterated_ll(steps=-1), "steps must be positive; got steps=-1"),
        (lambda: apgd(l0()), "apgd does not support the threat 'l0'; it supports 'linf', 'l2', 'l1'"),
        (lambda: smallest(fgsm(), steps=0), "steps must be positive; got steps=0"),
    ],
)
def test_factories_refuse_bad_arguments(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# Combinations


def test_restarts_keep_the_best_of_their_starts():
    x, y = images(), usual_labels()
    one = jax.jit(lambda key: pgd(l2(), steps=STEPS)(key, partial(NET.apply, trained()), x, y, eps=0.5))
    runs = [one(jax.random.fold_in(KEY, i)) for i in range(2)]
    best = result("restarts")
    np.testing.assert_array_equal(best.success, runs[0].success | runs[1].success)
    losses = np.stack([np.where(r.success == best.success, r.loss, -np.inf) for r in runs])
    np.testing.assert_allclose(best.loss, losses.max(0), rtol=1e-5)
    assert (losses.argmax(0) == 1).any() and (losses.argmax(0) == 0).any()


@pytest.mark.slow
def test_worst_of_takes_the_first_success():
    """Two attacks that give constant images; the model reads its answer off the first pixel."""

    def constant(value, name):
        def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
            moved = jnp.where(x[..., :1] > value, value, x)
            return result_of(logits_fn, moved, x, labels, name)

        return attack

    def result_of(logits_fn, z, x, labels, loss):
        success = logits_fn(z).argmax(-1) != labels
        ones = jnp.full(len(x), loss, jnp.float32)
        return fgsm_result._replace(x=z, success=success, distance=ones, loss=ones, trace=ones[:, None])

    x, y = jnp.array([[0.9], [0.5], [0.3]]), jnp.zeros(3, jnp.int32)
    logits_fn = lambda z: jnp.concatenate([0 * z, 0.45 - z], 1)  # noqa: E731
    fgsm_result = fgsm()(KEY, logits_fn, x, y, eps=0.0)
    found = worst_of([replace(fgsm(), run=constant(0.6, 1.0)), replace(fgsm(), run=constant(0.4, 2.0))])(
        KEY, logits_fn, x, y, eps=0.5
    )
    np.testing.assert_allclose(found.x, [[0.4], [0.4], [0.3]])
    assert found.success.all() and found.loss.tolist() == [2.0, 2.0, 1.0]
    assert found.trace.shape == (3, 2)


# Records keep the threat and the target

UNTARGETED = {
    "fgsm": fgsm(),
    "step_ll": step_ll(),
    "iterated_ll": iterated_ll(),
    "pgd": pgd(l2()),
    "apgd": apgd(),
    "apgd_targeted": apgd_targeted(),  # towards each wrong class in turn: its labels are the true classes
    "fab": fab(),
    "square": square(),
    "autoattack": autoattack(linf(), num_classes=CLASSES),
}
COMBINED = {
    "bare": lambda attack: attack,
    "restarts": lambda attack: restarts(attack, 2),
    "worst_of": lambda attack: worst_of([attack, attack]),
    "smallest": lambda attack: smallest(attack, steps=2),
    "transformed": lambda attack: transformed(attack, tries=2, shift=1),
}
RECIPES = {
    "bare": "{}",
    "restarts": "restarts({}, n=2)",
    "worst_of": "worst_of({0}, {0})",
    "smallest": "smallest({}, steps=2)",
    "transformed": "transformed({}, rotation=30, shift=1, tries=2, pixels=after)",
}
COMBINATIONS = pytest.mark.parametrize("combination", COMBINED)


@COMBINATIONS
@pytest.mark.parametrize("name", UNTARGETED)
def test_no_combination_makes_an_untargeted_attack_targeted(name, combination):
    """Its images would leave the classes that become their labels."""
    attack = COMBINED[combination](UNTARGETED[name])
    assert not attack.targeted and attack.threat is UNTARGETED[name].threat
    assert attack.recipe == RECIPES[combination].format(UNTARGETED[name].recipe)
    with pytest.raises(ValueError, match=re.escape(f"attack must be targeted; got {attack.recipe}")):
        relabel_by_attack(KEY, attack, partial(linear, LINEAR), images(), usual_labels(), eps=0.1)


@COMBINATIONS
def test_success_of_a_targeted_attack_is_reaching_the_target(combination):
    attack = pgd(l2((-1.0, 2.0)), steps=6, targeted=True, random_start=False)
    combined = COMBINED[combination](attack)
    assert combined.targeted and combined.threat is attack.threat
    assert combined.recipe == RECIPES[combination].format(attack.recipe)
    targets = ((np.asarray(linear(LINEAR, images())).argmax(1) + np.array([1, 2, 3, 4, 1, 0])) % CLASSES).astype(
        np.int32
    )
    found = jit_attack(combined, linear)(KEY, LINEAR, images(), targets, eps=0.8)
    reached = np.asarray(linear(LINEAR, found.x)).argmax(1) == targets
    np.testing.assert_array_equal(found.success, reached)
    assert reached[:5].any() and (~reached).any()  # some images leave their class without reaching the target
    if combination == "smallest":  # the last image is in its target class already
        np.testing.assert_array_equal(found.distance[5], 0)
        assert (np.asarray(found.distance)[:5][reached[:5]] > 0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda f: jit_attack(f, linear),
        lambda f: restarts(f, 2),
        lambda f: smallest(f),
        lambda f: transformed(f),
        lambda f: worst_of([f]),
        lambda f: worst_of([pgd(), f]),
    ],
    ids=["jit_attack", "restarts", "smallest", "transformed", "worst_of", "worst_of, second"],
)
def test_a_bare_function_is_not_an_attack(monkeypatch, make):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    with pytest.raises(ValueError, match=r"attack must be an attacks\.Attack; got the function .*; wrap a"):
        make(fgsm().run)


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        ([pgd(), pgd(l2())], "worst_of needs attacks of one threat; got pgd(linf"),
        ([pgd(), restarts(pgd(linf((-1.0, 1.0))), 2)], "worst_of needs attacks of one threat; got pgd(linf"),
        ([fgsm(), pgd(targeted=True)], "worst_of needs attacks that are all targeted or all untargeted; got fgsm(linf"),
        ([fgsm(targeted=True), smallest(pgd())], "worst_of needs attacks that are all targeted or all untargeted"),
    ],
    ids=["norms", "boxes", "targets", "targets, inside a combination"],
)
def test_attacks_that_mean_different_things_are_not_combined(attacks, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        worst_of(attacks)


# A new norm is one factory and one line of the registry


@pytest.mark.slow
def test_a_registered_norm_works_in_the_attacks_that_it_supports(monkeypatch):
    def euclidean(box=(0.0, 1.0)):
        return l2(box)._replace(name="euclidean", to_hyperplane=None)

    monkeypatch.setitem(THREATS, "euclidean", euclidean)
    threat = THREATS["euclidean"]()
    makes = {
        "pgd": lambda t: pgd(t, steps=3),
        "apgd": lambda t: apgd(t, steps=4),
        "square": lambda t: square(t, queries=4),
        "smallest": lambda t: smallest(pgd(t, steps=2), steps=3),
        "worst_of": lambda t: worst_of([fgsm(t), pgd(t, steps=2)]),
    }
    apply = partial(linear, LINEAR)
    y = np.asarray(apply(images())).argmax(1).astype(np.int32)
    mine, theirs = (
        jax.jit(lambda x, t=t: {name: make(t)(KEY, apply, x, y, eps=0.5) for name, make in makes.items()})(images())
        for t in (threat, l2())
    )
    for name in makes:
        assert_bits(mine[name], theirs[name])
        assert "(euclidean" in makes[name](threat).recipe
    with pytest.raises(ValueError, match="fab does not support the threat 'euclidean'; it supports 'linf', 'l2', 'l1'"):
        fab(threat)
    with pytest.raises(ValueError, match=r"square does not support the threat 'l0'; it supports .*, 'euclidean'"):
        square(l0())


def test_the_registry_names_each_threat_by_its_key():
    assert {name: make().name for name, make in THREATS.items()} == {name: name for name in ("linf", "l2", "l1", "l0")}
