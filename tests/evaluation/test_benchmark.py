"""The benchmark: each stage attacks the images that are still correct, and no result depends on the batches."""

import itertools
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.attacks import AttackResult, Stage, autoattack_stages, fgsm, linf, pgd
from invjax.evaluation import Options, benchmark, certificate_curve
from invjax.training import data_mesh

KEY = jax.random.key(5)
COUNT, EPS = 22, 0.07


def apply_fn(params, x):
    return jnp.tanh(4 * (x.reshape(len(x), -1) - 0.5) @ params["hidden"]) @ params["out"]


def model(classes=4, side=4):
    rng = np.random.default_rng(classes)
    hidden, out = rng.normal(size=(side * side, 12)), rng.normal(size=(12, classes))
    params = {"hidden": jnp.asarray(hidden, jnp.float32), "out": jnp.asarray(out, jnp.float32)}
    images = rng.random((COUNT, side, side, 1)).astype(np.float32)
    labels = np.asarray(apply_fn(params, images)).argmax(1).astype(np.int32)
    labels[[3, 9]] = (labels[[3, 9]] + 1) % classes  # misclassified without an attack
    return params, images, labels


PARAMS, IMAGES, LABELS = model()
WRONG = np.isin(np.arange(COUNT), [3, 9])


def blind(rank):
    """A random point of the ball: its result depends on the key alone."""

    def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        return pgd(steps=1)(key, logits_fn, x, labels, eps=eps, step_size=0.0, ids=ids)

    return replace(fgsm(), run=attack)


def weak(rank):
    return fgsm()


def strong(rank):
    return pgd(steps=20, random_start=False)


STAGES = Stage("blind", blind, 2), Stage("weak", weak, 1), Stage("strong", strong, 1)


def run(stages, images=IMAGES, labels=LABELS, params=PARAMS, eps=EPS, batch_size=1, mesh=None):
    options = Options(batch_size=batch_size, mesh=mesh)
    return benchmark(KEY, apply_fn, params, images, labels, threat=linf(), eps=eps, stages=stages, options=options)


@cache
def result(batch_size=1, devices=None, stages=STAGES):  # one shape, so that each stage compiles once
    mesh = None if devices is None else data_mesh(jax.devices()[:devices])
    return run(stages, batch_size=batch_size, mesh=mesh)


def assert_same(a, b):
    np.testing.assert_array_equal(a.broken_by, b.broken_by)
    np.testing.assert_array_equal(a.broken, b.broken)
    np.testing.assert_allclose(a.x, b.x, atol=1e-6)
    np.testing.assert_allclose(a.distance, b.distance, atol=1e-6)


def test_the_stages_name_the_attack_that_breaks_each_image():
    found = result()
    assert found.stages == ("blind", "weak", "strong")
    assert set(found.broken_by.tolist()) == {-1, 0, 1, 2, 3}  # the following checks need images of every kind
    np.testing.assert_array_equal(found.broken, found.broken_by < 3)
    np.testing.assert_array_equal(found.broken_by == -1, WRONG)
    fooled = np.asarray(apply_fn(PARAMS, found.x)).argmax(1) != LABELS
    np.testing.assert_array_equal(found.broken, fooled)


def test_distances_are_those_of_the_images_returned():
    found = result()
    np.testing.assert_allclose(found.distance, np.abs(found.x - IMAGES).max((1, 2, 3)), atol=1e-7)
    assert (found.distance <= EPS * (1 + 1e-5)).all()


def test_images_that_are_wrong_already_and_those_that_withstand_are_returned_as_they_are():
    found = result()
    for untouched in (WRONG, ~found.broken):
        assert untouched.any()
        np.testing.assert_array_equal(found.x[untouched], IMAGES[untouched])
        assert (found.distance[untouched] == 0).all()


@pytest.mark.parametrize(("batch_size", "devices"), [(32, None), (2, 2)], ids=["one batch", "two devices"])
def test_batches_and_devices_change_nothing(batch_size, devices):
    assert_same(result(batch_size, devices), result())


def test_the_order_of_the_images_changes_nothing_where_no_key_is_drawn():
    stages = STAGES[1:]
    order = np.random.default_rng(0).permutation(COUNT)
    shuffled = run(stages, IMAGES[order], LABELS[order])
    plain = result(stages=stages)
    assert_same(
        shuffled, plain._replace(**{n: getattr(plain, n)[order] for n in ("x", "broken", "distance", "broken_by")})
    )


def test_a_benchmark_breaks_all_images_that_its_first_stage_breaks():
    first = result(stages=STAGES[:1])
    np.testing.assert_array_equal(first.broken_by == 0, result().broken_by == 0)
    np.testing.assert_array_equal(first.x[first.broken_by == 0], result().x[first.broken_by == 0])


def recording(seen, stages):
    """The stages, whose attacks note which images they are given: `(stage, rank, id)`."""

    def noted(number, make):
        def of_rank(rank):
            def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
                jax.debug.callback(lambda *what: seen.append(tuple(int(i) for i in what)), number, rank, ids[0])
                return make(rank)(key, logits_fn, x, labels, eps=eps, ids=ids)

            return replace(make(rank), run=attack)

        return of_rank

    return tuple(stage._replace(make=noted(number, stage.make)) for number, stage in enumerate(stages))


@pytest.mark.slow
def test_broken_images_are_not_attacked_again():
    seen = []
    found = run(recording(seen, STAGES))
    jax.effects_barrier()
    assert len(set(seen)) == len(seen)
    given = {part: {i for *at, i in seen if tuple(at) == part} for part in [(0, 0), (0, 1), (1, 0), (2, 0)]}
    assert sum(map(len, given.values())) == len(seen)
    for number in range(3):
        assert given[number, 0] == set(np.flatnonzero(found.broken_by >= number).tolist())
    assert given[2, 0] < given[1, 0] <= given[0, 1] < given[0, 0]


def test_each_rank_of_a_stage_and_each_stage_has_its_own_key():
    """Success at random: each try breaks some of the remaining images, so none repeats the last one's draws."""
    seen = []

    def coin(rank):
        def attack(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
            won = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i), 0.4))(ids)
            nothing = jnp.zeros(len(x))
            return AttackResult(x, won, nothing, nothing, nothing[:, None], nothing == 0)

        return replace(fgsm(), run=attack)

    stages = recording(seen, [Stage("coin", coin, 2), Stage("again", coin, 1)])
    found = run(stages)
    jax.effects_barrier()
    left = [sum(tuple(at) == part for *at, _ in seen) for part in [(0, 0), (0, 1), (1, 0)]]
    left.append(int((found.broken_by == 2).sum()))
    assert left[0] == COUNT - 2
    assert all(0 < after < before for before, after in itertools.pairwise(left))


def test_no_stage_runs_if_all_images_are_misclassified():
    seen = []
    found = run(recording(seen, STAGES[:1]), IMAGES[WRONG], LABELS[WRONG])
    jax.effects_barrier()
    assert found.broken.all() and (found.broken_by == -1).all() and not seen


@pytest.mark.parametrize(("classes", "eps"), [(2, 0.04), pytest.param(4, 0.02, marks=pytest.mark.slow)])
def test_autoattack_runs_with_few_classes(classes, eps):
    params, images, labels = model(classes)
    images, labels = images[:8], labels[:8]
    found = run(autoattack_stages(linf(), num_classes=classes, steps=3, queries=4), images, labels, params, eps)
    clean = np.asarray(apply_fn(params, images)).argmax(1) != labels
    np.testing.assert_array_equal(found.broken_by == -1, clean)
    np.testing.assert_array_equal(found.broken, np.asarray(apply_fn(params, found.x)).argmax(1) != labels)
    assert clean.sum() < found.broken.sum() < len(images)
    assert (found.distance <= eps * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": LABELS + 2}, "labels must be in"),
        ({"images": np.full_like(IMAGES, np.nan)}, "images holds .* NaN"),
        ({"eps": -1.0}, "eps must not be negative"),
        ({"params": jax.tree.map(lambda leaf: leaf * np.nan, PARAMS)}, "logits holds .* NaN"),
    ],
    ids=["labels", "NaN images", "negative eps", "NaN logits"],
)
def test_bad_input_is_refused(change, message):
    given = {"params": PARAMS, "images": IMAGES, "labels": LABELS, "eps": EPS} | change
    with pytest.raises(ValueError, match=message):
        run(STAGES, **given)


def test_a_benchmark_without_attacks_is_refused():
    with pytest.raises(ValueError, match="stages must hold at least one attack"):
        run(())


def test_certificates_stand_beside_the_attacks():
    """Certified accuracy is at most the robust accuracy, and no image is both certified and broken."""
    run = partial(benchmark, KEY, apply_fn, PARAMS, IMAGES, LABELS, threat=linf(), stages=STAGES, options=Options(8))
    found = run(eps=0.005, certify="crown")
    assert not (found.certified & found.broken).any() and 0 < found.certified.mean() <= found.robust_accuracy
    expected = certificate_curve(apply_fn, PARAMS, IMAGES, LABELS, epsilons=[0.005], method="crown").accuracy()
    assert found.certified.mean() == expected[0]
    assert f"certified accuracy {expected[0]:.1%}, robust accuracy" in str(found)
    assert run(eps=0.005).certified is None and "certified" not in str(run(eps=0.005))
    for change, message in (
        ({"certify": "exact"}, "certify must be one of"),
        ({"eps": np.full(COUNT, 0.1), "certify": "ibp"}, "needs one eps for all images"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**{"eps": 0.1} | change)
