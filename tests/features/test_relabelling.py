"""Relabelled data sets: targeted adversarial examples inside the ball, labelled with their targets."""

import jax
import numpy as np
import pytest

from invjax import attacks, features
from invjax.attacks import Attack
from invjax.training import data_mesh
from tests.features.problem import CLASSES, COUNT, KEY, NET, TOWARD, data, logits_fn, params, relabelled


def test_relabelled_images_stay_in_the_ball_and_reach_their_targets():
    made = relabelled(eps=1.5)
    images, labels = data()
    apart = np.linalg.norm((made.images - images).reshape(COUNT, -1), axis=1)
    assert (apart <= 1.5 + 1e-6).all() and apart.max() > 0.5
    assert made.images.min() >= 0 and made.images.max() <= 1
    np.testing.assert_allclose(made.details["distance"], apart, rtol=1e-5)
    seen = np.asarray(jax.jit(NET.apply)(params(), made.images)).argmax(1)
    np.testing.assert_array_equal(made.details["success"], seen == made.labels)
    assert made.details["success"].mean() > 0.8 and (made.labels == (labels + 1) % CLASSES).all()


def test_success_is_that_of_the_target_whatever_the_attack_says():
    def still(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        zeros = np.zeros(len(x), np.float32)
        return attacks.AttackResult(x, zeros == 0, zeros, zeros, zeros[:, None], zeros == 0)

    attack = Attack(still, attacks.l2(), True, "still(l2)")
    x, labels = data()
    found = features.relabel_by_attack(KEY, attack, logits_fn, x, (labels + 1) % CLASSES, eps=1.0)
    seen = np.asarray(logits_fn(x)).argmax(1)
    np.testing.assert_array_equal(found.success, seen == (labels + 1) % CLASSES)
    assert not found.success.all()


def test_an_example_is_the_same_in_any_batch_and_on_any_devices():
    attack = attacks.pgd(attacks.l2(), steps=2, targeted=True)  # starts at random
    one, other = relabelled(attack=attack), relabelled(attack=attack, batch_size=16, mesh=data_mesh())
    np.testing.assert_allclose(other.images, one.images, atol=1e-5)


def test_the_recipe_has_the_attack_its_radius_and_its_step_size():
    step_size = jax.device_put(0.25)
    made = relabelled(eps=jax.device_put(0.5), step_size=step_size, metadata={"data": "noise"}, attack=TOWARD)
    assert made.recipe["attack"] == TOWARD.recipe and "pgd(l2" in made.recipe["attack"]
    assert made.recipe["eps"] == 0.5 and made.recipe["step_size"] == 0.25 and made.recipe["data"] == "noise"


def test_an_untargeted_attack_makes_no_data_set():
    with pytest.raises(ValueError, match="attack must be targeted; got pgd"):
        relabelled(attack=attacks.pgd(attacks.l2(), steps=3))
    with pytest.raises(ValueError, match="attack must be targeted; got fgsm"):
        features.relabel_by_attack(KEY, attacks.fgsm(), logits_fn, *data(), eps=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relabelled(targets=np.full(COUNT, CLASSES)), r"targets must be in \[0, 4\)"),
        (
            lambda: relabelled(targets=np.zeros(3, np.int32)),
            r"targets must have shape \[37\], one for each image; got \(3,\)",
        ),
        (lambda: relabelled(eps=-1.0), "eps must not be negative"),
    ],
)
def test_bad_input_is_named_with_its_fix(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_empty_data_set_is_refused_before_anything_is_compiled():
    images, labels = (array[:0] for array in data())
    with pytest.raises(ValueError, match="images must hold at least one"):
        features.relabelled_dataset(KEY, TOWARD, lambda p, x: pytest.fail("called"), None, images, labels, eps=1)
    with pytest.raises(ValueError, match="x must hold at least one example"):
        features.relabel_by_attack(KEY, TOWARD, logits_fn, images, labels, eps=1)
