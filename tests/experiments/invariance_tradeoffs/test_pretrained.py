"""Released networks and autoencoders."""

import jax
import numpy as np
import pytest

from experiments import common
from experiments.invariance_tradeoffs import pretrained
from invjax.data import as_float, human_labelled, load
from invjax.evaluation import agreement
from invjax.models import _class_vae as class_vae


def test_released_networks_have_their_published_agreement(shared_data):
    found = pretrained.pretrained(None, shared_data, draws=10, steps=0)
    assert list(found) == list(pretrained.readers())
    human = human_labelled(shared_data)
    counts = {
        name: [int(of.with_humans.sum()) for of in agreement(found[name].apply, found[name].params, human).values()]
        for name in ("Schott et al., CNN", "Wong & Kolter, linf 0.1")
    }
    assert counts == {"Schott et al., CNN": [39, 3, 16, 21], "Wong & Kolter, linf 0.1": [23, 1, 13, 15]}


@pytest.mark.slow
def test_released_autoencoders_classify_by_their_reconstructions(shared_data):
    found = pretrained.pretrained(None, shared_data, draws=1000, steps=10)
    test = common.first(load("mnist", "test", shared_data), 60)
    x, labels = as_float(test.images[:]), np.asarray(test.labels)
    plain, binary = (found[f"Schott et al., {name}"] for name in ("ABS", "Binary-ABS"))
    assert plain.params is binary.params and plain.searches and binary.searches and not binary.has_gradients
    for net in (plain, binary):
        logits = jax.jit(net.apply)(net.params, x)
        assert float((logits.argmax(1) == labels).mean()) >= 0.97


def test_batch_norm_is_folded_into_the_layers_of_an_autoencoder(shared_data, float64):
    with np.load(shared_data / "pretrained" / "abs" / "ABS_4.npz") as file:
        arrays = {name: value.astype(np.float64) for name, value in file.items()}
    rng = np.random.default_rng(0)
    z, image = rng.normal(size=8), rng.uniform(size=(28, 28))
    vae = jax.tree.map(lambda leaf: leaf[0], pretrained.schott_vaes(arrays))

    def normed(y, part, i):
        of_channel = lambda name: arrays[f"{part}.bn_{i}.{name}"][:, None, None]  # noqa: E731
        y = (y - of_channel("running_mean")) / np.sqrt(of_channel("running_var") + 1e-5)
        y = y * of_channel("weight") + of_channel("bias")
        return np.where(y > 0, y, np.expm1(np.minimum(y, 0)))

    def strided(y, weight, stride):  # [in, H, W] with [out, in, h, w]
        side = weight.shape[2]
        windows = np.lib.stride_tricks.sliding_window_view(y, (side, side), (1, 2))[:, ::stride, ::stride]
        return np.einsum("ihwab,oiab->ohw", windows, weight)

    def transposed(y, weight, stride):  # with [in, out, h, w]: spread out, then correlate with what is turned around
        side = weight.shape[2]
        wide = np.zeros((len(y), (len(y[0]) - 1) * stride + 1, (len(y[0]) - 1) * stride + 1))
        wide[:, ::stride, ::stride] = y
        wide = np.pad(wide, ((0, 0), (side - 1, side - 1), (side - 1, side - 1)))
        return strided(wide, weight.swapaxes(0, 1)[:, :, ::-1, ::-1], 1)

    for part, apply, strides, y in (
        ("Decoder", transposed, (1, 2, 2, 1), z[:, None, None]),
        ("Encoder", strided, (1, 2, 2, 1), image[None]),
    ):
        for i, stride in enumerate(strides):
            y = apply(y, arrays[f"{part}.conv_{i}.weight"], stride) + arrays[f"{part}.conv_{i}.bias"][:, None, None]
            y = normed(y, part, i) if i < 3 else y
        if part == "Decoder":
            drawn = class_vae.decode(vae, z[None])[0, :, :, 0]
            np.testing.assert_allclose(drawn, 1 / (1 + np.exp(-y[0])), rtol=1e-9)
            assert drawn.max() > 0.5
        else:
            np.testing.assert_allclose(np.concatenate(class_vae.encode(vae, image[None, ..., None]), 1)[0], y[:, 0, 0])


def test_the_dense_layer_of_a_released_network_reads_channels_last():
    generator = np.random.default_rng(0)
    arrays = {f"{i}.bias": np.zeros(1, np.float32) for i in (0, 2, 5, 7)}
    arrays |= {f"{i}.weight": np.zeros((1, 1, 4, 4), np.float32) for i in (0, 2)}
    arrays |= {"5.weight": generator.normal(size=(100, 1568)), "7.weight": generator.normal(size=(10, 100))}
    params = pretrained.wong_kolter(arrays)
    features = generator.normal(size=(2, 32, 7, 7))  # in the layout of PyTorch
    expected = features.reshape(2, -1) @ arrays["5.weight"].T
    channels_last = features.transpose(0, 2, 3, 1).reshape(2, -1)
    np.testing.assert_allclose(channels_last @ params["dense0"]["kernel"], expected)


def test_other_files_have_another_digest(tmp_path):
    arrays = {f"{i}.bias": np.zeros(1, np.float32) for i in (0, 2, 5, 7)}
    arrays |= {f"{i}.weight": np.zeros((1, 1, 4, 4), np.float32) for i in (0, 2)}
    arrays |= {"5.weight": np.zeros((100, 1568), np.float32), "7.weight": np.zeros((10, 100), np.float32)}
    digests = []
    for name, bias in (("one", 0), ("same", 0), ("other", 1)):
        (tmp_path / name / "convex_adversarial").mkdir(parents=True)
        changed = arrays | {"7.bias": np.float32([bias])}
        np.savez(tmp_path / name / "convex_adversarial" / "mnist.npz", **changed)
        digests.append(pretrained.pretrained(tmp_path / name)["Wong & Kolter, linf 0.1"].digest)
    assert digests[0] == digests[1] != digests[2] and len(digests[0]) == 12


def test_folders_of_released_networks_are_optional_unless_they_are_named(tmp_path):
    assert pretrained.pretrained(None, tmp_path) == {}
    with pytest.raises(FileNotFoundError, match=r"has none of abs/vanilla_cnn\.npz.*leave --pretrained-dir out"):
        pretrained.pretrained(tmp_path)
    (tmp_path / "abs").mkdir()
    (tmp_path / "abs" / "vanilla_cnn.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"vanilla_cnn\.npz is damaged or of another network"):
        pretrained.pretrained(tmp_path)
