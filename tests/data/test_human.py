"""The human-labelled invariance examples: a tiny folder of their layout written here, and the real one where it is."""

import gzip
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invjax.data import HumanLabelled, as_float, human_labelled
from invjax.evaluation import Options, agreement, wilson

COUNT, MANUAL = 6, 4
INDICES, MANUAL_INDICES = np.array([9, 2, 7, 4, 5, 0]), np.array([1, 9, 8, 3])
HUMAN = np.array([1, 2, 7, 9, 5, 3])  # the label of test image i is i, so the first, fourth and last are changed
CHANGED = [True, False, False, True, False, True]


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No test sees the home folder or the variables of whoever runs it."""
    for name in ("INVJAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def write_mnist(folder):
    """A test set of 10 images: image i is all i, its label is i."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None], (10, 28, 28))
    for kind, values in (("images", images), ("labels", np.arange(10, dtype=np.uint8))):
        header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
        path = folder / f"t10k-{kind}-idx{values.ndim}-ubyte.gz"
        path.write_bytes(gzip.compress(header + values.tobytes()))


def write_examples(folder):
    """Image i of set number s is all 40 * s + i; the set of radius 0.3 is float32 and half a level brighter."""
    root = folder / "invariance_examples"
    for name in ("l0", "linf"):
        (root / name).mkdir(parents=True)
    for s, stem in enumerate(("l0/automated", "linf/automated_eps03", "linf/automated_eps04", "linf/manual_eps04")):
        count = MANUAL if s == 3 else COUNT
        images = np.broadcast_to(40 * s + np.arange(count)[:, None, None], (count, 28, 28))
        np.save(root / f"{stem}.npy", images.astype(np.float32) + 0.5 if s == 1 else images.astype(np.uint8))
        np.save(root / f"{stem}_labels.npy", MANUAL_INDICES[::-1] if s == 3 else HUMAN)
    np.save(root / "indexs.npy", INDICES)
    np.save(root / "linf" / "manual_indexs.npy", MANUAL_INDICES)
    return root


@pytest.fixture
def tiny(tmp_path):
    write_mnist(tmp_path)
    return write_examples(tmp_path)


def test_every_human_labelled_set_has_images_labels_and_originals(tiny, tmp_path):
    sets = human_labelled(tmp_path)
    assert list(sets) == ["l0", "linf 0.3", "linf 0.4", "manual linf 0.4"]
    assert [(s.norm, s.eps) for s in sets.values()] == [("l0", None), ("linf", 0.3), ("linf", 0.4), ("linf", 0.4)]
    for s, (name, found) in enumerate(sets.items()):
        count, ids = (MANUAL, MANUAL_INDICES) if s == 3 else (COUNT, INDICES)
        assert found.images.shape == found.originals.shape == (count, 28, 28, 1), name
        levels = 40 * s + np.arange(count) + (0.5 if s == 1 else 0)
        np.testing.assert_allclose(found.images[:, 5, 7, 0], levels / 255, rtol=1e-6)
        np.testing.assert_allclose(found.originals[:, 5, 7, 0], ids / 255, rtol=1e-6)
        assert found.ids.tolist() == found.labels.tolist() == ids.tolist()
        assert found.human.dtype == found.labels.dtype == np.int32 and found.images.dtype == np.float32
    assert sets["l0"].changed.tolist() == CHANGED
    assert sets["manual linf 0.4"].changed.all()


@pytest.mark.parametrize("place", ["excessive_invariance", "Excessive-Invariance"])
def test_examples_are_found_in_a_folder_or_a_clone_inside_it(tmp_path, monkeypatch, place):
    data = tmp_path / "data"
    write_mnist(data / "mnist")
    write_examples(data / place)
    monkeypatch.setenv("INVJAX_DATA", str(data))
    assert human_labelled()["linf 0.4"].human.tolist() == HUMAN.tolist()
    monkeypatch.setenv("INVJAX_DATA", "")
    monkeypatch.setenv("TFDS_DATA_DIR", str(data))
    assert len(human_labelled()) == 4
    with pytest.raises(FileNotFoundError, match="human-labelled"):  # a given folder is the only one that is searched
        human_labelled(tmp_path / "elsewhere")


def test_missing_examples_say_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setenv("INVJAX_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        human_labelled()
    clone = f"git clone https://github.com/ftramer/Excessive-Invariance {tmp_path / 'excessive_invariance'}\n"
    for words in (clone, f"  {tmp_path}\n", f"  {tmp_path / 'home' / 'tensorflow_datasets'}\n", "set INVJAX_DATA"):
        assert words in str(caught.value)


def test_an_incomplete_folder_of_examples_is_refused(tiny, tmp_path):
    (tiny / "linf" / "manual_indexs.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"invariance_examples lacks linf/manual_indexs\.npy\n"):
        human_labelled(tmp_path)


def test_missing_mnist_says_how_to_get_it(tmp_path):
    write_examples(tmp_path)
    with pytest.raises(FileNotFoundError, match="mnist was not found"):
        human_labelled(tmp_path)


@pytest.mark.parametrize(
    "file, values, words",
    [
        ("l0/automated.npy", np.zeros((COUNT, 784)), r"shape \(6, 784\), not \('N', 28, 28\)"),
        ("linf/automated_eps03.npy", np.full((COUNT, 28, 28), np.nan), "numbers from 0 to 255"),
        ("linf/automated_eps03.npy", np.full((COUNT, 28, 28), -1.0), "numbers from 0 to 255"),
        ("linf/manual_eps04_labels.npy", np.full(MANUAL, 10), "numbers from 0 to 9"),
        ("linf/manual_eps04_labels.npy", np.zeros((MANUAL, 10)), r"shape \(4, 10\)"),
        ("indexs.npy", np.full(COUNT, 10), "numbers from 0 to 9"),
        ("indexs.npy", np.zeros(0, int), "numbers from 0 to 9"),
        ("l0/automated_labels.npy", np.zeros(COUNT - 1, int), "6 images, 5 labels and 6 indices"),
    ],
)
def test_damaged_files_are_named(tiny, tmp_path, file, values, words):
    np.save(tiny / file, values)
    with pytest.raises(ValueError, match=words) as caught:
        human_labelled(tmp_path)
    assert "again" in str(caught.value)


def test_a_file_that_is_no_array_is_named(tiny, tmp_path):
    (tiny / "indexs.npy").write_bytes(b"version https://git-lfs")
    with pytest.raises(ValueError, match=r"indexs\.npy is damaged; fetch it again"):
        human_labelled(tmp_path)


# Agreement


def sees(answers):
    """A model whose answer for an image that is all v / 255 is `answers[v]`."""

    def apply_fn(params, x):
        return jax.nn.one_hot(params[jnp.round(255 * x[:, 0, 0, 0]).astype(int)], 10)

    return apply_fn, jnp.asarray(answers)


def flat(values, human, labels):
    images = np.broadcast_to(np.float32(values)[:, None, None, None] / 255, (len(values), 28, 28, 1))
    human, labels = np.int32(human), np.int32(labels)
    return HumanLabelled(images, human, images, labels, np.arange(len(values), dtype=np.int32), "linf", 0.3)


def test_agreement_counts_changed_images_only():
    # people see another class in the first four; of those the model follows people in one, the original in two
    first = flat(range(6), human=[1, 2, 3, 4, 5, 6], labels=[0, 0, 0, 0, 5, 6])
    second = flat([6, 7], human=[8, 8], labels=[8, 1])
    found = agreement(
        *sees([1, 0, 0, 9, 5, 0, 8, 8]), {"first": first, "second": second}, options=Options(batch_size=3)
    )
    assert list(found) == ["first", "second"]
    assert found["first"].with_humans.tolist() == [True, False, False, False]
    assert found["first"].with_originals.tolist() == [False, True, True, False]
    assert found["first"].fraction() == 0.25 and found["first"].interval() == wilson(1, 4)
    assert found["second"].fraction() == 1 and found["second"].interval() == wilson(1, 1)


def test_bad_examples_for_agreement_are_refused():
    model = sees([0, 0])
    with pytest.raises(ValueError, match=r"examples must hold one set or more; got none"):
        agreement(*model, {})
    with pytest.raises(ValueError, match="people see the original class in every image of 'same'; leave this set out"):
        agreement(*model, {"same": flat([0], [3], [3])})
    changed = {"changed": flat([0, 1], [1, 2], [0, 0])}
    with pytest.raises(ValueError, match=r"logits \[2, 10\]; got \(2, 28\)"):
        agreement(lambda params, x: x[:, 0, :, 0], None, changed)
    with pytest.raises(ValueError, match="the model's logits holds 20 NaN"):
        agreement(lambda params, x: jnp.full((len(x), 10), jnp.nan), None, changed)


# The real files


def test_real_examples_succeed_as_often_as_published(shared_data):
    sets = human_labelled(shared_data)
    assert [(len(s.images), int(s.changed.sum())) for s in sets.values()] == [(100, 55), (100, 21), (100, 37), (50, 44)]
    for name, eps in (("linf 0.3", 0.3), ("linf 0.4", 103 / 255), ("manual linf 0.4", 103 / 255)):
        # within the ball, and at its surface, of the very images that the indices name
        distance = np.abs(sets[name].images - sets[name].originals).max((1, 2, 3))
        assert 0.29 < distance.max() <= eps + 1e-6, name
    pixels = ((sets["l0"].images > 0.5) != (sets["l0"].originals > 0.5)).sum((1, 2, 3))
    assert np.median(pixels) == 25
    clean = np.load(shared_data / "excessive_invariance" / "linf_attack" / "X_test_100.npy")
    np.testing.assert_array_equal(sets["l0"].originals, as_float(clean[..., None]))


def test_agreement_of_a_published_network_is_the_published_one(shared_data):
    # Schott et al.'s plain CNN: 71, 14, 43 and 48 % of the 55, 21, 37 and 44 images
    params = dict(np.load(shared_data / "pretrained" / "abs" / "vanilla_cnn.npz"))

    def apply_fn(params, x):
        for i, stride in enumerate((1, 2, 2, 1)):
            kernel, bias = params[f"conv_{i}.weight"].transpose(2, 3, 1, 0), params[f"conv_{i}.bias"]
            x = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = x + bias[None, None, None]
            if i < 3:
                scale, shift, mean, var = (
                    params[f"bn_{i}.{name}"][None, None, None]
                    for name in ("weight", "bias", "running_mean", "running_var")
                )
                x = jax.nn.elu((x - mean) / jnp.sqrt(var + 1e-5) * scale + shift)
        return x[:, 0, 0]

    found = agreement(apply_fn, params, human_labelled(shared_data))
    assert [int(a.with_humans.sum()) for a in found.values()] == [39, 3, 16, 21]
