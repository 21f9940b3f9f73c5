"""Non-transferable attacks fool one model and no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax import attacks, features
from tests.features.problem import CLASSES, KEY, NET, data, logits_fn, params


def relabel(attack, logits_fn, x, targets, *, eps):
    run = jax.jit(lambda x, targets: features.relabel_by_attack(KEY, attack, logits_fn, x, targets, eps=eps))
    return jax.tree.map(np.asarray, run(x, targets))


def test_a_non_transferable_attack_fools_its_model_and_no_other():
    """The other models read half of the pixels, so changes of the other half fool this model alone."""
    x, labels = (array[:16] for array in data())
    weights = np.random.default_rng(1).normal(size=(16, CLASSES)).astype(np.float32)
    half = weights * (np.arange(16) < 8)[:, None]
    logits_fn, ensemble_fn = (lambda x, w=w: x.reshape(-1, 16) @ w for w in (weights, np.stack([half, half])))
    labels = np.asarray(ensemble_fn(x)[0].argmax(1), np.int32)
    targets = features.next_targets(labels, num_classes=CLASSES)
    free = attacks.l2(box=(-jnp.inf, jnp.inf))
    alone = features.non_transferable(ensemble_fn, labels, free, steps=40)
    plain = attacks.pgd(free, steps=40, targeted=True, random_start=False)
    followers = []
    for attack in (plain, alone):
        found = relabel(attack, logits_fn, x, targets, eps=3.0)
        assert found.success.mean() > 0.9 and (found.distance <= 3 + 1e-6).all()
        followers.append(float((ensemble_fn(np.asarray(found.x)).argmax(-1) == targets[None]).mean()))
    assert followers[0] > 0.3 and followers[1] == 0


def test_the_kept_iterate_is_not_classified_as_the_target_by_other_models():
    """From some step on all other models see the target, while the loss of the model still falls."""
    x, labels, targets = np.full((1, 2), 0.1, np.float32), np.array([0]), np.array([1])

    def model(z):
        return jnp.stack([jnp.zeros(1), 4 * (z[:, 0] - 0.2), jnp.full(1, -9.0)], -1)

    def others(z):  # the other models see the target from 0.5 on
        return jnp.stack([jnp.zeros(1), 0.01 * (z[:, 0] - 0.5), jnp.full(1, -9.0)], -1)[None]

    attack = features.non_transferable(others, labels, steps=20)
    found = relabel(attack, model, x, targets, eps=0.8)
    plain = attacks.pgd(attacks.l2(), steps=20, targeted=True, random_start=False)
    assert relabel(plain, model, x, targets, eps=0.8).x[0, 0] > 0.6
    assert 0.2 < found.x[0, 0] <= 0.5 and found.success.all()


def test_images_outside_of_the_box_are_refused_before_a_non_transferable_attack_is_compiled():
    x, y = 255 * data()[0][:4], data()[1][:4]
    ensemble_fn = lambda z: jnp.stack([NET.apply(params(), z)])  # noqa: E731
    attack = features.non_transferable(ensemble_fn, y, steps=1)
    run = attacks.jit_attack(attack, NET.apply)
    with pytest.raises(ValueError, match="x must lie in"):
        run(KEY, params(), x, y, eps=0.5)


def test_a_radius_for_each_image_is_refused():
    x, y = data(4)
    attack = features.non_transferable(lambda z: logits_fn(z)[None], y, steps=1)
    with pytest.raises(ValueError, match="the attack was made for 4 labels and got 1 images"):
        attack(KEY, logits_fn, jnp.asarray(x), y, eps=np.full(4, 0.5, np.float32))


def test_an_ensemble_of_another_shape_is_refused():
    x, y = data(4)
    attack = features.non_transferable(logits_fn, y, steps=1)
    with pytest.raises(ValueError, match=r"ensemble_fn must give logits \[models, 4, 4\]"):
        attack(KEY, logits_fn, jnp.asarray(x), y, eps=1.0)
