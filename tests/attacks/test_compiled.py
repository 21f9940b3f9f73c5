"""Attacks over a data set, and radii of their own for each image."""

import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from invjax.attacks import autoattack, jit_attack, l0, linf, over, pgd, square
from invjax.bounds import certified, l2_ball, linf_box, margins
from invjax.evaluation import Options, ThreatModel, benchmark, report
from invjax.features import relabelled_dataset
from invjax.training import data_mesh

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(16, 3)), jnp.float32)
X = RNG.uniform(0.2, 0.8, (7, 4, 4, 1)).astype(np.float32)
LABELS = np.asarray((X.reshape(7, -1) @ W).argmax(1)).astype(np.int32)
RADII = np.array([0.0, 0.05, 0.2, 0.05, 0.1, 0.2, 0.03], np.float32)


def linear(params, x):
    return x.reshape(len(x), -1) @ params


def assert_bits(a, b):
    for field, left, right in zip(a._fields, a, b, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=field)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [pgd(steps=3), square(queries=4)], ids=["pgd", "square"])
def test_a_data_set_gets_the_same_images_at_every_batch_size(attack):
    """The programs of two shapes may round differently."""
    whole = jit_attack(attack, linear)(KEY, W, X, LABELS, eps=0.1)
    mesh = data_mesh(jax.devices()[:2])
    for settings in ({}, {"batch_size": 3}, {"batch_size": 2, "mesh": mesh}):
        found = over(attack, linear, **settings)(KEY, W, X, LABELS, eps=0.1)
        assert all(isinstance(leaf, np.ndarray) for leaf in found)
        for field, a, b in zip(found._fields, found, whole, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 if field == "x" else 1e-5, err_msg=field)
        np.testing.assert_array_equal(found.success, whole.success)
    part = over(attack, linear, batch_size=2)(KEY, W, X[2:5], LABELS[2:5], eps=0.1, ids=np.arange(2, 5))
    np.testing.assert_allclose(part.x, whole.x[2:5], atol=1e-6)


def test_a_data_set_is_compiled_once():
    traces = []

    def counted(params, x):
        traces.append(1)
        return linear(params, x)

    attack = pgd(steps=2)
    over(attack, counted, batch_size=3)(KEY, W, X, LABELS, eps=0.1)
    before = len(traces)
    over(attack, counted, batch_size=3)(jax.random.key(1), 2 * W, X, LABELS, eps=0.2)
    assert len(traces) == before > 0


ATTACKS = {
    "pgd": pgd(steps=3),
    "autoattack": autoattack(linf(), num_classes=3, steps=2, queries=2),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "autoattack" else []) for n in ATTACKS]
)
def test_radii_of_each_image_equal_calls_with_one_radius(name):
    run = jit_attack(ATTACKS[name], linear)
    found = run(KEY, W, X, LABELS, eps=RADII)
    assert_bits(over(ATTACKS[name], linear, batch_size=7)(KEY, W, X, LABELS, eps=RADII), found)
    for radius in np.unique(RADII):
        single, mine = run(KEY, W, X, LABELS, eps=float(radius)), np.equal(RADII, radius)
        for field, a, b in zip(found._fields, found, single, strict=True):
            np.testing.assert_array_equal(np.asarray(a)[mine], np.asarray(b)[mine], err_msg=field)
    np.testing.assert_array_equal(found.x[0], X[0])


@pytest.mark.slow
def test_radii_outside_of_jit_are_checked_like_one_radius():
    found = pgd(steps=2)(KEY, lambda x: linear(W, x), X, LABELS, eps=RADII)
    np.testing.assert_array_equal(found.x, jit_attack(pgd(steps=2), linear)(KEY, W, X, LABELS, eps=RADII).x)
    with pytest.raises(ValueError, match=r"x must lie in \(0.0, 1.0\)"):
        pgd(steps=2)(KEY, lambda x: linear(W, x), 255 * X, LABELS, eps=RADII)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\)"):
        pgd(steps=2)(KEY, lambda x: linear(W, x), X, LABELS + 3, eps=RADII)


@pytest.mark.parametrize("compile", [jit_attack, over])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": RADII[:2]}, "eps must be one number, or one for each of the 7 images; got an array of shape (2,)"),
        (
            {"eps": RADII[:, None]},
            "eps must be one number, or one for each of the 7 images; got an array of shape (7, 1)",
        ),
        ({"eps": -RADII}, "eps must not be negative"),
        ({"ids": np.arange(3)}, "ids must have shape [7], one for each image; got (3,)"),
        ({"ids": np.arange(3), "eps": RADII}, "ids must have shape [7], one for each image; got (3,)"),
        ({"step_size": RADII}, "step_size must be one number; got an array of shape (7,)"),
        ({"labels": LABELS[:3]}, "labels must have shape [7], one for each image; got (3,)"),
    ],
)
def test_bad_radii_and_positions_are_refused(monkeypatch, compile, change, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    given = {"x": X, "labels": LABELS, "eps": 0.1} | change
    x, labels = given.pop("x"), given.pop("labels")
    with pytest.raises(ValueError, match=re.escape(message)):
        compile(pgd(steps=2), linear)(KEY, W, x, labels, **given)


def test_what_takes_one_radius_refuses_several(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"counts the pixels that change in l0; got 0\.03; use a whole"):
        jit_attack(pgd(l0(), steps=2), linear)(KEY, W, X, LABELS, eps=RADII)
    with pytest.raises(ValueError, match=r"eps of linf must be one number; got an array of shape \(7,\)"):
        report(KEY, linear, W, X, LABELS, threats=[ThreatModel(pgd(steps=2), RADII)])
    attack = pgd(steps=2, targeted=True)
    with pytest.raises(ValueError, match=r"eps must be one number; got an array of shape \(7,\)"):
        relabelled_dataset(KEY, attack, linear, W, X, (LABELS + 1) % 3, eps=RADII)
    with pytest.raises(ValueError, match="batch_size must be positive; got batch_size=0"):
        over(pgd(), linear, batch_size=0)
    with pytest.raises(ValueError, match="images must hold at least one example; got shape"):
        over(pgd(steps=2), linear)(KEY, W, X[:0], LABELS[:0], eps=0.1)


def test_a_warning_names_the_largest_radius():
    with pytest.warns(UserWarning, match="eps=2 in linf reaches every image of the box"):
        jit_attack(pgd(steps=2), linear)(KEY, W, X, LABELS, eps=np.where(RADII == 0, 2, RADII))


@pytest.mark.slow
def test_a_benchmark_takes_a_radius_for_each_image(tmp_path):
    from invjax.attacks import Stage

    stages = (Stage("pgd", lambda rank: pgd(steps=3), 1),)
    run = lambda eps, **options: benchmark(  # noqa: E731
        KEY, linear, W, X, LABELS, threat=linf(), eps=eps, stages=stages, options=Options(**options)
    )
    found = run(RADII, batch_size=3, directory=tmp_path)
    for i, radius in enumerate(RADII):
        single = run(float(radius))
        np.testing.assert_array_equal(found.x[i], single.x[i])
        assert found.broken[i] == single.broken[i] and found.distance[i] == single.distance[i]
    assert 0 < found.robust_accuracy < 1
    np.testing.assert_array_equal(found.eps, RADII)
    assert "at eps from 0 to 0.2 on 7 images" in str(found) and "at eps 0.1 on" in str(run(0.1))
    with pytest.raises(ValueError, match="eps"):
        run(RADII[::-1].copy(), directory=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("region", [linf_box, l2_ball])
def test_certificates_take_a_radius_for_each_image(region):
    bound = lambda eps: margins(lambda x: linear(W, x), region(X, eps), LABELS, method="crown")  # noqa: E731
    mine = bound(RADII)
    for i, radius in enumerate(RADII):
        np.testing.assert_allclose(mine[i], bound(float(radius))[i], rtol=1e-6)
    assert 0 < certified(mine).mean() < 1
    with pytest.raises(ValueError, match=r"eps must be one number, or one for each of the 7 images; got .* \(2,\)"):
        region(X, RADII[:2])
