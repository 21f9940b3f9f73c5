"""Data sets made from a model: inversion, relabelling, whole data sets that survive a kill, and the controls."""

import errno
import os
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax import _store, attacks, features
from invjax.models import mlp, mnist_cnn, penultimate, resnet
from invjax.training import data_mesh
from invjax.types import Net

COUNT, CLASSES = 37, 4
NET = mlp(CLASSES, (12,))
KEY = jax.random.key(3)
TOWARD = attacks.pgd(attacks.l2(), steps=8, targeted=True, random_start=False)


def data(count=COUNT):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(count, 4, 4, 1)).astype(np.float32), rng.integers(0, CLASSES, count).astype(np.int32)


def params(seed=0):
    return NET.init(jax.random.key(seed), jnp.asarray(data(1)[0]))


def representation(x):
    return penultimate(NET)(params(), x)


def inverted(path=None, key=KEY, seed=0, **changes):
    options = {"steps": 5, "batch_size": 8, "part_size": 16, "path": path} | changes
    return features.robust_dataset(key, penultimate(NET), params(seed), *data(), **options)


def relabelled(path=None, targets=None, attack=TOWARD, **changes):
    targets = np.asarray(features.next_targets(data()[1], num_classes=CLASSES)) if targets is None else targets
    options = {"eps": 0.5, "batch_size": 8, "part_size": 16, "path": path} | changes
    return features.relabelled_dataset(KEY, attack, NET.apply, params(), data()[0], targets, **options)


# the representation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net", [mlp(3, (7,)), mnist_cnn(3, (4, 4), 5), resnet(3, (8, 16), (1, 1))], ids=["mlp", "mnist_cnn", "resnet"]
)
def test_the_last_dense_layer_reads_the_penultimate_representation(net):
    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
    weights = net.init(jax.random.key(1), x)
    found = jax.jit(penultimate(net))(weights, x)
    last = list(weights["params"].values())[-1]
    np.testing.assert_allclose(found @ last["kernel"] + last["bias"][None], net.apply(weights, x), atol=1e-5)
    assert (found >= 0).all() and found.ndim == 2


def test_a_network_without_a_last_dense_layer_has_no_penultimate_representation():
    x = jnp.ones((2, 4))
    for net in (Net(NET.init, lambda p, x: 2 * NET.apply(p, x)), Net(NET.init, lambda p, x: x)):
        weights = NET.init(jax.random.key(0), x)
        with pytest.raises(ValueError, match="penultimate needs a network"):
            penultimate(net)(weights, x)


# inversion ----------------------------------------------------------------------------------------------------------


def test_inversion_nears_the_representation_and_the_best_image_so_far_never_gets_worse():
    x, start = data()[0][:8], data()[0][8:16]
    run = jax.jit(partial(features.robustify, KEY, representation, steps=60, step_size=0.05), static_argnames="keep")
    last, best = run(x, start), run(x, start, keep="best")
    assert np.median(last.distance / last.trace[:, 0]) < 0.1  # some start where the ReLUs they need are shut
    assert last.trace.shape == (8, 61)
    np.testing.assert_array_equal(last.trace, best.trace)
    np.testing.assert_array_equal(last.trace[:, -1], last.distance)
    np.testing.assert_array_equal(np.minimum.accumulate(best.trace, 1)[:, -1], best.distance)
    assert (best.distance < last.distance).any()
    wanted = representation(jnp.asarray(x))
    for found in (last, best):
        assert found.x.min() >= 0 and found.x.max() <= 1
        apart = jnp.linalg.norm(representation(found.x) - wanted, axis=1) / jnp.linalg.norm(wanted, axis=1)
        np.testing.assert_allclose(found.distance, apart, rtol=1e-4, atol=1e-5)


def test_one_step_goes_its_length_down_the_gradient_and_stays_in_the_box():
    weights = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    x, start = np.full((1, 6), 0.5, np.float32), np.full((1, 6), 0.4, np.float32)
    found = features.robustify(KEY, lambda z: z @ weights, x, start, steps=1, step_size=0.05)
    gradient = (start - x) @ weights @ weights.T
    np.testing.assert_allclose(found.x, start - 0.05 * gradient / np.linalg.norm(gradient), rtol=1e-5)
    clipped = features.robustify(KEY, lambda z: z @ weights, x, start, steps=1, step_size=50.0)
    assert set(np.unique(clipped.x)) <= {0.0, 1.0}
    there = features.robustify(KEY, lambda z: z @ weights, x, x, steps=3, step_size=0.05)
    np.testing.assert_array_equal(there.x, x)
    np.testing.assert_array_equal(there.distance, [0])


def test_noise_of_an_image_is_its_own():
    x, ids = data()[0][:4], np.array([5, 9, 0, 2])
    run = partial(features.robustify, KEY, representation, steps=1, step_size=0.0)
    found = run(x, ids=ids).x
    np.testing.assert_array_equal(run(x[2:], ids=ids[2:]).x, found[2:])
    assert abs(found.mean() - 0.5) < 0.05 and 0.02 < found.std() < 0.1
    assert (run(x, ids=ids, noise=10.0).x == 0).any()


# relabelling --------------------------------------------------------------------------------------------------------


def test_the_next_class_is_a_derangement_that_keeps_the_classes():
    labels = np.arange(50) % CLASSES
    targets = np.asarray(features.next_targets(labels, num_classes=CLASSES))
    assert (targets != labels).all()
    assert sorted(set(zip(labels.tolist(), targets.tolist(), strict=True))) == [(0, 1), (1, 2), (2, 3), (3, 0)]


def test_random_targets_are_uniform_and_may_leave_out_the_label():
    labels = np.arange(6000) % CLASSES
    draw = partial(features.random_targets, KEY, classes=CLASSES)
    free, others = np.asarray(draw(labels)), np.asarray(draw(labels, exclude_true=True))
    assert abs((free == labels).mean() - 1 / CLASSES) < 0.03 and not (others == labels).any()
    for targets in (free, others):
        np.testing.assert_allclose(np.bincount(targets, minlength=CLASSES) / 6000, 1 / CLASSES, atol=0.03)
    np.testing.assert_array_equal(draw(labels[7:9], ids=np.array([7, 8])), free[7:9])


def test_relabelled_images_stay_in_the_ball_and_reach_their_targets():
    made = relabelled(eps=1.5)
    images, labels = data()
    apart = np.linalg.norm((made.images - images).reshape(COUNT, -1), axis=1)
    assert (apart <= 1.5 + 1e-6).all() and apart.max() > 0.5
    assert made.images.min() >= 0 and made.images.max() <= 1
    np.testing.assert_allclose(made.details["distance"], apart, rtol=1e-5)
    seen = NET.apply(params(), jnp.asarray(made.images)).argmax(1)
    np.testing.assert_array_equal(made.details["success"], np.asarray(seen) == made.labels)
    assert made.details["success"].mean() > 0.8 and (made.labels == (labels + 1) % CLASSES).all()


def test_what_fools_the_model_alone_does_not_fool_the_others():
    """The others know half of the pixels: what is changed in the other half is this model's own."""
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
        found = features.relabel_by_attack(KEY, attack, logits_fn, x, targets, eps=3.0)
        assert found.success.mean() > 0.9 and (found.distance <= 3 + 1e-6).all()
        followers.append(float((ensemble_fn(np.asarray(found.x)).argmax(-1) == targets[None]).mean()))
    assert followers[0] > 0.3 and followers[1] == 0


def test_of_the_images_on_the_way_one_is_kept_that_no_other_model_takes_for_the_target():
    """At first no other model sees the target, and from some step on they all do, while the loss still falls."""
    x, labels, targets = np.full((1, 2), 0.1, np.float32), np.array([0]), np.array([1])

    def model(z):
        return jnp.stack([jnp.zeros(1), 4 * (z[:, 0] - 0.2), jnp.full(1, -9.0)], -1)

    def others(z):  # they hardly mind a target, and see it from 0.5 on
        return jnp.stack([jnp.zeros(1), 0.01 * (z[:, 0] - 0.5), jnp.full(1, -9.0)], -1)[None]

    attack = features.non_transferable(others, labels, steps=20)
    found = features.relabel_by_attack(KEY, attack, model, x, targets, eps=0.8)
    plain = attacks.pgd(attacks.l2(), steps=20, targeted=True, random_start=False)
    assert features.relabel_by_attack(KEY, plain, model, x, targets, eps=0.8).x[0, 0] > 0.6
    assert 0.2 < found.x[0, 0] <= 0.5 and found.success.all()


def test_an_attack_that_flees_its_labels_makes_no_data_set():
    fleeing = attacks.pgd(attacks.l2(), steps=3)
    with pytest.raises(ValueError, match="attack must be targeted"):
        relabelled(attack=fleeing)
    with pytest.raises(ValueError, match="attack must be targeted"):
        features.relabel_by_attack(KEY, attacks.fgsm(), partial(NET.apply, params()), *data(), eps=0.1)

    def unknown(key, logits_fn, x, labels, **options):
        return fleeing(key, logits_fn, x, labels, **options)

    made = relabelled(attack=unknown, eps=2.0)
    seen = np.asarray(NET.apply(params(), jnp.asarray(made.images)).argmax(1))
    np.testing.assert_array_equal(made.details["success"], seen == made.labels)
    assert made.details["success"].mean() < 0.5


def test_images_outside_of_the_box_are_refused_before_a_non_transferable_attack_is_compiled():
    x, y = 255 * data()[0][:4], data()[1][:4]
    ensemble_fn = lambda z: jnp.stack([NET.apply(params(), z)])  # noqa: E731
    attack = features.non_transferable(ensemble_fn, y, steps=1)
    run = attacks.jit_attack(attack, NET.apply)
    with pytest.raises(ValueError, match="x must lie in"):
        run(KEY, params(), x, y, eps=0.5)


# whole data sets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [inverted, relabelled], ids=["inversion", "attack"])
def test_a_file_holds_the_data_set_its_recipe_and_its_hash(make, tmp_path):
    path = tmp_path / "made.npz"
    made = make(path)
    again, kept = make(path), features.load(path)
    assert [child.name for child in tmp_path.iterdir()] == ["made.npz"]
    for other in (again, kept):
        assert other.recipe == made.recipe and other.sha256 == made.sha256
        np.testing.assert_array_equal(other.images, made.images)
        assert other.details.keys() == made.details.keys()
    assert made.recipe["examples"] == COUNT and made.recipe["batch_size"] == 8
    assert make().sha256 == made.sha256


def test_an_example_is_the_same_in_any_batch_and_on_any_devices():
    whole = inverted(start="noise")
    for changes in ({"batch_size": 16}, {"batch_size": 8, "mesh": data_mesh()}):
        other = inverted(start="noise", **changes)
        np.testing.assert_allclose(other.images, whole.images, atol=1e-5)
    for attack in (TOWARD, attacks.pgd(attacks.l2(), steps=1, targeted=True)):  # the second starts at random
        one = relabelled(attack=attack)
        other = relabelled(attack=attack, batch_size=16, mesh=data_mesh())
        np.testing.assert_allclose(other.images, one.images, atol=1e-5)


def test_starts_are_drawn_without_a_look_at_the_image():
    made = inverted(steps=1, step_size=0.0)
    start = made.details["start"]
    np.testing.assert_array_equal(made.images, data()[0][start])
    np.testing.assert_array_equal(made.labels, data()[1])
    assert 15 < len(set(start.tolist())) < COUNT  # with replacement
    assert (inverted(steps=1, step_size=0.0, key=jax.random.key(4)).details["start"] != start).any()
    assert (inverted(steps=1, start="noise").details["start"] == -1).all()


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(tmp_path):
    program = """
        import os, signal, sys
        sys.path.insert(0, {repository!r})
        import jax
        jax.config.update("jax_num_cpu_devices", 8)
        from tests import test_features as here
        from invjax import _store
        write = _store.write_arrays
        def killed(path, arrays):
            if path.name.startswith("00000032"):
                path.with_name(path.name + ".part").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, arrays)
        _store.write_arrays = killed
        here.inverted(here.Path({path!r}))
    """
    whole, broken = tmp_path / "whole.npz", tmp_path / "broken.npz"
    inverted(whole)
    source = textwrap.dedent(program).format(repository=str(Path(__file__).parents[1]), path=str(broken))
    done = subprocess.run([sys.executable, "-c", source], env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=300)
    assert done.returncode == -9 and not broken.exists()
    parts = tmp_path / "broken.npz.parts"
    assert len(list(parts.glob("*.npz"))) == 2
    written = {part: part.stat().st_mtime_ns for part in parts.glob("*.npz")}
    write, seen = _store.write_arrays, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("invjax._store.write_arrays", lambda p, a: (seen.append(p.name), write(p, a)))
        inverted(broken)
    assert seen == ["00000032-00000037.npz"] and len(written) == 2
    assert broken.read_bytes() == whole.read_bytes() and not parts.exists()


@pytest.mark.parametrize("which", ["a part", "the whole"])
def test_a_full_disk_leaves_nothing_half_written(which, tmp_path, monkeypatch):
    path = tmp_path / "made.npz"
    save = np.savez
    calls = []

    def full(file, **arrays):
        calls.append(file.name)
        if len(calls) == (2 if which == "a part" else 4):
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **arrays)

    monkeypatch.setattr(_store.np, "savez", full)
    with pytest.raises(OSError, match="No space left on device; make room and run again"):
        relabelled(path)
    left = sorted(child.name for child in tmp_path.rglob("*") if child.is_file())
    assert left == ["00000000-00000016.npz", "00000016-00000032.npz", "00000032-00000037.npz"][: len(calls) - 1]
    monkeypatch.setattr(_store.np, "savez", save)
    assert relabelled(path).sha256 == relabelled().sha256


def test_numbers_in_arrays_are_kept_as_numbers(tmp_path):
    made = relabelled(tmp_path / "made.npz", eps=jnp.asarray(0.5), step_size=jnp.asarray(0.25))
    assert made.recipe["eps"] == 0.5 and made.recipe["step_size"] == 0.25
    assert inverted(tmp_path / "other.npz", step_size=jnp.asarray(0.5)).recipe["step_size"] == 0.5


def test_another_run_at_the_same_path_is_refused(tmp_path):
    path = tmp_path / "made.npz"
    inverted(path)
    for changes, name in (
        ({"steps": 6}, "program_sha256"),
        ({"key": jax.random.key(9)}, "inputs_sha256"),
        ({"batch_size": 16}, "batch_size"),
        ({"seed": 1}, "params_sha256"),
        ({"about": {"model": "another"}}, "model"),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run: its {name} is"):
            inverted(path, **changes)
    parts = tmp_path / "other.npz.parts"
    _store.Kept(parts / "00000000-00000016.npz", {"model": "another"}).save()
    with pytest.raises(ValueError, match="belongs to another run"):
        inverted(tmp_path / "other.npz")


def test_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "made.npz"
    made = inverted(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"made\.npz is damaged"):
        features.load(path)
    with pytest.raises(ValueError, match="made is not what was made"):
        features.save(path, made._replace(images=made.images + 1))
    features.save(path, made)
    arrays = _store.read_arrays(path)
    _store.write_arrays(path, arrays | {"images": made.images + 1})
    with pytest.raises(ValueError, match="its hash differs"):
        features.load(path)
    np.savez(path, images=made.images)
    with pytest.raises(ValueError, match="no labels, recipe, sha256"):
        features.load(path)


# bad inputs ---------------------------------------------------------------------------------------------------------


def robustify(x=None, x0=None, features_fn=representation, **options):
    x = data()[0][:4] if x is None else x
    return features.robustify(KEY, features_fn, x, x0, **({"steps": 1} | options))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: robustify(x0=data()[0][:3]), r"x0 must have the shape of x, \(4, 4, 4, 1\); got \(3, 4, 4, 1\)"),
        (lambda: robustify(x=data()[0][:0]), "at least one image"),
        (lambda: robustify(x=2 + data()[0][:4]), "x must lie in"),
        (lambda: robustify(x0=np.full((4, 4, 4, 1), np.nan, np.float32)), "x0 holds 64 NaN"),
        (lambda: robustify(steps=0), "steps must be positive"),
        (lambda: robustify(step_size=-1.0), "step_size must not be negative"),
        (lambda: robustify(keep="first"), "keep must be one of"),
        (lambda: robustify(features_fn=lambda x: x.sum()), "features_fn must map images"),
        (lambda: inverted(start="zero"), "start must be one of"),
        (lambda: inverted(batch_size=0), "batch_size must be positive"),
        (lambda: relabelled(targets=np.full(COUNT, CLASSES)), r"targets: labels must be in \[0, 4\)"),
        (lambda: relabelled(targets=np.zeros(3, np.int32)), "labels must be one for each of the 37 images"),
        (lambda: relabelled(eps=-1.0), "eps must not be negative"),
        (lambda: features.next_targets(np.array([0, 4]), num_classes=4), r"labels must be in \[0, 4\)"),
        (lambda: features.random_targets(KEY, np.array([0]), num_classes=1), "classes must be at least 2"),
        (lambda: features.construct(KEY, dict, None, [], recipe={}), "arrays must have one length"),
        (lambda: features.construct(KEY, lambda p, k, i, x: {"images": x}, None, data()[:1], recipe={}), "no labels"),
        (lambda: inverted(about={"seed": np.float32(1)}), "recipe must hold what JSON takes"),
        (lambda: features.adversarial_squares(KEY, count=2, flip=0.5), r"flip must be in \[0, 1/2\)"),
        (lambda: features.adversarial_squares(KEY, count=2, spread=1), r"spread must be in \[0, 1\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_its_fix(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_an_empty_data_set_is_refused_before_anything_is_compiled():
    images, labels = (array[:0] for array in data())
    with pytest.raises(ValueError, match="images must hold at least one"):
        features.robust_dataset(KEY, lambda p, x: pytest.fail("called"), None, images, labels)
    with pytest.raises(ValueError, match="images must hold at least one"):
        features.relabelled_dataset(KEY, TOWARD, lambda p, x: pytest.fail("called"), None, images, labels, eps=1)
    with pytest.raises(ValueError, match="at least one image"):
        features.relabel_by_attack(KEY, TOWARD, partial(NET.apply, params()), images, labels, eps=1)


def test_logits_given_for_features_are_warned_of():
    with pytest.warns(UserWarning, match="are these the logits"):
        features.robust_dataset(KEY, NET.apply, params(), *data(), steps=1, batch_size=8)
    with pytest.warns(UserWarning, match="are these the logits"):
        robustify(features_fn=partial(NET.apply, params()), classes=CLASSES)
    robustify(classes=CLASSES)  # warnings are errors: the representation gives none


def test_an_ensemble_of_another_shape_is_refused():
    x, y = jnp.asarray(data()[0][:4]), data()[1][:4]
    attack = features.non_transferable(partial(NET.apply, params()), y, steps=1)
    with pytest.raises(ValueError, match=r"ensemble_fn must give logits \[models, 4, 4\]"):
        attack(KEY, partial(NET.apply, params()), x, y, eps=1.0)


# controls -----------------------------------------------------------------------------------------------------------


def test_what_the_features_hold_leaks_and_what_they_do_not_hold_does_not():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 400).astype(np.int32)
    images = np.eye(CLASSES, dtype=np.float32)[labels] + 0.1 * rng.normal(size=(400, CLASSES)).astype(np.float32)
    probe = partial(features.leakage_probe, KEY, lambda x: x, test=(images, labels), classes=CLASSES, epochs=40,
                    learning_rate=0.1, batch_size=50)  # fmt: skip
    made = features.Constructed(images, labels, {}, {}, "")
    assert probe(made)["test"].error < 0.05
    assert probe(made._replace(labels=(labels + 1) % CLASSES))["test"].error > 0.95


def test_only_errors_are_kept_with_the_models_answers():
    _, labels = data()
    logits = np.eye(CLASSES, dtype=np.float32)[labels]
    logits[[3, 30]] = logits[[3, 30]][:, [1, 2, 3, 0]]
    found = features.learning_from_errors(lambda x: x, logits, labels)
    assert found.ids.tolist() == [3, 30] and (found.labels == (labels[[3, 30]] - 1) % CLASSES).all()
    with pytest.raises(ValueError, match="right on all 37 examples"):
        features.learning_from_errors(lambda x: x, np.eye(CLASSES, dtype=np.float32)[labels], labels)
    with pytest.raises(ValueError, match="with one label each"):
        features.learning_from_errors(lambda x: x, logits, labels[:5])


def test_squares_are_told_apart_by_their_mean_at_any_noise_but_the_labels():
    images, labels = features.adversarial_squares(KEY, count=2000, side=5)
    right = (images.mean((1, 2, 3)) > 0) == (labels == 1)
    assert abs(right.mean() - 0.9) < 0.03 and abs(labels.mean() - 0.5) < 0.05
    assert jnp.abs(images).min() >= 0.9 and jnp.abs(images).max() <= 1.1 and images.shape == (2000, 5, 5, 1)
