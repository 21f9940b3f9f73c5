"""Checkpoints: whole or not there, newest first, and never of another model."""

import os
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invjax import training
from invjax.training import _checkpoints as checkpoints


def tree(scale=1.0):
    return {
        "weights": jnp.arange(6.0).reshape(2, 3) * scale,
        "count": jnp.int32(7),
        "key": jax.random.key(3),
        "half": jnp.asarray([0.1, 0.2], jnp.bfloat16),
    }


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        chex.assert_trees_all_equal(
            *(jax.random.key_data(v) if v.dtype == jax.random.key(0).dtype else v for v in (x, y))
        )


def test_a_restored_checkpoint_has_its_dtypes_and_typed_keys(tmp_path):
    checkpoints.save(tmp_path, 5, tree())
    found = checkpoints.restore(
        tmp_path, jax.tree.map(jnp.zeros_like, tree() | {"key": 0}) | {"key": jax.random.key(0)}
    )
    assert_same(found, tree())
    np.testing.assert_array_equal(jax.random.bits(found["key"], (4,)), jax.random.bits(jax.random.key(3), (4,)))


def test_restoring_without_a_checkpoint_returns_none(tmp_path):
    assert checkpoints.restore(tmp_path / "absent", tree()) is None
    assert checkpoints.restore(tmp_path, tree()) is None


def test_the_newest_is_restored_and_old_ones_are_removed(tmp_path):
    for step in (1, 2, 3, 10):
        checkpoints.save(tmp_path, step, tree(step), keep=2)
    np.testing.assert_array_equal(checkpoints.restore(tmp_path, tree())["weights"], tree(10)["weights"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "3"]


def test_a_half_written_folder_is_passed_over_with_a_warning(tmp_path):
    checkpoints.save(tmp_path, 1, tree(1))
    checkpoints.save(tmp_path, 2, tree(2))
    shutil.rmtree(tmp_path / "2" / "state")
    with pytest.warns(UserWarning, match="2 is incomplete"):
        found = checkpoints.restore(tmp_path, tree())
    np.testing.assert_array_equal(found["weights"], tree(1)["weights"])


def test_saving_a_damaged_step_writes_it_again(tmp_path):
    checkpoints.save(tmp_path, 1, tree(1))
    checkpoints.save(tmp_path, 2, tree(2))
    shutil.rmtree(tmp_path / "2" / "state")
    checkpoints.save(tmp_path, 2, tree(20))
    np.testing.assert_array_equal(checkpoints.restore(tmp_path, tree())["weights"], tree(20)["weights"])


def test_a_truncated_array_file_is_passed_over_with_a_warning(tmp_path):
    checkpoints.save(tmp_path, 1, tree(1))
    checkpoints.save(tmp_path, 2, tree(2))
    for path in (tmp_path / "2" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match="2 is incomplete"):
        found = checkpoints.restore(tmp_path, tree())
    np.testing.assert_array_equal(found["weights"], tree(1)["weights"])


def test_a_folder_without_one_readable_checkpoint_is_an_error(tmp_path):
    checkpoints.save(tmp_path, 1, tree())
    shutil.rmtree(tmp_path / "1" / "state")
    with pytest.warns(UserWarning, match="1 is incomplete"), pytest.raises(ValueError, match="remove the folder"):
        checkpoints.restore(tmp_path, tree())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"weights": jnp.zeros((2, 4))}, r"'weights'\] is float32\[2,3\] there and float32\[2,4\] here"),
        ({"count": jnp.float32(0)}, r"'count'\] is int32\[\] there and float32\[\] here"),
        ({"extra": jnp.zeros(3)}, r"'extra'\] is absent there"),
    ],
)
def test_another_model_is_refused_by_the_name_of_its_leaf(tmp_path, other, message):
    checkpoints.save(tmp_path, 1, tree())
    with pytest.raises(ValueError, match=message):
        checkpoints.restore(tmp_path, tree() | other)


def test_an_earlier_step_never_deletes_a_later_checkpoint(tmp_path):
    for step in (100, 200):
        checkpoints.save(tmp_path, step, tree(step))
    with pytest.raises(ValueError, match="has a checkpoint of step 100, later than step 5; restore it"):
        checkpoints.save(tmp_path, 5, tree(5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100", "200"]
    np.testing.assert_array_equal(checkpoints.restore(tmp_path, tree())["weights"], tree(200)["weights"])


def test_a_later_checkpoint_of_another_model_is_refused_and_stays(tmp_path):
    checkpoints.save(tmp_path, 10, {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"10 is of another model: \['w'\] is float32\[3\] there"):
        checkpoints.save(tmp_path, 5, {"w": jnp.ones(4)})
    np.testing.assert_array_equal(checkpoints.restore(tmp_path, {"w": jnp.zeros(3)})["w"], 1)


def test_a_step_that_cannot_be_saved_again_keeps_its_first_checkpoint(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 10, tree(1))

    def full(manager, *arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.CheckpointManager.save", full)
        with pytest.raises(OSError, match="make room on the disk and run again: earlier checkpoints are intact"):
            checkpoints.save(tmp_path, 10, tree(2))
    np.testing.assert_array_equal(checkpoints.restore(tmp_path, tree())["weights"], tree(1)["weights"])
    checkpoints.save(tmp_path, 10, tree(2))
    np.testing.assert_array_equal(checkpoints.restore(tmp_path, tree())["weights"], tree(2)["weights"])
    assert [path.name for path in tmp_path.iterdir()] == ["10"]


def test_a_process_killed_while_it_saves_a_step_again_keeps_the_first_checkpoint(tmp_path):
    checkpoints.save(tmp_path, 10, tree(1))
    (tmp_path / "10").rename(tmp_path / "before-10")  # what such a process leaves
    np.testing.assert_array_equal(checkpoints.restore(tmp_path, tree())["weights"], tree(1)["weights"])
    assert [path.name for path in tmp_path.iterdir()] == ["10"]


def test_arrays_of_64_bits_are_kept_whole(tmp_path):
    state = {"n": np.array([2**40 + 5]), "f": np.array([1 / 3])}
    checkpoints.save(tmp_path, 1, state)
    chex.assert_trees_all_equal(checkpoints.restore(tmp_path, state), state)


def test_an_unreadable_later_checkpoint_is_kept_aside(tmp_path):
    for step in (1, 2):
        checkpoints.save(tmp_path, step, tree(step))
    shutil.move(tmp_path / "2" / "state", tmp_path / "2" / "elsewhere")
    with pytest.warns(UserWarning, match="2 cannot be read .* kept as unreadable-2"):
        checkpoints.save(tmp_path, 1, tree(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "unreadable-2"]
    assert (tmp_path / "unreadable-2" / "elsewhere").is_dir()
    np.testing.assert_array_equal(checkpoints.restore(tmp_path, tree())["weights"], tree(3)["weights"])


@pytest.mark.parametrize(
    ("step", "keep", "message"),
    [
        (3.0, 2, "step must be a whole number of at least 0; got step=3.0; pass int"),
        (-1, 2, "step must be a whole number of at least 0; got step=-1"),
        (1, 0, "keep must be a whole number of at least 1; got keep=0"),
        (1, 1.5, "keep must be a whole number of at least 1; got keep=1.5"),
    ],
)
def test_steps_and_numbers_of_checkpoints_that_are_no_counts_are_refused(tmp_path, step, keep, message):
    with pytest.raises(ValueError, match=message):
        checkpoints.save(tmp_path, step, tree(), keep=keep)
    assert not list(tmp_path.iterdir())


def test_a_folder_above_or_below_the_checkpoints_is_refused(tmp_path):
    checkpoints.save(tmp_path / "checkpoints", 7, tree())
    with pytest.raises(ValueError, match=r"its checkpoints are in .*checkpoints"):
        checkpoints.restore(tmp_path, tree())
    with pytest.raises(ValueError, match="is one checkpoint; give the folder of all of them"):
        checkpoints.restore(tmp_path / "checkpoints" / "7", tree())


def test_only_a_full_disk_asks_for_room(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="mend this and run again") as refused:
        checkpoints.save(tmp_path / "file" / "run", 1, tree())
    assert "room" not in str(refused.value)


def test_an_address_is_refused_and_the_home_folder_is_expanded(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="local disks only; got gs://bucket/run; mount"):
        checkpoints.save("gs://bucket/run", 1, tree())
    monkeypatch.setenv("HOME", str(tmp_path))
    checkpoints.save("~/run", 1, tree())
    assert (tmp_path / "run" / "1").is_dir()
    assert_same(checkpoints.restore("~/run", tree()), tree())


@pytest.mark.parametrize(
    "state",
    [
        {"scale": 2.0, "count": np.int64(3), "weights": np.arange(3.0), "empty": np.zeros((0, 4))},
        {"empty": jnp.zeros((0,))},
        {},
    ],
    ids=["numbers", "only an empty array", "nothing"],
)
def test_numbers_and_empty_arrays_are_restored(tmp_path, state):
    checkpoints.save(tmp_path, 1, state)
    found = checkpoints.restore(tmp_path, state)
    chex.assert_trees_all_equal(found, jax.tree.map(np.asarray, state))


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_the_last_checkpoint_stays(tmp_path):
    """A limit on the size of files stands in for the full disk: the same refusal by the same system call."""
    program = """
        import resource, signal, sys
        import jax.numpy as jnp
        from invjax.training import _checkpoints as checkpoints

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        large = {"x": jnp.sin(jnp.arange(1_000_000.0))}
        checkpoints.save(sys.argv[1], 1, large)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            checkpoints.save(sys.argv[1], 2, {"x": large["x"] + 1})
        except OSError as error:
            assert "\\n" not in str(error)
            print("REFUSED", error)
        print("KEPT", bool((checkpoints.restore(sys.argv[1], large)["x"] == large["x"]).all()))
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert "REFUSED could not save the checkpoint of step 2" in done.stdout, done.stdout + done.stderr[-2000:]
    assert "make room on the disk and run again" in done.stdout
    assert "KEPT True" in done.stdout


def test_a_training_is_not_started_afresh_among_its_checkpoints(tmp_path):
    step = training.make_train_step(lambda params, key, batch, step: ((params**2).sum(), {}), optax.sgd(0.1))
    state = training.init_state(jax.random.key(0), jnp.ones(2), optax.sgd(0.1))
    train = partial(training.fit, state, step, lambda step: np.zeros(1))
    train(2, directory=tmp_path, save_every=1)
    before = sorted(path for path in tmp_path.rglob("*"))
    for folder, message in (
        ("checkpoints", "holds the checkpoints of a training; give its folder"),
        ("checkpoints/2", "is one checkpoint; give the folder of all of them"),
        ("checkpoints/2/state", "is one checkpoint; give the folder of all of them"),
    ):
        with pytest.raises(ValueError, match=message):
            train(4, directory=tmp_path / folder)
    with pytest.raises(ValueError, match="is one checkpoint"):
        training.restore_checkpoint(tmp_path / "checkpoints" / "2" / "state", state)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert int(train(4, directory=tmp_path)[0].step) == 4
