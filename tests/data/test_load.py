"""`invjax.data.load`: the real data sets on disk, and tiny ones written here for what real data cannot show."""

import gzip
import io
import json
import os
import struct
import sys
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from invjax.data import _tfds as tfds_module
from invjax.data import as_float, load


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test sees the home folder or the variables of whoever runs it."""
    for name in ("INVJAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("INVJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(pixels, kind="png"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_tfds(folder, name, version, split, records, shards):
    """Array_record files as TFDS prepares them, in the order of `records`; this part of TFDS needs no TensorFlow."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    shape, image_format = ((28, 28, 1), "png") if name == "mnist" else ((None, None, 3), "jpeg")
    parts = {
        "image": tfds.features.Image(shape=shape, encoding_format=image_format),
        "label": tfds.features.ClassLabel(num_classes=1000),
    }
    if "file_name" in records[0]:
        parts["file_name"] = tfds.features.Text()
    features = tfds.features.FeaturesDict(parts)
    folder = folder / name / version
    folder.mkdir(parents=True)
    features.save_config(folder)
    serialize = ExampleSerializer(features.get_serialized_info()).serialize_example
    pieces = [list(piece) for piece in np.array_split(np.array(records, object), shards)]
    for i, piece in enumerate(pieces):
        path = folder / f"{name}-{split}.array_record-{i:05d}-of-{shards:05d}"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in piece:
            writer.write(serialize(features.encode_example(record | {"image": io.BytesIO(record["image"])})))
        writer.close()
    (folder / "dataset_info.json").write_text(
        json.dumps(
            {
                "name": name,
                "version": version.partition(".incomplete")[0],
                "fileFormat": "array_record",
                "splits": [
                    {
                        "name": split,
                        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                        "shardLengths": [str(len(piece)) for piece in pieces],
                    }
                ],
            }
        )
    )
    return folder


def write_tiny_mnist(folder, version="3.0.1", offset=0, size=12, shards=1):
    """MNIST of `size` images: image i is all i + offset, its label is i % 10."""
    order = tfds_module.published_order("test", size)
    records = [{"image": encoded(np.full((28, 28), i + offset, np.uint8)), "label": i % 10} for i in order]
    return write_tfds(folder, "mnist", version, "test", records, shards)


def idx(values):
    values = np.asarray(values, np.uint8)
    return struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


def write_tiny_idx(folder, separator="-", gz=False, offset=0):
    """The test files of an MNIST of 3 images: image i is all i + offset, its label is i."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    images = np.full((3, 28, 28), offset) + np.arange(3)[:, None, None]
    for kind, values in (("images", images), ("labels", np.arange(3))):
        path = folder / f"t10k-{kind}{separator}idx{np.ndim(values)}-ubyte{'.gz' if gz else ''}"
        path.write_bytes(gzip.compress(idx(values)) if gz else idx(values))
        paths.append(path)
    return paths


def first_pixels(data):
    return data.images[:, 0, 0, 0].tolist()


def no_reader(*args):
    raise AssertionError("the reader was called")


# as_float


@pytest.mark.parametrize("levels", [256, 17])
def test_as_float_is_in_the_unit_interval_with_the_same_bits_from_numpy_and_jax(levels):
    images = np.arange(levels, dtype=np.uint8).reshape(1, -1, 1, 1)
    x = as_float(images, levels)
    assert isinstance(x, np.ndarray) and x.dtype == np.float32 and x.shape == images.shape
    assert x.min() == 0 and x.max() == 1
    np.testing.assert_allclose(x.ravel(), np.linspace(0, 1, levels), atol=6e-8)
    for f in (as_float, jax.jit(as_float, static_argnums=1)):
        y = f(jnp.asarray(images), levels)
        assert isinstance(y, jax.Array) and y.dtype == jnp.float32
        np.testing.assert_array_equal(np.asarray(y), x)


def test_as_float_refuses_float_images():
    with pytest.raises(ValueError, match=r"integers 0\.\.255; got dtype float32"):
        as_float(np.zeros((1, 2), np.float32))


# digits


def test_digits_are_split_into_two_parts_of_the_whole():
    from sklearn.datasets import load_digits

    train, test = load("digits", "train"), load("digits", "test")
    assert train.images.shape == (1437, 8, 8, 1) and test.images.shape == (360, 8, 8, 1)
    whole = load_digits()

    def rows(images, labels):
        return sorted(map(tuple, np.column_stack([images.reshape(-1, 64), labels]).astype(int).tolist()))

    both = [np.concatenate(pair) for pair in zip(train[:2], test[:2], strict=True)]
    assert rows(*both) == rows(whole.images, whole.target)


@pytest.mark.parametrize("split, per_class", [("train", 143.7), ("test", 36)])
def test_digits_have_every_class_equally_often_and_17_levels(split, per_class):
    data = load("digits", split)
    assert data.images.dtype == np.uint8 and data.labels.dtype == np.int32
    assert (data.num_classes, data.levels) == (10, 17)
    assert np.unique(data.images).tolist() == list(range(17))
    assert np.abs(np.bincount(data.labels, minlength=10) - per_class).max() < 5


def test_the_split_of_digits_never_changes():
    data = load("digits", "test")
    assert data.labels[:12].tolist() == [0, 2, 4, 7, 1, 6, 8, 9, 5, 3, 0, 2]
    assert zlib.crc32(data.images.tobytes() + data.labels.tobytes()) == 3610158081
    again = load("digits", "test", "/no/such/folder")  # embedded: needs no folder
    np.testing.assert_array_equal(again.images, data.images)


# The real data


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_recomputed_order_is_that_of_the_records(shared_data, name, split):
    order = np.load(shared_data / "tfds_order" / f"{name}_{split}.npy")
    np.testing.assert_array_equal(tfds_module.published_order(split, len(order)), order)


@pytest.mark.slow
@pytest.mark.parametrize(
    "split, size, labels",
    [
        pytest.param("train", 60000, [5, 0, 4, 1, 9], marks=pytest.mark.slow),
        ("test", 10000, [7, 2, 1, 0, 4]),
    ],
)
def test_mnist_is_the_same_from_tfds_and_from_its_original_files(shared_data, split, size, labels):
    original, prepared = load("mnist", split, shared_data / "mnist_idx"), load("mnist", split, shared_data / "tfds")
    for data in (original, prepared):
        assert data.images.shape == (size, 28, 28, 1) and data.images.dtype == np.uint8 and data.images.max() == 255
        assert data.labels[:5].tolist() == labels and data.labels.dtype == np.int32
        assert (data.num_classes, data.levels) == (10, 256)
    np.testing.assert_array_equal(original.images, prepared.images)
    np.testing.assert_array_equal(original.labels, prepared.labels)


@pytest.mark.slow
def test_cifar10_is_in_published_order(shared_data):
    data = load("cifar10", "test", shared_data)
    assert data.images.shape == (10000, 32, 32, 3) and data.images.dtype == np.uint8
    assert data.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(data.labels).tolist() == [1000] * 10
    records = tfds_module.open_records(shared_data / "tfds" / "cifar10" / "3.0.2", "test")
    for record in (records[0], records[9999]):
        original = int(record["id"].decode().removeprefix("test_"))
        np.testing.assert_array_equal(data.images[original], np.asarray(Image.open(io.BytesIO(record["image"]))))


# Folders


def test_unknown_name_or_split_is_refused_before_anything_else():
    with pytest.raises(ValueError, match="name must be one of 'digits', 'mnist', 'cifar10', 'imagenet2012'; got"):
        load("minst", "validation", "/no/such/folder")
    with pytest.raises(ValueError, match="split must be one of 'train', 'test'; got 'validation'"):
        load("mnist", "validation", "/no/such/folder")


def test_folders_are_searched_in_order(tmp_path, monkeypatch):
    named, first, second, last = (tmp_path / name for name in ("named", "first", "second", "home/tensorflow_datasets"))
    for offset, folder in enumerate((last, second, first, named)):
        write_tiny_idx(folder, offset=offset)
    assert first_pixels(load("mnist", "test"))[0] == 0
    monkeypatch.setenv("TFDS_DATA_DIR", str(second))
    monkeypatch.setenv("INVJAX_DATA", "")  # an empty variable counts as unset
    assert first_pixels(load("mnist", "test"))[0] == 1
    monkeypatch.setenv("INVJAX_DATA", str(first))
    assert first_pixels(load("mnist", "test"))[0] == 2
    assert first_pixels(load("mnist", "test", named))[0] == 3
    assert first_pixels(load("mnist", "test", str(named)))[0] == 3
    assert first_pixels(load("mnist", "test", "~/tensorflow_datasets"))[0] == 0
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist", "test", tmp_path / "empty")
    assert str(first) not in str(caught.value)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("place", ["", "mnist_idx", "mnist", "MNIST/raw"])
def test_original_files_are_found(tmp_path, place, separator, gz):
    write_tiny_idx(tmp_path / place, separator, gz)
    data = load("mnist", "test", tmp_path)
    assert data.images.shape == (3, 28, 28, 1) and first_pixels(data) == [0, 1, 2] == data.labels.tolist()
    data.images[:] = 0  # owned and writable


def test_original_files_come_before_tfds_in_one_folder(tmp_path):
    write_tiny_mnist(tmp_path)
    assert len(load("mnist", "test", tmp_path).images) == 12
    _, labels = write_tiny_idx(tmp_path)
    assert len(load("mnist", "test", tmp_path).images) == 3
    labels.unlink()  # images without labels do not count
    assert len(load("mnist", "test", tmp_path).images) == 12


def test_missing_data_says_what_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setenv("INVJAX_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist", "test")
    message = str(caught.value)
    builder = f"tfds.builder('mnist', data_dir='{tmp_path / 'nowhere'}', file_format='array_record')"
    for words in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
        f"  {tmp_path / 'nowhere'} (does not exist)\n",
        f"  {tmp_path}\n",
        f"  {tmp_path / 'home' / 'tensorflow_datasets'} (does not exist)\n",
        f'python -c "import tensorflow_datasets as tfds; {builder}.download_and_prepare()"',
    ):
        assert words in message
    with pytest.raises(FileNotFoundError) as caught:
        load("imagenet2012", "test", tmp_path)
    message = str(caught.value)
    for words in (
        "imagenet2012-validation.array_record",
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
        str(tmp_path / "downloads" / "manual"),
        "tfds.builder('imagenet2012'",
    ):
        assert words in message
    assert "idx" not in message


def test_data_in_another_file_format_is_pointed_out(tmp_path):
    folder = tmp_path / "tfds" / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "cifar10-test.tfrecord-00000-of-00001").touch()
    with pytest.raises(FileNotFoundError, match=r"has cifar10, but not this split as array_record"):
        load("cifar10", "test", tmp_path)


# Original files


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="short"),
        pytest.param(lambda data: data[: len(data) // 2], id="half"),
        pytest.param(lambda data: data[:7], id="no header"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"<html>Not Found</html>", id="web page"),
    ],
)
def test_damaged_original_file_is_named(tmp_path, which, gz, damage):
    path = write_tiny_idx(tmp_path, gz=gz)[which]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="download it again") as caught:
        load("mnist", "test", tmp_path)
    assert str(path) in str(caught.value)


def test_wrong_magic_number_and_wrong_pair_are_named(tmp_path):
    images, labels = write_tiny_idx(tmp_path)
    good = images.read_bytes()
    images.write_bytes(b"\0\0\x0d\3" + good[4:])  # floats instead of bytes, as the IDX format has them
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte .*magic number 0xd03"):
        load("mnist", "test", tmp_path)
    images.write_bytes(good)
    labels.write_bytes(idx(np.arange(2)))
    with pytest.raises(ValueError, match=r"images-idx3-ubyte has 3 images but .*labels-idx1-ubyte has 2 labels"):
        load("mnist", "test", tmp_path)


def test_an_unpacked_file_with_the_suffix_gz_is_read(tmp_path):
    for path in write_tiny_idx(tmp_path, gz=True):
        path.write_bytes(gzip.decompress(path.read_bytes()))
    assert first_pixels(load("mnist", "test", tmp_path)) == [0, 1, 2]


# TFDS


@pytest.mark.parametrize("shards", [1, 3])
def test_order_is_restored_over_all_shards(tmp_path, shards):
    folder = write_tiny_mnist(tmp_path, size=50, shards=shards)
    assert len(list(folder.glob("*.array_record*"))) == shards
    data = load("mnist", "test", tmp_path)
    assert first_pixels(data) == list(range(50))
    assert data.labels.tolist() == [i % 10 for i in range(50)]


def test_newest_complete_version_is_read(tmp_path, cache):
    for offset, version in enumerate(("3.0.10", "3.0.9", "9.0.0.incompleteABC")):
        write_tiny_mnist(tmp_path / "tfds", version, offset)
    assert first_pixels(load("mnist", "test", tmp_path))[0] == 0
    assert [path.name.startswith("mnist-test-3.0.10-") for path in cache.iterdir()] == [True]


def test_damaged_records_are_named(tmp_path):
    folder = write_tiny_mnist(tmp_path)
    (path,) = folder.glob("*.array_record*")
    os.truncate(path, 0)
    with pytest.raises(ValueError, match=r"is damaged .* delete that folder, then prepare it again") as caught:
        load("mnist", "test", tmp_path)
    assert str(folder) in str(caught.value) and f"data_dir='{tmp_path}'" in str(caught.value)


@pytest.mark.parametrize(
    "name, package",
    [
        ("digits", "sklearn.datasets"),
        ("mnist", "tensorflow_datasets"),
        ("mnist", "array_record.python.array_record_data_source"),
        ("mnist", "PIL.Image"),
    ],
)
def test_missing_package_names_the_extra(tmp_path, monkeypatch, name, package):
    write_tiny_mnist(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'needs {package} .*; pip install "invjax\[experiments\]"$') as caught:
        load(name, "test", tmp_path)
    assert "\n" not in str(caught.value)


# The cache of decoded images


def test_second_load_comes_from_the_cache_without_tfds(tmp_path, cache, monkeypatch):
    write_tiny_mnist(tmp_path)
    first = load("mnist", "test", tmp_path)
    assert [path.suffix for path in cache.iterdir()] == [".npz"]  # no temporary file remains
    monkeypatch.setattr(tfds_module, "open_records", no_reader)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    second = load("mnist", "test", tmp_path)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert second.images.dtype == np.uint8 and second.labels.dtype == np.int32 and second.images.flags.writeable


def test_default_cache_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("INVJAX_CACHE")
    write_tiny_mnist(tmp_path)
    load("mnist", "test", tmp_path)
    assert len(list((tmp_path / "home" / ".cache" / "invjax").glob("mnist-test-3.0.1-*.npz"))) == 1


def test_a_new_or_changed_source_is_decoded_again(tmp_path, monkeypatch):
    for offset, name in enumerate("ab"):
        (path,) = write_tiny_mnist(tmp_path / name, offset=offset).glob("*.array_record*")
        os.utime(path, ns=(0, 10**18))  # the same size and time: only the folder tells them apart
    assert [first_pixels(load("mnist", "test", tmp_path / name))[0] for name in "ab"] == [0, 1]
    (path,) = (tmp_path / "a").rglob("*.array_record*")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    monkeypatch.setattr(tfds_module, "open_records", no_reader)
    load("mnist", "test", tmp_path / "b")
    with pytest.raises(AssertionError, match="the reader was called"):
        load("mnist", "test", tmp_path / "a")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"not a zip file", id="other"),
        pytest.param(lambda data: data[: len(data) // 2], id="half"),
        pytest.param(lambda data: data[:3000] + bytes([data[3000] ^ 1]) + data[3001:], id="one bit"),
    ],
)
def test_damaged_cache_is_ignored_and_rewritten(tmp_path, cache, monkeypatch, damage):
    write_tiny_mnist(tmp_path)
    load("mnist", "test", tmp_path)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert first_pixels(load("mnist", "test", tmp_path)) == list(range(12))
    monkeypatch.setattr(tfds_module, "open_records", no_reader)
    assert first_pixels(load("mnist", "test", tmp_path)) == list(range(12))


def test_unwritable_cache_warns_in_one_line_and_goes_on(tmp_path, cache):
    cache.write_text("a file where the folder should be")
    write_tiny_mnist(tmp_path)
    with pytest.warns(UserWarning, match="set INVJAX_CACHE") as caught:
        data = load("mnist", "test", tmp_path)
    assert first_pixels(data) == list(range(12))
    assert "\n" not in str(caught[0].message)


def test_full_disk_leaves_nothing_behind(tmp_path, cache, monkeypatch):
    def savez(path, **arrays):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    write_tiny_mnist(tmp_path)
    with pytest.warns(UserWarning, match="No space left"):
        data = load("mnist", "test", tmp_path)
    assert first_pixels(data) == list(range(12)) and list(cache.iterdir()) == []


# imagenet2012


def photograph(seed, height, width):
    """A smooth picture in colour."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (23 + seed + c)) + np.cos(columns / (31 - c)) for c in range(3)]
    return (127.5 + 63 * np.stack(waves, -1)).astype(np.uint8)


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Five records, not in the order of their names, behind a fake of the function that opens them; one is broken."""
    sizes = [(300, 400), (400, 300), (256, 256), (512, 700)]
    originals = [photograph(i, *size) for i, size in enumerate(sizes)]
    originals[2] = originals[2][..., 0]  # gray
    images = [encoded(pixels, "jpeg") for pixels in originals] + [b"broken"]
    named = [
        {"image": image, "label": 100 + i, "file_name": f"ILSVRC2012_val_{i + 1:08d}.JPEG".encode()}
        for i, image in enumerate(images)
    ]
    records = [named[i] for i in (3, 0, 4, 2, 1)]

    def open_records(folder, split):
        assert split == "validation"
        return records

    monkeypatch.setattr(tfds_module, "open_records", open_records)
    folder = tmp_path / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    (folder / "imagenet2012-validation.array_record-00000-of-00001").touch()
    return tmp_path, originals


def test_photographs_are_decoded_only_when_indexed(photographs):
    data = load("imagenet2012", "test", photographs[0])
    assert data.images.shape == (5, 224, 224, 3) and data.images.dtype == np.uint8 and len(data.images) == 5
    assert data.labels.tolist() == [100, 101, 102, 103, 104] and data.labels.dtype == np.int32
    assert (data.num_classes, data.levels) == (1000, 256)
    with pytest.raises(OSError, match="cannot identify image file"):  # decoding of the last photograph fails
        data.images[4]


def test_photographs_are_resized_and_cropped(photographs):
    folder, originals = photographs
    images = load("imagenet2012", "test", folder).images
    for i, original in enumerate(originals):
        whole = Image.fromarray(original).convert("RGB")
        width, height = (round(side * 256 / min(whole.size)) for side in whole.size)
        resized = np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR))
        top, left = (height - 224) // 2, (width - 224) // 2
        expected = resized[top : top + 224, left : left + 224].astype(int)
        assert np.abs(images[i] - expected).mean() < 2  # a JPEG, and half a pixel


@pytest.mark.parametrize(
    "key",
    [
        2,
        -3,
        np.int64(1),
        slice(1, 3),
        slice(None, 4, 2),
        slice(3, 3),
        [3, 0],
        np.array([1, 1, 2]),
        np.array([[0, 1]]),
        np.array([True, False, True, False, False]),
    ],
    ids=str,
)
def test_photographs_are_indexed_as_numpy_does(photographs, key):
    images = load("imagenet2012", "test", photographs[0]).images
    whole = np.stack([images[i] for i in range(4)] + [np.zeros((224, 224, 3), np.uint8)])
    chosen = images[key]
    assert isinstance(chosen, np.ndarray) and chosen.dtype == np.uint8
    np.testing.assert_array_equal(chosen, whole[key])


def test_an_index_beyond_the_photographs_is_an_index_error(photographs):
    images = load("imagenet2012", "test", photographs[0]).images
    with pytest.raises(IndexError):
        images[5]
    assert as_float(images[:2]).shape == (2, 224, 224, 3)


def test_photographs_are_read_from_real_records(tmp_path):
    records = [
        {
            "image": encoded(np.full((240, 320, 3), 20 * i, np.uint8), "jpeg"),
            "label": 7 * i,
            "file_name": f"n{i:08d}_1.JPEG",
        }
        for i in (4, 1, 3, 0, 2)
    ]
    write_tfds(tmp_path, "imagenet2012", "5.1.0", "train", records, shards=2)
    for _ in range(2):  # the second time with the labels from the cache
        data = load("imagenet2012", "train", tmp_path)
        assert data.labels.tolist() == [0, 7, 14, 21, 28]
        np.testing.assert_allclose(data.images[:].mean((1, 2, 3)), [0, 20, 40, 60, 80], atol=1)


def test_loading_data_gives_no_warnings(tmp_path):
    write_tiny_mnist(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("mnist", "test", tmp_path)
        load("mnist", "test", tmp_path)


@pytest.mark.parametrize("convert", [np.asarray, jax.numpy.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize(
    ("values", "dtype", "levels", "message"),
    [
        ([0, 16], np.uint8, 16, "integers 0..15; got values from 0 to 16"),
        ([-1, 3], np.int8, 256, "integers 0..255; got values from -1 to 3"),
        ([0, 300], np.int32, 256, "got values from 0 to 300; pass the levels of the data set"),
    ],
)
def test_intensities_outside_of_the_levels_are_refused(convert, values, dtype, levels, message):
    with pytest.raises(ValueError, match=message):
        as_float(convert(np.array(values, dtype)), levels)
