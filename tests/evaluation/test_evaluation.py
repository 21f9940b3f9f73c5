"""Curves and reports: results for each image, cost, and continuation after an interruption."""

import functools
import math
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from invjax.attacks import fgsm, l1, l2, linf, pgd
from invjax.evaluation import (
    ChangedImages,
    Options,
    ThreatModel,
    _certificate,
    _curve,
    _sensitivity,
    certificate_curve,
    report,
    robustness_curve,
    table,
    wilson,
)
from invjax.training import data_mesh

KEY = jax.random.key(2)
COUNT, CLASSES = 23, 3
EPSILONS = (0.0, 0.02, 0.05, 0.1, 0.3)


def apply_fn(params, x):
    return jnp.tanh(3 * (x.reshape(len(x), -1) - 0.5) @ params["hidden"]) @ params["out"]


def model():
    rng = np.random.default_rng(0)
    params = {"hidden": rng.normal(size=(16, 10)), "out": rng.normal(size=(10, CLASSES))}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    images = rng.random((COUNT, 4, 4, 1)).astype(np.float32)
    labels = np.asarray(apply_fn(params, images)).argmax(1).astype(np.int32)
    labels[[2, 5, 11]] = (labels[[2, 5, 11]] + 1) % CLASSES
    return params, images, labels


PARAMS, IMAGES, LABELS = model()
CLEAN = ~np.isin(np.arange(COUNT), [2, 5, 11])


# intervals of shares


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (50, 100, 0.4038, 0.5962), (1, 1, 0.2065, 1), (5, 1000, 0.0021, 0.0117)],
)
def test_the_wilson_interval_has_its_published_values(successes, total, low, high):
    assert wilson(successes, total) == pytest.approx((low, high), abs=5e-5)


def test_the_ends_of_the_interval_solve_the_score_test():
    """... `(share - p)^2 = z^2 p (1 - p) / total`, which is how Wilson defined it."""
    for successes, total, z in [(3, 17, 1.96), (40, 41, 1.0), (7, 9, 2.6)]:
        for p in wilson(successes, total, z):
            assert (successes / total - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / total)


def test_the_interval_contains_the_fraction_and_shrinks_with_the_total():
    for total in (1, 3, 10, 49, 1000):
        for successes in range(total + 1):
            low, high = wilson(successes, total)
            assert 0 <= low <= successes / total <= high <= 1
    widths = [np.diff(wilson(n // 2, n))[0] for n in (10, 100, 1000)]
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_an_interval_of_small_integers_does_not_overflow():
    for dtype in (np.uint8, np.int8, np.int16, np.int32):
        assert wilson(dtype(10), dtype(100)) == wilson(10, 100)
    assert wilson(np.int32(40_000), np.int32(60_000)) == wilson(40_000, 60_000)


@pytest.mark.parametrize("successes", [-1, 11, np.nan])
def test_an_interval_of_impossible_successes_is_refused(successes):
    with pytest.raises(ValueError, match="successes must be from 0 to total=10"):
        wilson(successes, 10)


def test_an_interval_of_no_trials_is_refused():
    with pytest.raises(ValueError, match="total must be positive; got total=0"):
        wilson(0, 0)


# the curve


def curve(attack=None, epsilons=EPSILONS, vectorize=False, batch_size=8, mesh=None, directory=None, **given):
    attack = pgd(steps=1) if attack is None else attack  # the result of one step depends on its random start
    images, labels, params = (given.pop(n, v) for n, v in [("images", IMAGES), ("labels", LABELS), ("params", PARAMS)])
    run = partial(robustness_curve, given.pop("key", KEY), attack, given.pop("apply_fn", apply_fn), params)
    options = Options(batch_size, mesh, directory)
    return run(images, labels, epsilons=epsilons, vectorize=vectorize, options=options, **given)


whole = functools.cache(curve)
"""A curve that is computed once, for all tests that compare others with it."""

FGSM = fgsm()


def test_the_curve_is_that_of_one_attack_after_the_other():
    """The attack on all images at each radius; what has fallen stays fallen."""
    attack = pgd(steps=1)
    one = jax.jit(lambda eps: attack(KEY, partial(apply_fn, PARAMS), IMAGES, LABELS, eps=eps).success)
    broken = np.full(COUNT, np.inf)
    for eps in sorted(EPSILONS, reverse=True):
        broken[np.asarray(one(eps))] = eps
    broken[~CLEAN] = 0
    found = whole()
    np.testing.assert_array_equal(found.broken_at, broken)
    np.testing.assert_array_equal(found.epsilons, EPSILONS)
    assert len(set(broken.tolist())) >= 5
    np.testing.assert_allclose(found.accuracy(), [(broken > eps).mean() for eps in EPSILONS])


def test_accuracy_starts_at_the_clean_one_and_never_rises():
    accuracy = curve(epsilons=(0.4, 0.1, 0.0, 0.05)).accuracy()  # in any order
    assert accuracy[0] == CLEAN.mean()
    assert (np.diff(accuracy) <= 0).all() and accuracy[-1] < accuracy[0]


def of_small_radii(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
    """Wins at 0.02 and loses at larger radii."""
    result = fgsm()(key, logits_fn, x, labels, eps=eps, ids=ids)
    return result._replace(success=jnp.full(len(x), eps < 0.03))


SMALL_ONLY = replace(fgsm(), run=of_small_radii)


@pytest.mark.parametrize("vectorize", [False, True])
def test_an_attack_that_loses_at_a_larger_radius_does_not_make_the_curve_rise(vectorize):
    found = curve(SMALL_ONLY, epsilons=(0.02, 0.2), vectorize=vectorize)
    assert found.accuracy().tolist() == [0, 0]
    assert set(found.broken_at[CLEAN].tolist()) == {0.02}


def test_vectorized_radii_give_the_same_curve():
    np.testing.assert_array_equal(curve(FGSM, vectorize=True).broken_at, whole(FGSM).broken_at)


@pytest.mark.parametrize(("batch_size", "devices"), [(3, None), (8, 2)], ids=["batches of 3", "two devices"])
def test_batches_and_devices_change_nothing(batch_size, devices):
    mesh = None if devices is None else data_mesh(jax.devices()[:devices])
    np.testing.assert_array_equal(curve(batch_size=batch_size, mesh=mesh).broken_at, whole().broken_at)


def test_the_curve_depends_on_the_key():
    assert (curve(key=jax.random.key(9)).broken_at != whole().broken_at).any()


def noting(attack, traces, seen):
    """The attack; it notes when it is traced, and which images it is given at which radius."""

    def noted(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        traces.append(x.shape)
        jax.debug.callback(lambda ids, eps: seen.setdefault(round(float(eps), 3), []).extend(ids.tolist()), ids, eps)
        return attack(key, logits_fn, x, labels, eps=eps, ids=ids)

    return replace(attack, run=noted)


def test_one_compilation_serves_all_radii_and_broken_images_are_not_attacked():
    traces, seen = [], {}
    found = curve(noting(FGSM, traces, seen), batch_size=1)
    jax.effects_barrier()
    assert len(traces) == 1
    for eps in EPSILONS:
        assert sorted(seen[eps]) == np.flatnonzero(CLEAN & (found.broken_at >= eps)).tolist()
    assert len(seen[0.3]) < len(seen[0.0]) < COUNT


def test_a_curve_stops_when_all_images_are_broken():
    traces, seen = [], {}
    found = curve(noting(SMALL_ONLY, traces, seen), epsilons=(0.01, 0.1, 0.2))
    jax.effects_barrier()
    assert list(seen) == [0.01] and found.accuracy().tolist() == [0, 0, 0]


# interruptions


def interrupted(monkeypatch, module, after):
    """The machine dies at the call of the model or of the attack after so many."""
    over_batches, calls = module.over_batches, []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return over_batches(*args, **kwargs)

    monkeypatch.setattr(module, "over_batches", dying)
    return lambda: monkeypatch.setattr(module, "over_batches", over_batches)


def never(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
    raise AssertionError("it was run again")


@pytest.mark.parametrize("vectorize", [False, True])
def test_a_curve_goes_on_where_it_was_interrupted(tmp_path, monkeypatch, vectorize):
    """Two radii, and the end; the next call finishes in either way of running."""
    mend = interrupted(monkeypatch, _curve, after=2)
    with pytest.raises(KeyboardInterrupt):
        curve(FGSM, directory=tmp_path)
    mend()
    seen = {}
    found = curve(noting(FGSM, [], seen), directory=tmp_path, vectorize=vectorize)
    jax.effects_barrier()
    np.testing.assert_array_equal(found.broken_at, whole(FGSM).broken_at)
    assert vectorize or set(seen) == set(EPSILONS[2:])
    assert [path.name for path in tmp_path.iterdir()] == ["curve.npz"]


@pytest.mark.parametrize("vectorize", [False, True])
def test_a_finished_curve_is_read_and_not_run_again(finished, vectorize):
    again = curve(replace(FGSM, run=never), directory=str(finished), vectorize=vectorize)
    np.testing.assert_array_equal(again.broken_at, whole(FGSM).broken_at)


def test_a_directory_refuses_a_loss_without_a_name(tmp_path):
    """The recipes of two such losses are equal, so a second curve would be that of the first loss."""
    attack = pgd(steps=1, loss=lambda logits, labels: logits.sum(-1))
    with pytest.raises(ValueError, match=r"loss=<lambda>.*give its loss a name"):
        curve(attack, directory=tmp_path)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"epsilons": (0.0, 0.3)}, r"epsilons is \[0\.0, 0\.02.*\], this run has \[0\.0, 0\.3\]"),
        ({"key": jax.random.key(3)}, "key is"),
        ({"labels": (LABELS + 1) % CLASSES}, "labels is"),
        ({"images": 1 - IMAGES}, "images is"),
        ({"params": PARAMS | {"out": 1.5 * PARAMS["out"]}}, "params is"),
        ({"apply_fn": lambda params, x: apply_fn(params, 1 - x)}, "correct is"),
        ({"attack": fgsm(linf(box=(-1, 1)))}, r"attack is 'fgsm\(linf.*, this run has 'fgsm\(linf\(box=\(-1, 1\)\)"),
        ({"attack": pgd(steps=1)}, r"attack is 'fgsm\(linf.*, this run has 'pgd\(linf, steps=1"),
    ],
    ids=["epsilons", "key", "labels", "images", "params", "model", "box", "attack"],
)
def test_a_directory_of_another_run_is_refused_by_name(tmp_path, finished, change, name):
    """Even where the model is correct on the same images; nothing is attacked before."""
    with pytest.raises(ValueError, match=rf"curve.npz belongs to another run: its {name}.*; give another directory"):
        curve(**{"attack": FGSM, "directory": finished} | change)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("curve")
    curve(FGSM, directory=directory)
    return directory


NAN = np.full_like(IMAGES, np.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilons": ()}, "epsilons must be a list of non-negative numbers"),
        ({"epsilons": (0.1, -0.1)}, "epsilons must be a list of non-negative numbers"),
        ({"epsilons": (0.1, math.nan)}, "epsilons must be a list of non-negative numbers"),
        ({"epsilons": ((0.1, 0.2),)}, "epsilons must be a list of non-negative numbers"),
        ({"epsilons": 0.1}, "epsilons must be a list of non-negative numbers"),
        ({"labels": LABELS + CLASSES}, "labels must be in [0, 3)"),
        ({"labels": LABELS[:-1]}, f"labels must have shape [{COUNT}], one for each image; got (22,)"),
        ({"images": NAN}, "images holds 368 NaN"),
        ({"params": jax.tree.map(lambda leaf: leaf * np.nan, PARAMS)}, "the model's logits holds 69 NaN"),
        (
            {"apply_fn": lambda params, x: x},
            "the model must map images (8, 4, 4, 1) to logits [8, classes]; got (8, 4, 4, 1); return a row",
        ),
    ],
    ids=["no eps", "negative", "NaN eps", "nested", "a number", "labels", "few labels", "images", "logits", "model"],
)
def test_bad_input_is_refused(monkeypatch, change, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of jaxtyping
    with pytest.raises(ValueError, match=re.escape(message)):
        curve(**change)


def test_radii_may_be_an_array():
    np.testing.assert_array_equal(curve(FGSM, np.array(EPSILONS[::-1])).broken_at, whole(FGSM).broken_at)


# the report


THREATS = (linf(), 0.05), (l2(), 0.2)


def changed_images():
    """Variants of which half are inverted images, seen as any class, as the label, or as none."""
    rng = np.random.default_rng(1)
    variants = np.where(rng.random((COUNT, 1, 1, 1)) < 0.5, 1 - IMAGES, IMAGES)
    return ChangedImages(variants, rng.integers(-1, CLASSES, COUNT))


def make_report(threats=THREATS, attack_for=lambda threat: pgd(threat, steps=4), certify=None, **given):
    params, images, labels = (given.pop(n, v) for n, v in [("params", PARAMS), ("images", IMAGES), ("labels", LABELS)])
    models = [ThreatModel(attack_for(threat), eps, certify, 5, keep_examples=True) for threat, eps in threats]
    run = partial(report, KEY, apply_fn, params, images, labels, threats=models)
    return run(options=Options(8, directory=given.pop("directory", None)), **given)


CHANGED = {"inverted": changed_images(), "same": ChangedImages(IMAGES, LABELS)}


@pytest.fixture(scope="module")
def kept_report(tmp_path_factory):
    """A report that is interrupted after its first threat."""
    directory = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted(patch, _sensitivity, after=1)
        make_report(directory=directory)
    return directory, [path.name for path in directory.iterdir()]


@pytest.fixture(scope="module")
def found(kept_report):
    """The same report, continued: the attack on the first threat would fail if it ran again."""

    def attack_for(threat):
        attack = pgd(threat, steps=4)
        return replace(attack, run=never) if threat.name == "linf" else attack

    return make_report(attack_for=attack_for, directory=kept_report[0], changed=CHANGED)


def test_the_numbers_of_a_report_are_consistent(found):
    np.testing.assert_array_equal(found.correct, CLEAN)
    assert list(found.sensitivity) == ["linf", "l2"]
    for s in found.sensitivity.values():
        np.testing.assert_array_equal(s.success, s.smallest_eps <= s.eps)
        np.testing.assert_array_equal(s.smallest_eps == 0, ~CLEAN)
        assert s.success[~CLEAN].all()
        assert (s.smallest_eps[np.isfinite(s.smallest_eps)] <= 2 * s.eps * (1 + 1e-6)).all()
        assert CLEAN.sum() > (s.success & CLEAN).sum() > 0


def test_a_report_includes_every_success_of_the_attack_at_its_radius(found):
    result = jax.jit(lambda x: pgd(steps=4)(KEY, partial(apply_fn, PARAMS), x, LABELS, eps=0.05))(IMAGES)
    assert found.sensitivity["linf"].success[np.asarray(result.success)].all()


def stubborn(threat, length):
    """Wins at a radius of 0.3, with a change of a given length, and at 0.6, with one of 0.5; so bisection skips 0.3."""

    def run(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
        result = fgsm(threat)(key, logits_fn, x, labels, eps=eps)
        won = (jnp.abs(eps - 0.3) < 1e-6) | (jnp.abs(eps - 0.6) < 1e-6)
        distance = jnp.full(len(x), jnp.where(eps > 0.5, 0.5, length), jnp.float32)
        return result._replace(success=jnp.full(len(x), won), distance=distance)

    return replace(fgsm(threat), run=run)


@pytest.mark.parametrize(("length", "expected"), [(0.25, 0.25), (0.3 * (1 + 1e-6), 0.3)], ids=["less", "rounded up"])
def test_a_success_that_the_bisection_misses_still_gives_a_smallest_radius(length, expected):
    s = make_report([(linf(), 0.3)], partial(stubborn, length=length)).sensitivity["linf"]
    assert s.success.all()
    np.testing.assert_array_equal(s.smallest_eps, np.where(CLEAN, expected, 0.0))


def test_a_report_is_kept_by_threat_and_goes_on_after_an_interruption(kept_report, found):
    directory, after_interruption = kept_report
    assert after_interruption == ["linf.npz"]
    assert sorted(path.name for path in directory.iterdir()) == ["l2.npz", "linf.npz"]
    again = make_report(attack_for=lambda threat: replace(pgd(threat, steps=4), run=never), directory=directory)
    for name, s in found.sensitivity.items():
        for kept, value in zip(again.sensitivity[name], s, strict=True):
            np.testing.assert_array_equal(kept, value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"threats": [(linf(), 0.06)]}, r"eps is 0\.05, this run has 0\.06"),
        ({"attack_for": fgsm}, r"attack is 'pgd\(linf.*, this run has 'fgsm\(linf"),
    ],
    ids=["eps", "attack"],
)
def test_a_report_of_another_run_in_the_same_directory_is_refused(kept_report, change, name):
    with pytest.raises(ValueError, match=rf"linf.npz belongs to another run: its {name}"):
        make_report(directory=kept_report[0], **change)


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2)])
def test_the_nearest_examples_are_at_their_distance_and_misclassified(found, norm, order):
    s = found.sensitivity[norm]
    moved = np.isfinite(s.smallest_eps) & CLEAN
    distance = np.linalg.norm((s.nearest - IMAGES).reshape(COUNT, -1), order, axis=1)
    np.testing.assert_allclose(distance[moved], s.smallest_eps[moved], atol=1e-6)
    np.testing.assert_array_equal(s.nearest[~moved], IMAGES[~moved])
    assert 0 < moved.sum() < CLEAN.sum()
    assert (np.asarray(apply_fn(PARAMS, s.nearest)).argmax(1) != LABELS)[moved].all()


def test_the_table_has_a_line_for_each_number(found):
    lines = {line.name: line for line in table(found)}
    s = found.sensitivity["linf"]
    assert list(lines)[:7] == [
        "clean error",
        "adversarial error, linf, eps 0.05",
        "robust accuracy, linf, eps 0.05",
        "median smallest eps, linf",
        "adversarial error, l2, eps 0.2",
        "robust accuracy, l2, eps 0.2",
        "median smallest eps, l2",
    ]
    assert lines["clean error"].value == 3 / COUNT
    assert lines["clean error"].interval == wilson(3, COUNT)
    fallen = int((s.success & CLEAN).sum())  # correct without the attack, wrong under it
    assert lines["adversarial error, linf, eps 0.05"].value == fallen / COUNT
    assert lines["adversarial error, linf, eps 0.05"].interval == wilson(fallen, COUNT)
    assert lines["robust accuracy, linf, eps 0.05"].value == pytest.approx(1 - (3 + fallen) / COUNT)
    recipe = pgd(steps=4).recipe
    assert lines["median smallest eps, linf"] == ("median smallest eps, linf", np.median(s.smallest_eps), None, recipe)
    assert lines["clean error"].attack == ""


def test_both_failures_are_counted_on_the_same_images(found):
    variants, seen = changed_images()
    lines = {line.name: line for line in table(found)}
    answers = np.asarray(apply_fn(PARAMS, variants)).argmax(1)
    invariant = [bool(CLEAN[i] and seen[i] not in (-1, LABELS[i]) and answers[i] == LABELS[i]) for i in range(COUNT)]
    changed = [i for i in range(COUNT) if seen[i] not in (-1, LABELS[i])]
    agrees = sum(bool(answers[i] == seen[i]) for i in changed)
    assert 0 < sum(invariant) < COUNT and 0 < agrees < len(changed) < COUNT
    assert lines["invariance error, inverted"].value == sum(invariant) / COUNT
    assert lines["agreement where another class is seen, inverted"].interval == wilson(agrees, len(changed))
    failures = found.failures("linf", "inverted")
    assert sum(failures.values()).tolist() == [1] * COUNT
    sensitive = found.sensitivity["linf"].success & CLEAN
    np.testing.assert_array_equal(failures["sensitive"] | failures["both"], sensitive)
    np.testing.assert_array_equal(failures["invariant"] | failures["both"], invariant)
    np.testing.assert_array_equal(failures["wrong"], ~CLEAN)
    neither = "right, and neither failure: linf, eps 0.05; inverted"
    assert lines[neither].value == failures["neither"].mean()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_certificates_lie_below_every_attack_and_hold_at_smaller_radii(norm):
    threat, eps = (linf(), 0.02) if norm == "linf" else (l2(), 0.06)
    both = make_report([(threat, eps)], attack_for=fgsm, certify="crown-ibp")
    proven = both.certified[norm]
    assert 0 < proven.sum() < COUNT and not (proven & both.sensitivity[norm].success).any()
    assert {line.name: line.value for line in table(both)}[f"certified accuracy, {norm}, eps {eps:g}"] == proven.mean()
    grid = (0.0, eps / 2, eps, 10 * eps)
    found = certificate_curve(apply_fn, PARAMS, IMAGES, LABELS, epsilons=grid[::-1], norm=norm, options=Options(8))
    np.testing.assert_array_equal(found.broken_at > eps, proven)
    np.testing.assert_array_equal(found.broken_at == 0, ~CLEAN)
    accuracy = found.accuracy()
    assert (np.diff(accuracy) <= 0).all() and accuracy[0] == CLEAN.mean() and accuracy[-1] < accuracy[0]


def test_a_certificate_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    run = partial(certificate_curve, apply_fn, PARAMS, IMAGES, LABELS, epsilons=(0.0, 0.01, 0.02), method="ibp")
    mend = interrupted(monkeypatch, _certificate, after=1)
    with pytest.raises(KeyboardInterrupt):
        run(options=Options(directory=tmp_path))
    mend()
    asked, certified = [], _certificate._certified
    monkeypatch.setattr(_certificate, "_certified", lambda *a: (asked.append(1), certified(*a))[1])
    found = run(options=Options(directory=tmp_path))
    assert asked and [path.name for path in tmp_path.iterdir()] == ["certificate.npz"]
    np.testing.assert_array_equal(found.broken_at, run().broken_at)
    asked.clear()
    np.testing.assert_array_equal(run(options=Options(directory=tmp_path)).broken_at, found.broken_at)
    assert not asked
    with pytest.raises(ValueError, match="its method is 'ibp', this run has 'crown'"):
        run(method="crown", options=Options(directory=tmp_path))


def test_a_certificate_is_about_the_ball_of_its_attack():
    """Images reach down to -1: what holds for those of [0, 1] says nothing."""
    images, labels = np.full((1, 1, 1, 1), 0.1, np.float32), np.zeros(1, np.int32)
    found = report(
        KEY,
        lambda params, x: jnp.stack([x[:, 0, 0, 0] + 0.1, 0 * x[:, 0, 0, 0]], 1),
        (),
        images,
        labels,
        threats=[ThreatModel(fgsm(linf(box=(-1, 1))), 0.5, certify="ibp", bisections=2)],
    )
    assert found.sensitivity["linf"].success.all() and not found.certified["linf"].any()


def test_a_certificate_counts_for_all_smaller_radii(monkeypatch):
    """Bounds that hold at 0.2 and not at 0.1: what is certified at the larger radius is so at the smaller one."""
    odd = lambda apply, norm, method, box, slack, params, eps, x, labels: jnp.full(len(x), jnp.abs(eps - 0.1) > 0.01)  # noqa: E731
    monkeypatch.setattr(_certificate, "_certified", odd)
    found = certificate_curve(apply_fn, PARAMS, IMAGES, LABELS, epsilons=(0.1, 0.2))
    np.testing.assert_array_equal(found.broken_at, np.where(CLEAN, np.inf, 0))


def test_bad_certificates_are_refused():
    run = partial(certificate_curve, apply_fn, PARAMS, IMAGES, LABELS)
    for given, message in (
        ({"epsilons": [-1]}, "non-negative"),
        ({"epsilons": [0.1], "norm": "l1"}, "norm must be"),
        ({"epsilons": [0.1], "method": "exact"}, "method must be"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**given)
    with pytest.raises(ValueError, match="certify must be"):
        make_report(certify="exact")
    with pytest.raises(ValueError, match="a threat to certify must be one of 'linf', 'l2'; got 'l1'"):
        make_report([(l1(), 0.1)], certify="ibp")


def test_where_nothing_has_changed_there_is_no_agreement(found):
    names = [line.name for line in table(found)]
    assert "invariance error, same" in names and "agreement where another class is seen, same" not in names
    assert found.failures("l2", "same")["invariant"].sum() == 0


def test_a_model_that_is_always_wrong_is_not_attacked():
    wrong = (np.asarray(apply_fn(PARAMS, IMAGES)).argmax(1).astype(np.int32) + 1) % CLASSES
    found = make_report([(linf(), 0.1)], lambda threat: replace(fgsm(threat), run=never), labels=wrong)
    assert found.sensitivity["linf"].success.all() and not found.sensitivity["linf"].smallest_eps.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threats": [(linf(), 0.1), (linf(), 0.2)]}, "threats must be one or more, of different names"),
        ({"threats": []}, "threats must be one or more"),
        ({"threats": [(linf(), -0.1)]}, "eps of linf must not be negative"),
        ({"threats": [(linf((0.4, 0.6)), 0.1)]}, "images must lie in (0.4, 0.6)"),
        ({"images": NAN}, "images holds 368 NaN"),
        ({"labels": LABELS + CLASSES}, "labels must be in [0, 3)"),
        ({"attack_for": lambda threat: pgd(threat, targeted=True)}, "the attack in linf must be untargeted"),
        ({"changed": {"few": ChangedImages(IMAGES[1:], LABELS[1:])}}, "changed['few'] must have one image (4, 4, 1)"),
        ({"changed": {"r": ChangedImages(IMAGES, LABELS[1:])}}, "one class for each of the 23 images"),
        ({"changed": {"r": ChangedImages(IMAGES, LABELS - 5)}}, "or -1 where no class can be told"),
        ({"changed": {"r": ChangedImages(IMAGES, LABELS / 2)}}, "changed['r'].seen must hold integer classes"),
        ({"changed": {"r": ChangedImages(IMAGES, LABELS + CLASSES)}}, "classes of the model, below 3"),
        ({"changed": {"r": ChangedImages(NAN, LABELS)}}, "changed['r'].images holds 368 NaN"),
    ],
    ids=[
        "twice",
        "none",
        "negative",
        "bounds",
        "NaN",
        "labels",
        "targeted",
        "few",
        "fewer classes",
        "below",
        "halves",
        "above",
        "NaN variants",
    ],
)
def test_a_report_on_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_report(**change)


@pytest.mark.slow
def test_a_second_evaluation_of_other_parameters_and_keys_compiles_nothing():
    traced = []

    def counted(params, x):
        traced.append(x.shape)
        return apply_fn(params, x)

    attack = pgd(steps=2)
    threats = [ThreatModel(attack, 0.1, bisections=2)]
    for _ in range(2):
        robustness_curve(KEY, attack, counted, PARAMS, IMAGES, LABELS, epsilons=[0.01, 0.1])
        report(KEY, counted, PARAMS, IMAGES, LABELS, threats=threats)
    before = len(traced)
    other = jax.tree.map(lambda leaf: 1.01 * leaf, PARAMS)
    robustness_curve(jax.random.key(9), attack, counted, other, IMAGES, LABELS, epsilons=[0.02, 0.2])
    report(jax.random.key(9), counted, other, IMAGES, LABELS, threats=threats)
    assert len(traced) == before > 0
