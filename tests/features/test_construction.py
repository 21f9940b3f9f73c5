"""Constructed data sets on disk: complete, with their recipe and hash, resumed after a kill, never of another run."""

import errno
import os
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from invjax import _store, features, training
from tests.features.problem import COUNT, KEY, data, inverted, relabelled


@cache
def whole_sha256():
    return relabelled().sha256


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


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(tmp_path):
    program = """
        import os, signal, sys
        sys.path.insert(0, {repository!r})
        import jax
        jax.config.update("jax_num_cpu_devices", 8)
        from pathlib import Path
        from tests.features import problem
        from invjax import _store
        write = _store.write_arrays
        def killed(path, arrays):
            if path.name.startswith("00000032"):
                path.with_name(path.name + ".part").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, arrays)
        _store.write_arrays = killed
        problem.inverted(Path({path!r}))
    """
    whole, broken = tmp_path / "whole.npz", tmp_path / "broken.npz"
    inverted(whole)
    source = textwrap.dedent(program).format(repository=str(Path(__file__).parents[2]), path=str(broken))
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
    left = sorted(child.name for child in tmp_path.rglob("*.npz*") if child.is_file())
    assert left == ["00000000-00000016.npz", "00000016-00000032.npz", "00000032-00000037.npz"][: len(calls) - 1]
    monkeypatch.setattr(_store.np, "savez", save)
    assert relabelled(path).sha256 == whole_sha256()


def test_another_run_at_the_same_path_is_refused(tmp_path):
    path = tmp_path / "made.npz"
    inverted(path)
    for changes, name in (
        ({"steps": 6}, "inversion"),
        ({"key": jax.random.key(9)}, "inputs_sha256"),
        ({"seed": 1}, "params_sha256"),
        ({"metadata": {"model": "another"}}, "model"),
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
    with pytest.raises(ValueError, match="the arrays do not match their sha256"):
        features.save(path, made._replace(images=made.images + 1))
    features.save(path, made)
    arrays = _store.read_arrays(path)
    _store.write_arrays(path, arrays | {"images": made.images + 1})
    with pytest.raises(ValueError, match="do not match their sha256; make the data set again"):
        features.load(path)
    np.savez(path, images=made.images)
    with pytest.raises(ValueError, match="no labels, recipe, sha256"):
        features.load(path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: features.construct(KEY, dict, None, [], recipe={}), "arrays must have one length"),
        (lambda: features.construct(KEY, lambda p, k, i, x: {"images": x}, None, data()[:1], recipe={}), "no labels"),
        (lambda: inverted(metadata={"seed": np.float32(1)}), "recipe must hold values that JSON can hold"),
        (lambda: inverted(batch_size=0), "batch_size must be positive"),
    ],
)
def test_bad_input_is_named_with_its_fix(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def interrupted_after(parts, path, **changes):
    """A construction that ends when so many parts are saved."""
    write = _store.write_arrays
    with pytest.MonkeyPatch.context() as patch:

        def dying(at, arrays):
            if len(list(Path(f"{path}.parts").glob("*.npz"))) == parts:
                raise KeyboardInterrupt
            write(at, arrays)

        patch.setattr(_store, "write_arrays", dying)
        with pytest.raises(KeyboardInterrupt):
            relabelled(path, **changes)
    return Path(f"{path}.parts")


def test_files_of_others_in_the_folder_of_parts_do_no_harm_and_stay(tmp_path):
    path = tmp_path / "made.npz"
    parts = interrupted_after(1, path)
    (parts / ".DS_Store").write_text("of a file manager")
    (parts / "mine.npz").write_text("of a user")
    for _ in range(2):
        assert relabelled(path).sha256 == whole_sha256()
        assert sorted(file.name for file in parts.iterdir()) == [".DS_Store", "mine.npz"]


def test_parts_of_another_recipe_are_refused_and_stay(tmp_path):
    path = tmp_path / "made.npz"
    parts = interrupted_after(2, path)
    before = {part.name: part.read_bytes() for part in parts.glob("*.npz")}
    with pytest.raises(ValueError, match="belongs to another run"):  # none of its parts has the name of a part on disk
        inverted(path, part_size=24)
    assert not path.exists() and {part.name: part.read_bytes() for part in parts.glob("*.npz")} == before
    features.save(path, inverted())
    inverted(path)
    assert {part.name: part.read_bytes() for part in parts.glob("*.npz")} == before


def test_a_damaged_part_is_computed_again(tmp_path):
    path = tmp_path / "made.npz"
    parts = interrupted_after(2, path)
    first = min(parts.glob("*.npz"))
    first.write_bytes(first.read_bytes()[:-50])
    with pytest.warns(UserWarning, match=rf"{first.name} is damaged .*; it is computed again"):
        assert relabelled(path).sha256 == whole_sha256()
    assert path.exists() and not parts.exists()


def test_a_finished_data_set_is_loaded_on_any_machine(tmp_path, monkeypatch):
    """Nothing is computed, so the batch size, the devices and the versions may differ; the model may not."""
    path = tmp_path / "made.npz"
    made = relabelled(path)
    monkeypatch.setattr("invjax.features._construction.over_batches", lambda *_: pytest.fail("it computes"))
    mesh = training.data_mesh(jax.devices()[:2])
    for changes in ({"batch_size": 4}, {"mesh": mesh}):
        assert relabelled(path, **changes).recipe == made.recipe
    other = features.construct  # the same recipe, and another program
    with monkeypatch.context() as patch:
        patch.setattr("invjax.features._relabelled_dataset.construct",
                      lambda key, make, *rest, **named: other(key, lambda *a: dict(make(*a)) | {"images": a[3]},
                                                              *rest, **named))  # fmt: skip
        with pytest.raises(ValueError, match="its program_sha256 is"):
            relabelled(path, batch_size=4)
    monkeypatch.setattr("invjax.features._identity.metadata.version", lambda name: "99.0")
    assert relabelled(path).recipe == made.recipe
    with pytest.raises(ValueError, match="belongs to another run: its inputs_sha256"):
        relabelled(path, targets=data()[1])


def test_two_constructions_of_one_file_are_refused(tmp_path):
    path = tmp_path / "made.npz"
    with _store.sole_writer(tmp_path / "made.npz.parts"), pytest.raises(ValueError, match="another run writes to"):
        relabelled(path)
    assert relabelled(path).sha256 == whole_sha256()


@pytest.mark.slow
def test_a_finished_data_set_in_a_folder_that_cannot_be_written_is_loaded(tmp_path, read_only):
    path = tmp_path / "made.npz"
    parts = interrupted_after(1, path)
    kept = {part: part.read_bytes() for part in parts.glob("*.npz")}
    made = relabelled(path)
    parts.mkdir()
    for part, content in kept.items():  # the process was killed before it removed them
        part.write_bytes(content)
    with read_only():
        assert relabelled(path).sha256 == made.sha256
