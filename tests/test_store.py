"""Files are whole or not there, hashes tell arrays apart, and kept results belong to one run."""

import errno
import hashlib
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from invjax import _store

# files


def full(file):
    file.write(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(file):
    file.write(b"half of it")
    raise KeyboardInterrupt


@pytest.mark.parametrize(("content", "expected"), [("text\n", b"text\n"), (b"\0bytes", b"\0bytes")])
def test_text_and_bytes_are_written_as_they_are(tmp_path, content, expected):
    _store.write_file(tmp_path / "new" / "folder" / "file", content)
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == expected


@pytest.mark.parametrize(("fill", "error"), [(full, OSError), (interrupted, KeyboardInterrupt)])
@pytest.mark.parametrize("before", [None, "old"], ids=["a new file", "an old file"])
def test_a_failed_write_keeps_the_old_file(tmp_path, fill, error, before):
    path = tmp_path / "file"
    if before:
        _store.write_file(path, before)
    with pytest.raises(error):
        _store.write_file(path, fill)
    assert [(child.name, child.read_text()) for child in tmp_path.iterdir()] == ([("file", "old")] if before else [])


def test_a_full_disk_is_named_with_the_file(tmp_path):
    with pytest.raises(OSError, match=r"could not write .*file: No space left on device; make room and run again"):
        _store.write_file(tmp_path / "file", full)


def test_a_file_where_the_folder_should_be_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="could not write"):
        _store.write_file(tmp_path / "file" / "inside", "text")


def test_only_the_first_host_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    _store.write_file(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


def test_json_is_indented_and_comes_back(tmp_path):
    _store.write_json(tmp_path / "file.json", {"a": [1, 2.5, None]})
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": [1, 2.5, None]}
    assert (tmp_path / "file.json").read_text().startswith('{\n "a"')


@pytest.mark.parametrize("compress", [False, True])
def test_arrays_come_back_with_their_dtypes_and_shapes(tmp_path, compress):
    arrays = {"a": np.zeros((100, 100), np.float32), "b": np.arange(3), "c": np.array("text"), "d": np.array(True)}
    _store.write_arrays(tmp_path / "file.npz", arrays, compress=compress)
    found = _store.read_arrays(tmp_path / "file.npz")
    assert {n: (a.dtype, a.shape) for n, a in found.items()} == {n: (a.dtype, a.shape) for n, a in arrays.items()}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert ((tmp_path / "file.npz").stat().st_size < 10_000) == compress


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text", lambda b: b[2:]])
def test_a_damaged_file_is_a_clear_error(tmp_path, damage):
    path = tmp_path / "file.npz"
    _store.write_arrays(path, {"a": np.arange(1000)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged \(.*\); remove it"):
        _store.read_arrays(path)


# hashes


def test_the_hash_is_that_of_a_line_for_each_array_and_its_bytes():
    """Data sets on disk carry this hash, so it must never change."""
    arrays = {"b": np.arange(2000, dtype=np.int32), "a": np.float32(0.5)}
    text = b"a float32 ();" + arrays["a"].tobytes() + b"b int32 (2000,);" + arrays["b"].tobytes()
    assert _store.digest(arrays) == hashlib.sha256(text).hexdigest()
    tree = b"['a'][0] int32 (2000,);" + arrays["b"].tobytes()
    assert _store.digest_tree({"a": [arrays["b"]]}) == hashlib.sha256(tree).hexdigest()


def test_the_hash_tells_names_dtypes_shapes_and_values_apart():
    x = np.zeros((2, 3), np.int32)
    different = [
        {"x": x},
        {"y": x},
        {"x": x.astype(np.float32)},
        {"x": x.reshape(3, 2)},
        {"x": x + 1},
        {"x": x, "y": x},
        {},
    ]
    assert len({_store.digest(arrays) for arrays in different}) == len(different)
    assert len({_store.digest_tree(arrays) for arrays in different}) == len(different)


def test_the_hash_does_not_depend_on_order_memory_layout_or_kind_of_array():
    x = np.random.default_rng(0).normal(size=(1500, 2)).astype(np.float32)
    expected = _store.digest({"x": x, "y": x[:1]})
    assert _store.digest({"y": x[:1], "x": np.asfortranarray(x)}) == expected
    assert _store.digest({"x": jax.numpy.asarray(x), "y": jax.numpy.asarray(x[:1])}) == expected


def test_different_typed_keys_have_different_hashes():
    threefry, other = jax.random.key(0), jax.random.key(1)
    rbg = jax.random.key(0, impl="rbg")
    assert len({_store.digest_tree(key) for key in (threefry, other, rbg, jax.random.split(threefry))}) == 4
    assert _store.digest_tree({"key": threefry}) == _store.digest_tree({"key": jax.random.key_data(threefry)})


# kept results


def test_kept_arrays_are_returned_to_the_same_run(tmp_path):
    kept = _store.Kept(tmp_path / "new" / "kept.npz", {"eps": 0.1, "box": (0.0, 1.0), "attack": "fgsm(linf)"})
    assert kept.load() is None
    kept.save(x=np.arange(3), done=1)
    kept.save(x=np.arange(4), done=2)
    found = kept.load()
    assert sorted(found) == ["done", "x"] and found["done"] == 2
    np.testing.assert_array_equal(found["x"], np.arange(4))


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"eps": 0.2, "attack": "pgd(linf)"}, "its eps is 0.1, this run has 0.2; give another directory"),
        ({"eps": 0.1, "attack": "pgd(linf)"}, "its attack is 'fgsm(linf)', this run has 'pgd(linf)'"),
        ({"eps": 0.1}, "its attack is 'fgsm(linf)', this run has None"),
        ({"eps": 0.1, "attack": "fgsm(linf)", "box": [0, 1]}, "its box is None, this run has [0, 1]"),
        ({"eps": 0.1, "attack": "x" * 1000}, "this run has '" + "x" * 199 + "...; give"),
    ],
)
def test_another_run_is_refused_by_the_first_difference(tmp_path, identity, message):
    path = tmp_path / "kept.npz"
    _store.Kept(path, {"eps": 0.1, "attack": "fgsm(linf)"}).save(x=np.arange(3))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        _store.Kept(path, identity).load()
    assert str(error.value).startswith(f"{path} belongs to another run: ")


def test_arrays_without_a_recipe_are_refused(tmp_path):
    _store.write_arrays(tmp_path / "kept.npz", {"x": np.arange(3)})
    with pytest.raises(ValueError, match="belongs to another run"):
        _store.Kept(tmp_path / "kept.npz", {"eps": 0.1}).load()


def test_without_a_path_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = _store.Kept(None, {"eps": 0.1})
    kept.save(x=np.arange(3))
    assert kept.load() is None and list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_computed_again(tmp_path):
    kept = _store.Kept(tmp_path / "kept.npz", {"eps": 0.1})
    kept.save(x=np.arange(1000))
    kept.path.write_bytes(kept.path.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=r"kept\.npz is damaged \(.*\); it is computed again"):
        assert kept.load() is None
    kept.save(x=np.arange(4))
    assert kept.load()["x"].tolist() == [0, 1, 2, 3]


def test_any_damage_of_a_compressed_file_is_a_clear_error(tmp_path):
    path, rng, refused = tmp_path / "file.npz", np.random.default_rng(0), 0
    _store.write_arrays(path, {"a": np.arange(50), "b": np.asarray("text")}, compress=True)
    whole = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            _store.read_arrays(path)
        except ValueError as error:
            refused += "is damaged" in str(error)
    assert refused > 100


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the full device of Linux")
def test_a_line_that_does_not_fit_on_the_disk_is_one_clear_error():
    with pytest.raises(OSError, match=r"could not write /dev/full: No space left on device; make room and run again"):
        _store.append_line(Path("/dev/full"), "a line")
