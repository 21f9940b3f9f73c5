"""The experiments with human labels and on misalignment: smoke runs on a slice of MNIST, and their parts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.invariance_tradeoffs import (
    augmentation,
    human_agreement,
    misalignment,
    pretrained,
    robust_networks,
    robustness_costs,
)
from invjax import figures
from invjax.data import Dataset, HumanLabelled, as_float, human_labelled, load
from invjax.evaluation import agreement, wilson
from invjax.models import class_vae, l0_sparse, largest_frequencies


def smoke(experiment, folder, **changes):
    config = dataclasses.replace(experiment.PRESETS["smoke"], **changes)
    rows = common.execute(experiment.EXPERIMENT, "smoke", config, folder)
    return {row.name: row for row in rows}


def moved(by, labels, human):
    """Images of one gray, away from black originals by as much as `by` says."""
    images = np.ones((len(by), 28, 28, 1), np.float32) * np.float32(by)[:, None, None, None]
    labels, human = np.int32(labels), np.int32(human)
    return HumanLabelled(images, human, 0 * images, labels, np.arange(len(by), dtype=np.int32), "linf", 0.3)


def test_robustness_costs_run_and_resume(tmp_path, shared_data):
    table = smoke(robustness_costs, tmp_path, data_dir=str(shared_data))
    kept = json.loads((tmp_path / "plain-seed0" / "numbers.json").read_text())
    assert table["plain: agrees with people, l0"].measured == pytest.approx(100 * kept["agrees"]["l0"] / 55)
    falls = table["linf-PGD: agreement with people falls from eps 0 to 0.3 by, manual linf 0.4"]
    robust = json.loads((tmp_path / "linf-0.3-seed0" / "numbers.json").read_text())
    name = "manual linf 0.4"
    assert falls.measured == pytest.approx(100 * (kept["agrees"][name] - robust["agrees"][name]) / 44)
    # it was trained at another radius than the plain one, and ends elsewhere
    assert robust["clean"] != kept["clean"] and 0 <= robust["robust"] <= robust["clean"] + 0.2
    assert (tmp_path / "figures" / "agreement.png").stat().st_size > 10_000
    (tmp_path / "figures" / "agreement.png").unlink()
    again = smoke(robustness_costs, tmp_path, data_dir=str(shared_data))
    assert again == table and (tmp_path / "figures" / "agreement.png").exists()
    assert "data_dir" not in json.loads((tmp_path / "config.json").read_text())


def test_human_agreement_runs_with_published_networks(tmp_path, shared_data):
    table = smoke(human_agreement, tmp_path, data_dir=str(shared_data))
    # Schott et al.'s plain CNN: 71, 14, 43 and 48 %; nothing lies outside of a ball that it does not have
    for name, count, total in (("l0", 39, 55), ("linf 0.3", 3, 21), ("linf 0.4", 16, 37), ("manual linf 0.4", 21, 44)):
        row = table[f"Schott et al., CNN: agrees with people, {name}"]
        assert row.measured == pytest.approx(100 * count / total)
        low, high = (100 * end for end in wilson(count, total))
        assert f"interval {low:.0f} to {high:.0f}, {total} images" in row.differs
    # stars: what lies outside of a ball of linf 0.3, with the slack of one byte, and of l2 2
    linf, l2 = ("CNN, linf-PGD 0.3: agrees with people, ", "CNN, l2-PGD 2: agrees with people, ")
    assert f"{linf}linf 0.3" in table and {f"{linf}linf 0.4*", f"{linf}l0*", f"{l2}linf 0.3*"} <= table.keys()
    assert table[f"{linf}l0*"].published == 56 and table[f"{l2}linf 0.4*"].published == 19
    assert table["Wong & Kolter, linf 0.1: clean accuracy"].measured > 95
    # without gradients there is no attack in l0; the search's cost is in the images and the queries
    assert not any("binary CNN: accuracy under" in name for name in table)
    assert not any("Binary-ABS: accuracy under" in name for name in table)
    assert table["Schott et al., ABS: accuracy under l0 25"].differs == "PGD of 3 steps on 8 images"
    assert table["Schott et al., ABS: clean accuracy"].differs == "as released; 64 test images"
    assert table["Schott et al., ABS: clean accuracy"].measured > 90  # of few draws and steps
    assert table["Schott et al., ABS: agrees with people, l0"].published == 58
    assert table["Schott et al., Binary-ABS: agrees with people, linf 0.4"].published == 8
    # the l0-sparse defence is for fewer pixels than people need
    assert table["CNN, l0-sparse: agrees with people, linf 0.3*"].published == 19
    assert "80 frequencies and 10 outliers; 256 test images" in table["CNN, l0-sparse: clean accuracy"].differs
    assert 0 <= table["ResNet: accuracy under l0 25"].measured <= table["ResNet: clean accuracy"].measured + 20
    assert (tmp_path / "figures" / "agreement.png").stat().st_size > 20_000


def test_augmentation_runs(tmp_path, shared_data):
    table = smoke(augmentation, tmp_path, data_dir=str(shared_data))
    plain, moving = (f"trained on {arm}, eps 0: " for arm in augmentation.ARMS)
    # without an attack's radius the first adversary does nothing, and the second still moves the images
    numbers = json.loads((tmp_path / "linf-0-seed0" / "numbers.json").read_text())
    assert numbers["robust"]["linf, rotation, shift"] < numbers["robust"]["linf"]
    assert table[f"{plain}clean accuracy"].measured != table[f"{moving}clean accuracy"].measured
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {"accuracy", "agreement"}


def test_misalignment_runs_on_digits(tmp_path):
    table = {name: row.measured for name, row in smoke(misalignment, tmp_path).items()}
    for norm in ("l0", "l1", "l2", "linf"):
        assert 0 < table[f"digits, {norm}: pairs (same class, other class) in the wrong order"] < 50
        one = table[f"digits, {norm}: lemma 4, accuracy from one labelled point a class"]
        assert 30 < one < table[f"digits, {norm}: accuracy from all 300 points"]
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {"misalignment", "perturbations-digits"}
    kept = common.read_arrays(tmp_path / "digits" / "arrays.npz")
    for change in ("semantic", "random"):
        lengths = np.linalg.norm((kept[change] - kept["image"]).reshape(8, -1), axis=1)
        np.testing.assert_allclose(lengths, kept["length"], rtol=1e-4)
    assert kept["random"].min() >= 0 and kept["random"].max() <= 1


@pytest.mark.parametrize("experiment", [human_agreement, robustness_costs, augmentation])
def test_without_the_human_labels_the_default_stops_at_once(experiment, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit, match="human-labelled invariance examples were not found"):
        common.main(experiment.EXPERIMENT, ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "run")])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_star_is_for_images_beyond_the_ball_by_more_than_rounding():
    of_set = moved([0.3, 0.3 + 0.9 / 255, 0.31, 0.9], labels=[0, 0, 0, 3], human=[1, 1, 1, 3])
    assert human_agreement.outside(of_set, None) == 0
    assert human_agreement.outside(of_set, ("linf", 0.3)) == pytest.approx(1 / 3)  # the last is not a changed one
    assert human_agreement.outside(of_set, ("l2", 0.3 * 28 + 1)) == 0
    assert human_agreement.outside(of_set, ("l2", 0.3 * 28 - 1)) == 1
    assert human_agreement.outside(of_set, ("l0", 784)) == 0
    assert human_agreement.outside(of_set, ("l0", 783)) == 1


def test_the_interval_of_several_trainings_is_that_of_their_mean_on_the_same_images():
    human = {"set": moved([0.1] * 10, labels=[0] * 10, human=[1] * 8 + [0] * 2)}
    assert robust_networks.interval(human, "set", [2, 4]) == (3 / 8, *wilson(3, 8))
    row = robust_networks.agreement_row(human, "net", "set", [2, 4], 50, "more")
    assert (row.name, row.measured, row.seeds, row.published) == ("net: agrees with people, set", 37.5, 2, 50)
    low, high = wilson(3, 8)
    assert row.differs == f"95 % interval {100 * low:.0f} to {100 * high:.0f}, 8 images; more"


def test_two_agreements_are_apart_where_their_intervals_are():
    human = {"set": moved([0.1] * 40, labels=[0] * 40, human=[1] * 40)}
    assert robust_networks.apart(human, "set", [30, 34], [2, 2]) == (
        "95 % interval 65 to 90 is above 1 to 17 (40 images)"
    )
    # three trainings see the same images: they tell no more apart than one
    assert robust_networks.apart(human, "set", [10] * 3, [4] * 3) == (
        "95 % interval 14 to 40 is not above 4 to 23 (40 images)"
    )


def bright_or_dark(offset, x):
    """Bright against dark, eight classes that are never seen: an image falls if its mean can be brought below 1/2."""
    bright = 4 * (x.mean((1, 2, 3)) - 0.5) + offset
    return bright[:, None] * jnp.array([[1.0, -1.0] + 8 * [0.0]]) - jnp.array([[0.0, 0.0] + 8 * [9.0]])


def grays():
    return np.ones((8, 4, 4, 1), np.float32) * np.linspace(0.52, 0.98, 8, dtype=np.float32)[:, None, None, None]


@pytest.mark.parametrize("name", ["linf 0.3", "l2 2", "l0 25"])
def test_each_ball_has_an_attack_that_finds_what_is_there(name):
    x, attack = grays(), human_agreement.attack_on(bright_or_dark, name, 5, 5)
    found = attack(np.float32(0), jax.random.key(0), x, np.zeros(8, np.int32), eps=human_agreement.ATTACKED[name][1])
    reach = {"linf 0.3": 0.3, "l2 2": 0.5, "l0 25": 1.0}[name]  # how far the mean of 16 pixels can be lowered
    np.testing.assert_array_equal(found.success, x[:, 0, 0, 0] - 0.5 < reach)


def test_the_radius_is_a_third_in_the_first_epoch(monkeypatch, tmp_path):
    config = dataclasses.replace(robustness_costs.PRESETS["smoke"], batch_size=8, epochs=2)
    images = np.zeros((24, 28, 28, 1), np.uint8)
    data = Dataset(images, np.zeros(24, np.int32), 10, 256)
    radii = []

    def fit(state, step_fn, draw, num_steps, **rest):
        radii.extend(float(draw(step)[2]) for step in range(num_steps))
        return state, []

    monkeypatch.setattr(robust_networks, "fit", fit)
    robust_networks.train(config, "small CNN", None, 0.3, 0, data, tmp_path)
    assert radii == pytest.approx([0.1] * 3 + [0.3] * 3)


def test_released_networks_see_what_was_measured_with_them(shared_data):
    found = pretrained.pretrained(None, shared_data, draws=10, steps=0)
    assert list(found) == list(pretrained.readers())
    human = human_labelled(shared_data)
    counts = {
        name: [int(of.with_humans.sum()) for of in agreement(found[name].apply, found[name].params, human).values()]
        for name in ("Schott et al., CNN", "Wong & Kolter, linf 0.1")
    }
    assert counts == {"Schott et al., CNN": [39, 3, 16, 21], "Wong & Kolter, linf 0.1": [23, 1, 13, 15]}


def test_released_autoencoders_classify_by_what_they_can_draw(shared_data):
    found = pretrained.pretrained(None, shared_data, draws=1000, steps=10)
    test = robust_networks.first(load("mnist", "test", shared_data), 60)
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


def test_networks_behind_the_l0_sparse_defence_train_on_few_frequencies(monkeypatch, tmp_path):
    config = dataclasses.replace(human_agreement.PRESETS["smoke"], frequencies=7, outliers=3)
    net, x = robust_networks.network("small CNN"), np.random.default_rng(0).uniform(size=(2, 28, 28, 1))
    x = jnp.asarray(x, jnp.float32)
    params = net.init(jax.random.key(0), x)
    trained_with, measured_with = [], []
    monkeypatch.setattr(robust_networks, "train", lambda *given: trained_with.append(given) or params)
    monkeypatch.setattr(human_agreement, "measured", lambda _, net, *rest: measured_with.append(net) or {})
    human_agreement.one_trained(config, "CNN, l0-sparse", 0, (None, None, None), tmp_path)
    ((_, name, attack, *_, prepare),), (behind,) = trained_with, measured_with
    assert name == "small CNN" and attack is None and behind.ball == ("l0", 3)
    np.testing.assert_allclose(prepare(x), largest_frequencies(x, 7), atol=1e-6)
    np.testing.assert_allclose(behind.apply(params, x), l0_sparse(net, 7, 3).apply(params, x), rtol=1e-5)


def test_training_sees_what_is_prepared(tmp_path):
    config = dataclasses.replace(robustness_costs.PRESETS["smoke"], batch_size=8, epochs=1)
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1)).astype(np.uint8)
    data = Dataset(images, np.zeros(8, np.int32), 10, 256)
    first_kernels = [
        robust_networks.train(config, "small CNN", None, 0, 0, data, tmp_path / name, prepare)["params"]["Conv_0"]
        for name, prepare in (("plain", None), ("black", jnp.zeros_like))
    ]
    start = robust_networks.network("small CNN").init(jax.random.split(jax.random.key(0))[0], jnp.zeros((1, 28, 28, 1)))
    moved = [float(jnp.abs(layer["kernel"] - start["params"]["Conv_0"]["kernel"]).max()) for layer in first_kernels]
    assert moved[0] > 1e-4 and moved[1] == 0  # a black image moves no kernel of the first layer


def test_what_attacks_a_network_depends_on_what_can_be_asked_of_it():
    config = human_agreement.PRESETS["default"]
    net = pretrained.Pretrained(robust_networks.network("small CNN").apply, None, None)
    says = lambda net, name: human_agreement.chosen_attack(config, net, name)[1]  # noqa: E731
    assert says(net, "linf 0.3") == "the standard ensemble"
    assert says(net, "l0 25") == "PGD of 40 steps"
    assert says(net._replace(searches=True), "linf 0.3") == "PGD of 20 steps"
    blind = net._replace(has_gradients=False)
    assert says(blind, "l2 2") == "random search of 500 queries, a weak attack,"
    assert says(blind._replace(searches=True), "linf 0.4") == "random search of 20 queries, a weak attack,"
    assert human_agreement.chosen_attack(config, blind, "l0 25") is None


@pytest.mark.parametrize("has_gradients", [True, False])
@pytest.mark.parametrize("name", ["linf 0.3", "l2 2"])
def test_short_attacks_find_what_is_there(name, has_gradients):
    attack = human_agreement.short_attack_on(bright_or_dark, name, 20, has_gradients)
    x, reach = grays(), {"linf 0.3": 0.3, "l2 2": 0.5}[name]
    eps = human_agreement.ATTACKED[name][1]
    found = attack(np.float32(0), jax.random.key(0), x, np.zeros(8, np.int32), eps=eps)
    fallen = x[:, 0, 0, 0] - 0.5 < reach
    assert not found.success[~fallen].any()
    assert found.success[fallen].mean() >= (1 if has_gradients else 0.5)


def test_the_dense_layer_of_a_released_network_reads_channels_last():
    generator = np.random.default_rng(0)
    arrays = {f"{i}.bias": np.zeros(1, np.float32) for i in (0, 2, 5, 7)}
    arrays |= {f"{i}.weight": np.zeros((1, 1, 4, 4), np.float32) for i in (0, 2)}
    arrays |= {"5.weight": generator.normal(size=(100, 1568)), "7.weight": generator.normal(size=(10, 100))}
    params = pretrained.wong_kolter(arrays)
    features = generator.normal(size=(2, 32, 7, 7))  # as PyTorch has them
    expected = features.reshape(2, -1) @ arrays["5.weight"].T
    channels_last = features.transpose(0, 2, 3, 1).reshape(2, -1)
    np.testing.assert_allclose(channels_last @ params["dense0"]["kernel"], expected)


def test_unknown_attacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="attacked must be some of linf"):
        human_agreement.run(dataclasses.replace(human_agreement.PRESETS["smoke"], attacked=("l1 8",)), tmp_path)


def test_folders_of_released_networks_are_optional_unless_they_are_named(tmp_path):
    assert pretrained.pretrained(None, tmp_path) == {}
    with pytest.raises(FileNotFoundError, match=r"has none of abs/vanilla_cnn\.npz.*leave --pretrained-dir out"):
        pretrained.pretrained(tmp_path)
    (tmp_path / "abs").mkdir()
    (tmp_path / "abs" / "vanilla_cnn.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"vanilla_cnn\.npz is damaged or of another network"):
        pretrained.pretrained(tmp_path)


def test_random_changes_have_the_length_that_is_asked_for_and_stay_in_range():
    x = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1)
    for length in (0.01, 1.0, 4.0):
        changed = misalignment.random_change(jax.random.key(0), x, length)
        assert np.linalg.norm(changed - x) == pytest.approx(length, rel=1e-4)
        assert changed.min() >= 0 and changed.max() <= 1


def test_intervals_are_drawn(tmp_path):
    dots = {"l0": {"a": (0.5, 0.3, 0.7), "b": (0.0, 0.0, 0.2)}, "linf": {"a": (0.1, 0.0, 0.3), "b": (1.0, 0.8, 1.0)}}
    chart = figures.interval_dots(dots, {"linf": {"a": 0.16}}, "agrees", "title")
    first, second = chart.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    assert [line.get_marker() for line in first.lines] == ["None", "o"] * 2
    star = [line for line in second.lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in star] == [16]
    x, intervals = np.array([0.0, 0.1, 0.4]), np.array([[0.5, 0.3, 0.7], [0.2, 0.1, 0.4], [0.0, 0.0, 0.1]])
    lines = figures.interval_curves({"eps": (x, {"one": intervals})}, "agrees", "title")
    np.testing.assert_allclose(lines.axes[0].lines[0].get_ydata(), [50, 20, 0])
    bars = lines.axes[0].collections[0].get_segments()
    np.testing.assert_allclose([segment[:, 1] for segment in bars], [[30, 70], [10, 40], [0, 10]])
    assert figures.save(chart, tmp_path / "dots.png").stat().st_size > 5000
