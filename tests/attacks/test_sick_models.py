"""Models that give NaN, and settings that mean something else than the user thinks: never robust without a word."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax import attacks, evaluation
from invjax.attacks import apgd, diagnose, fab, fgsm, jit_attack, l0, linf, pgd, smallest, square, transformed
from invjax.attacks._apgd import apgd_toward
from invjax.attacks.building import fooled

KEY = jax.random.key(0)
COUNT = 24


def images(count=COUNT, features=6):
    return np.random.default_rng(0).uniform(0.2, 0.8, (count, features)).astype(np.float32)


PARAMS = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3)), jnp.float32)


def roots(params, x):
    """Finite logits whose gradient is 0 * inf where a value is below .1: all images have such a value."""
    return jnp.sqrt(jnp.maximum(_spoil(x) - 0.1, 0)) @ params


def safe_roots(params, x):
    """The same function with the gradient 0 there."""
    z = _spoil(x)
    inside = z > 0.1
    return jnp.where(inside, jnp.sqrt(jnp.where(inside, z - 0.1, 1)), 0) @ params


def _spoil(x):
    return jnp.concatenate([jnp.full((len(x), 1), 0.05, x.dtype) + 0 * x[:, :1], x[:, 1:]], 1)


def labels_of(apply_fn, x):
    return np.asarray(apply_fn(PARAMS, jnp.asarray(x)).argmax(-1), np.int32)


@pytest.mark.parametrize("attack", [pgd(steps=5), apgd(steps=5), fab(steps=5, targets=1)], ids=["pgd", "apgd", "fab"])
def test_a_gradient_that_is_nan_counts_as_zero_and_the_result_says_so(attack):
    x, labels = images(), labels_of(roots, images())
    with pytest.warns(UserWarning, match=f"gradients or logits that are NaN or infinite on {COUNT} of {COUNT} images"):
        sick = jit_attack(attack, roots)(KEY, PARAMS, x, labels, eps=0.15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sound = jit_attack(attack, safe_roots)(KEY, PARAMS, x, labels, eps=0.15)
    assert not sick.finite_gradients.any() and sound.finite_gradients.all()
    np.testing.assert_array_equal(sick.success, sound.success)
    assert 0 < sound.success.mean() < 1
    np.testing.assert_allclose(sick.x, sound.x, atol=1e-6)


def test_evaluations_of_nan_gradients_warn_and_agree_with_those_of_a_safe_gradient(tmp_path):
    x, labels = images(), labels_of(roots, images())
    curve = partial(evaluation.robustness_curve, KEY, pgd(steps=5), epsilons=[0.05, 0.15])
    expected = curve(safe_roots, PARAMS, x, labels).accuracy()
    assert 0 < expected[-1] < 1
    kept = evaluation.Options(directory=tmp_path)
    for _ in range(2):  # also when the result is read from its folder
        with pytest.warns(UserWarning, match="gradients or logits that are NaN or infinite"):
            found = curve(roots, PARAMS, x, labels, options=kept)
        np.testing.assert_array_equal(found.accuracy(), expected)
    with pytest.warns(UserWarning, match=f"on {COUNT} of {COUNT} images"):
        evaluation.report(KEY, roots, PARAMS, x, labels, threats=[evaluation.ThreatModel(pgd(steps=5), 0.1)])


def test_diagnose_names_nan_gradients():
    x = images()
    found = diagnose(KEY, roots, PARAMS, x, labels_of(roots, x), eps=0.1, attack=pgd(steps=5), show=None)
    assert "finite gradients" in {finding.name for finding in found}


def hole(params, x):
    """A linear model whose logits are NaN in a part of the ball."""
    return x @ params + jnp.where(x[:, :1] > 0.85, jnp.nan, 0)


def test_an_image_near_which_the_logits_are_nan_is_broken():
    """The gradient leads all images to the hole; the first half reaches it."""
    x = np.concatenate([images(4)] * 2)
    x[:4, 0], x[4:, 0] = 0.84, 0.3
    params = (0.01 * PARAMS).at[0].set(5.0)  # all classes rise alike with the first value
    labels = np.asarray((x @ params).argmax(-1), np.int32)
    attack = pgd(steps=5, loss=lambda logits, labels: logits.sum(-1))
    found = jax.jit(lambda x: attack(KEY, partial(hole, params), x, labels, eps=0.02))(x)
    assert found.success.tolist() == [True] * 4 + [False] * 4
    assert np.isnan(found.loss).tolist() == [True] * 4 + [False] * 4
    with pytest.warns(UserWarning, match="gradients or logits that are NaN or infinite on 4 of 8 images"):
        curve = evaluation.robustness_curve(KEY, attack, hole, params, x, labels, epsilons=[0.02])
    assert curve.accuracy().tolist() == [0.5]


@pytest.mark.parametrize("label", [0, 1])
def test_a_model_that_gives_nan_errs_whatever_the_label_and_reaches_no_target(label):
    """The argmax of NaN is a class: without care the model would be right on images of this class."""
    logits = jnp.array([[jnp.nan, jnp.nan], [1.0, jnp.nan], [jnp.nan, 1.0]])
    labels = jnp.full(3, label)
    assert fooled(logits, labels).all() and not fooled(logits, labels, targeted=True).any()


@pytest.mark.slow
def test_logits_of_minus_infinity_are_legal():
    """Masked classes: the targeted loss towards one of them falls back to the margin."""
    masked = lambda params, x: jnp.concatenate([x @ params, jnp.full((len(x), 3), -jnp.inf)], 1)  # noqa: E731
    x = images()
    labels = np.asarray((x @ PARAMS).argmax(-1), np.int32)
    found = jit_attack(apgd_toward(4, steps=5), masked)(KEY, PARAMS, x, labels, eps=0.1)  # towards a masked class
    assert not np.isnan(found.loss).any() and found.finite_gradients.all()
    plain = pgd(steps=5)(KEY, partial(masked, PARAMS), x, labels, eps=0.4)
    assert plain.success.any() and not np.isnan(plain.loss).any()


def test_a_compiled_attack_runs_inside_of_jit():
    x = images()
    labels = np.asarray((x @ PARAMS).argmax(-1), np.int32)
    run = jit_attack(pgd(steps=2), lambda params, x: x @ params)
    inside = jax.jit(lambda x: run(KEY, PARAMS, x, labels, eps=0.1).x)(x)
    np.testing.assert_allclose(inside, run(KEY, PARAMS, x, labels, eps=0.1).x, atol=1e-6)


def test_a_radius_below_the_spacing_of_half_precision_gives_a_warning():
    x = jnp.asarray(images(), jnp.bfloat16)
    labels = np.asarray((x.astype(jnp.float32) @ PARAMS).argmax(-1), np.int32)
    run = jit_attack(pgd(steps=2), lambda params, x: x.astype(jnp.float32) @ params)
    with pytest.warns(UserWarning, match="less than twice the spacing 0.0039 of bfloat16 images"):
        run(KEY, PARAMS, x, labels, eps=0.002)


EVERY = [pgd(steps=2), fgsm(), apgd(steps=2), square(queries=2), fab(steps=2, targets=1)]
EVERY.append(smallest(pgd(steps=2), steps=2))


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.recipe.partition("(")[0])
def test_a_model_with_nan_parameters_is_refused_by_compiled_attacks(attack):
    x = images(3, 48).reshape(3, 4, 4, 3)
    apply_fn = lambda w, x: x.reshape(len(x), -1) @ w  # noqa: E731
    w = jnp.full((48, 3), jnp.nan)
    with pytest.raises(ValueError, match="the model's logits are NaN on 3 of 3 images"):
        jit_attack(attack, apply_fn)(KEY, w, x, np.array([0, 1, 2]), eps=0.1)


# radii that mean something else


def test_a_number_of_pixels_between_0_and_1_is_refused():
    x, labels = images().reshape(-1, 2, 3, 1), np.zeros(COUNT, np.int32)
    apply_fn = lambda w, x: x.reshape(len(x), -1) @ w  # noqa: E731
    attack, message = pgd(l0(), steps=2), "counts the pixels that change in l0; got 0.1; use a whole number"
    with pytest.raises(ValueError, match=message):
        attack(KEY, partial(apply_fn, PARAMS), x, labels, eps=0.1)
    with pytest.raises(ValueError, match=message):
        jit_attack(attack, apply_fn)(KEY, PARAMS, x, labels, eps=0.1)
    with pytest.raises(ValueError, match=message):
        evaluation.robustness_curve(KEY, attack, apply_fn, PARAMS, x, labels, epsilons=[0, 0.1])
    with pytest.raises(ValueError, match=message):
        evaluation.report(KEY, apply_fn, PARAMS, x, labels, threats=[evaluation.ThreatModel(attack, 0.1)])
    with pytest.raises(ValueError, match=message):
        diagnose(KEY, apply_fn, PARAMS, x, labels, eps=0.1, threat=l0())


def linear(w, x):
    return x.reshape(len(x), -1) @ w


@pytest.mark.slow
def test_a_radius_beyond_the_box_gives_a_warning():
    x = images().reshape(-1, 2, 3, 1)
    labels = np.asarray(linear(PARAMS, x).argmax(-1), np.int32)
    message = r"eps=8 in linf reaches every image of the box \(0.0, 1.0\), .*; was 0.03137 meant\?"
    stages = attacks.autoattack_stages(linf(), num_classes=3, steps=2)[:1]
    with pytest.warns(UserWarning, match=message):
        evaluation.benchmark(KEY, linear, PARAMS, x, labels, threat=linf(), eps=8, stages=stages)
    with pytest.warns(UserWarning, match="epsilons=8 in linf reaches every image"):
        evaluation.robustness_curve(KEY, fgsm(), linear, PARAMS, x, labels, epsilons=[0.1, 8.0])
    with pytest.warns(UserWarning, match="eps of linf=8 in linf reaches every image"):
        evaluation.report(KEY, linear, PARAMS, x, labels, threats=[evaluation.ThreatModel(fgsm(), 8)])
    with pytest.warns(UserWarning, match="epsilons=8 in linf reaches every image"):
        evaluation.certificate_curve(linear, PARAMS, x, labels, epsilons=[0.1, 8.0], method="ibp")
    found = diagnose(KEY, linear, PARAMS, x, labels, eps=8, show=None)
    assert any(finding.name == "radius" and "was 0.03137 meant?" in finding.message for finding in found)


def test_autoattack_for_another_number_of_classes_is_refused():
    x = images(4, 48).reshape(4, 4, 4, 3)
    w = jnp.asarray(np.random.default_rng(1).normal(size=(48, 5)), jnp.float32)
    attack = attacks.autoattack(linf(), num_classes=2, steps=2, queries=2)
    with pytest.raises(ValueError, match="num_classes=2, but the model has 5 logits; give num_classes=5"):
        attack(KEY, partial(linear, w), x, np.arange(4), eps=0.1)


def test_diagnose_refuses_a_targeted_attack():
    x = images()
    with pytest.raises(ValueError, match=r"attack must be untargeted; got pgd\(linf, .*targeted=True\)"):
        diagnose(KEY, linear, PARAMS, x, np.zeros(COUNT, np.int32), eps=0.1, attack=pgd(targeted=True))


@pytest.mark.slow
def test_the_nearest_image_of_an_attack_that_moves_images_first_is_the_one_that_fools():
    """A model that reads one column: shifting the image changes its answer, at radius 0."""
    x = np.zeros((1, 5, 5, 1), np.float32)
    x[0, :, 2] = 1
    column = lambda z: jnp.stack([z[:, 2, 2, 0], 0.5 + 0 * z[:, 2, 2, 0]], -1)  # noqa: E731
    attack = smallest(transformed(fgsm(), rotation=0, shift=2, tries=20), steps=3)
    found = attack(KEY, column, jnp.asarray(x), np.array([0]), eps=0.01)
    assert found.success.all() and found.distance.tolist() == [0.0]
    assert int(column(found.x).argmax(-1)[0]) == 1
