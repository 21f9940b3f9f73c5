"""A benchmark that is interrupted continues to the same numbers, and belongs to one run."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.attacks import Stage, fgsm, linf
from invjax.evaluation import Benchmark, Options, _benchmark, benchmark, wilson

KEY = jax.random.key(3)
IMAGES = np.linspace(0.05, 0.95, 10, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 1), np.float32)
LABELS = (IMAGES[:, 0, 0, 0] > 0.5).astype(np.int32)
LABELS[9] = 0  # misclassified without an attack
PARAMS = np.float32(0.5)


def apply_fn(params, x):
    """Class 1 where the mean pixel is above the parameter."""
    above = x.mean((1, 2, 3)) - params
    return jnp.stack([-above, above], 1)


SEEN, TRACED = [], []


def stages(factors=(0.5, 1.0)):
    """Two attacks of two ranks: FGSM on a half and on the whole of the radius; rank 0 breaks nothing.

    They note where they run in SEEN, and where they are traced in TRACED.
    """

    def make(name, factor, rank):
        def run(key, logits_fn, x, labels, *, eps, step_size=None, ids=None):
            TRACED.append((name, len(x)))
            jax.debug.callback(lambda rank: SEEN.append((name, int(rank))), rank)
            return fgsm()(key, logits_fn, x, labels, eps=factor * eps * rank, ids=ids)

        return replace(fgsm(), run=run, recipe=f"{name}(linf, factor={factor:g})")

    return tuple(Stage(n, partial(make, n, f), 2) for n, f in zip(("weak", "strong"), factors, strict=True))


STAGES = stages()
PARTS = [("weak", 0), ("weak", 1), ("strong", 0), ("strong", 1)]


def ran():
    """The parts that ran since the last call, in order."""
    jax.effects_barrier()
    parts = list(dict.fromkeys(SEEN))
    SEEN.clear()
    return parts


def run(given=None, directory=None, **change):
    settings = {"key": KEY, "params": PARAMS, "images": IMAGES, "labels": LABELS, "eps": 0.3} | change
    key, params, images, labels = (settings.pop(name) for name in ("key", "params", "images", "labels"))
    chosen = STAGES if given is None else given
    options = Options(4, directory=directory)
    return benchmark(key, apply_fn, params, images, labels, threat=linf(), stages=chosen, options=options, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("benchmark")
    return directory, run(directory=directory)


@pytest.mark.slow
def test_each_attack_runs_on_images_that_are_still_correct(finished):
    """An image is broken where the distance of its pixels from 0.5 is within the radius."""
    found = finished[1]
    distance = np.abs(IMAGES[:, 0, 0, 0] - 0.5)
    expected = np.where(distance < 0.15, 0, np.where(distance < 0.3, 1, 2))
    expected[9] = -1
    np.testing.assert_array_equal(found.broken_by, expected)
    np.testing.assert_array_equal(found.broken, expected < 2)
    np.testing.assert_allclose(found.distance, np.select([expected == 0, expected == 1], [0.15, 0.3], 0), rtol=1e-6)
    np.testing.assert_allclose(np.abs(found.x - IMAGES).max((1, 2, 3)), found.distance, atol=1e-6)


@pytest.mark.parametrize("finished_parts", [1, 2, 3])
def test_finished_attacks_are_not_run_again(tmp_path, monkeypatch, finished, finished_parts):
    """The machine dies while a part runs; the next call starts with that part."""
    over_batches = _benchmark.over_batches
    ran()

    def dying(function, *args, **kwargs):
        result = over_batches(function, *args, **kwargs)
        jax.effects_barrier()
        if len(set(SEEN)) > finished_parts:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(_benchmark, "over_batches", dying)
        with pytest.raises(KeyboardInterrupt):
            run(directory=tmp_path)
    assert ran() == PARTS[: finished_parts + 1]
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.npz"]
    found = run(directory=tmp_path)
    assert ran() == PARTS[finished_parts:]
    for name, value in found._asdict().items():
        np.testing.assert_array_equal(value, getattr(finished[1], name))


def test_a_finished_benchmark_is_read(finished):
    ran()
    again = run(directory=finished[0])
    assert ran() == []
    for name, value in again._asdict().items():
        np.testing.assert_array_equal(value, getattr(finished[1], name))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"eps": 0.2}, "eps is 0.3, this run has 0.2"),
        ({"key": jax.random.key(4)}, "key is"),
        ({"params": np.float32(0.51)}, "params is"),
        ({"labels": 1 - LABELS}, "labels is"),
        ({"images": 1 - IMAGES}, "images is"),
        ({"given": stages((0.5, 0.9))}, "attacks is ['weak: 2 x weak(linf, factor=0.5)'"),
        ({"given": STAGES[:1]}, "attacks is ['weak: 2 x weak(linf, factor=0.5)'"),
    ],
    ids=["eps", "key", "params", "labels", "images", "recipe", "fewer"],
)
def test_another_run_in_the_same_directory_is_refused_by_name(finished, change, name):
    with pytest.raises(ValueError, match=re.escape(f"benchmark.npz belongs to another run: its {name}")):
        run(directory=finished[0], **change)


def test_other_parameters_and_radii_compile_nothing(finished):
    before = list(TRACED)
    ran()
    found = run(params=np.float32(0.50001), eps=0.30001)
    assert before == TRACED and ran() == PARTS
    np.testing.assert_array_equal(found.broken_by, finished[1].broken_by)


def test_the_progress_bar_counts_the_parts(monkeypatch, finished):
    events = []

    class Bar:
        def update(self):
            events.append("update")

        def set_postfix(self, correct):
            events.append(correct)

        def close(self):
            events.append("close")

    def progress(start, total, description):
        events.append((start, total, description))
        return Bar()

    monkeypatch.setattr(_benchmark, "progress", progress)
    run()
    assert events[0] == (0, 4, "AutoAttack") and events[-1] == "close"
    assert [event for event in events if isinstance(event, int)] == [9, 6, 6, 3]
    events.clear()
    run(directory=finished[0])
    assert events == [(4, 4, "AutoAttack"), "close"]


def test_a_benchmark_prints_a_summary():
    broken_by = np.array([-1, -1, 0, 0, 1, 1, 1, 2, 2, 2])
    found = Benchmark(0.3, IMAGES, broken_by < 2, np.zeros(10), broken_by, ("a", "b"))
    assert found.clean_accuracy == 0.8 and found.robust_accuracy == 0.3 and found.interval == wilson(3, 10)
    assert str(found) == (
        "clean accuracy 80.0%, robust accuracy 30.0% (95 % interval 10.8% to 60.3%) at eps 0.3 on 10 images; "
        "broken by: a 2, b 3"
    )


def test_a_damaged_benchmark_is_computed_again(tmp_path, finished):
    whole = (finished[0] / "benchmark.npz").read_bytes()
    (tmp_path / "benchmark.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"benchmark\.npz is damaged .*; it is computed again"):
        found = run(directory=tmp_path)
    np.testing.assert_array_equal(found.broken_by, finished[1].broken_by)
    assert (tmp_path / "benchmark.npz").read_bytes() == whole


def test_a_finished_benchmark_is_read_where_nothing_can_be_written(finished, read_only):
    with read_only():
        found = run(directory=finished[0])
    np.testing.assert_array_equal(found.broken_by, finished[1].broken_by)
