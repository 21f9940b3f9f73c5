"""Experiments: every smoke preset runs, resumes and publishes; the command line refuses what it does not know."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import __main__ as commands
from experiments import common
from experiments.excessive_invariance import classifiers, interpolation, metamers, nuisance_classifier

REPOSITORY = Path(__file__).parents[1]
FOUND = {experiment.name: experiment for experiment in commands.find()}


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "smoke-digits"
    rows = common.main(metamers.EXPERIMENT, ["smoke", "--out", str(folder)])
    return folder, rows


def test_all_experiments_are_found_and_have_the_presets_they_time():
    assert {"excessive_invariance/metamers", "quickstart"} <= FOUND.keys()
    for experiment in FOUND.values():
        assert {"smoke", "default"} <= experiment.presets.keys() == experiment.times.keys()


def test_a_smoke_run_leaves_a_table_a_config_an_environment_and_figures(smoke_run):
    folder, rows = smoke_run
    table = json.loads((folder / "table.json").read_text())
    assert [entry["name"] for entry in table] == [row.name for row in rows]
    assert set(table[0]) == {"name", "published", "measured", "spread", "seeds", "unit", "differs"}
    assert json.loads((folder / "config.json").read_text())["dataset"] == "digits"
    about = json.loads((folder / "environment.json").read_text())
    assert about["command"] == "python -m experiments.excessive_invariance.metamers smoke"
    for name in ("metamers-ce", "metamers-ice", "nuisance-readings"):
        width, height = png_size(folder / "figures" / f"{name}.png")
        assert width > 400 and height > 300
    assert "| published | measured |" in (folder / "table.md").read_text()


def test_the_smoke_metamers_are_exact(smoke_run):
    _, rows = smoke_run
    measured = {row.name: row.measured for row in rows}
    for loss in classifiers.LOSSES:
        assert measured[f"{loss}: max logit error of the metamers, float32"] < 1e-3
        assert measured[f"{loss}: max logit error of the metamers, float64"] < 1e-9
        assert measured[f"{loss}: max round-trip error, float64"] < 1e-9


def test_a_finished_run_is_not_computed_again(smoke_run, monkeypatch):
    folder, rows = smoke_run
    monkeypatch.setattr(metamers, "one_model", lambda *args: pytest.fail("trained again"))
    (folder / "figures" / "metamers-ce.png").unlink()
    again = common.main(metamers.EXPERIMENT, ["smoke", "--out", str(folder)])
    assert again == rows
    assert (folder / "figures" / "metamers-ce.png").exists(), "figures are functions of the kept arrays"


def test_other_settings_on_the_same_folder_are_refused_by_name(smoke_run):
    folder, _ = smoke_run
    with pytest.raises(SystemExit, match=r"epochs=1; this one has 2"):
        common.main(metamers.EXPERIMENT, ["smoke", "--epochs", "2", "--out", str(folder)])


def test_publish_copies_the_small_things_and_list_shows_them(smoke_run, monkeypatch, tmp_path, capsys):
    folder, rows = smoke_run
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    target = common.publish(folder)
    assert target == tmp_path / "excessive_invariance" / "metamers" / "smoke-digits"
    assert {path.suffix for path in target.iterdir()} == {".json", ".md", ".png"}
    commands.list_experiments(as_json=True)
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["excessive_invariance/metamers"]["headline"]["measured"] == rows[0].measured
    assert listed["excessive_invariance/metamers"]["command"].startswith("python -m experiments.excessive_invariance")
    commands.list_experiments(as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(FOUND) and all(line.startswith("python -m experiments.") for line in lines)


def test_the_headline_is_the_defaults(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    for run in ("another-mnist", "default-cifar10", "default-digits"):
        (tmp_path / metamers.EXPERIMENT.name / run).mkdir(parents=True)
        (tmp_path / metamers.EXPERIMENT.name / run / "table.json").write_text(json.dumps([{"measured": run}]))
    assert commands.headline(metamers.EXPERIMENT)["measured"] == "default-cifar10"
    (tmp_path / metamers.EXPERIMENT.name / "default-mnist").mkdir()
    (tmp_path / metamers.EXPERIMENT.name / "default-mnist" / "table.json").write_text('[{"measured": 1}]')
    assert commands.headline(metamers.EXPERIMENT) == {"measured": 1, "run": "default-mnist"}


def test_publish_refuses_an_unfinished_run(tmp_path):
    with pytest.raises(SystemExit, match=r"table\.json.* missing; finish the run first"):
        commands.main(["publish", str(tmp_path)])


def test_the_quickstart_command_runs_in_a_fresh_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-m", "experiments", "quickstart", "smoke", "--out", str(tmp_path / "run")]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "iCE: test bits per dimension" in done.stdout and "figure:" in done.stdout
    assert (tmp_path / "run" / "table.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["huge"], "preset must be one of smoke, default, paper; got 'huge'"),
        (["smoke", "--out"], "--out needs a folder"),
        (["smoke", "--dataset", "mnist", "--data-dir", "/nowhere"], "/nowhere"),
    ],
)
def test_the_command_line_refuses_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        common.main(metamers.EXPERIMENT, arguments)


def test_an_unknown_command_prints_the_usage():
    with pytest.raises(SystemExit, match="usage: python -m experiments"):
        commands.main(["nonsense"])


def test_a_row_has_the_mean_and_the_sample_standard_deviation():
    row = common.row("a", 1.0, [1.0, 2.0, 4.0], "%")
    assert row.measured == pytest.approx(7 / 3) and row.seeds == 3
    assert row.spread == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert common.row("a", None, [2.0], "").spread is None


def test_the_table_shows_a_dash_where_nothing_was_published():
    about = {"command": "c", "device": "d", "packages": {"jax": "1"}, "date": "2000-01-01"}
    text = common.table_markdown([common.row("a", None, [0.5], "%")], about)
    assert "| a | – | 0.5 (1 seed) | % |  |" in text and "`c`, d, JAX 1, 2000-01-01" in text


def test_a_stage_that_is_cut_off_is_computed_again_and_a_complete_one_is_not(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"n": 3}, {"a": np.arange(3)}

    with pytest.raises(KeyboardInterrupt):
        common.stage(tmp_path, compute)
    for _ in range(2):
        numbers, arrays = common.stage(tmp_path, compute)
        assert numbers == {"n": 3} and arrays["a"].tolist() == [0, 1, 2]
    assert len(calls) == 2


def test_pairs_are_of_different_classes_and_go_through_all_of_them():
    labels = np.random.default_rng(0).integers(0, 10, 500)
    first, second = metamers.pair_up(labels, 40)
    assert (labels[first] != labels[second]).all()
    assert labels[first[:10]].tolist() == list(range(10))
    assert len(set(first.tolist())) == 40


@pytest.mark.parametrize("form", ["gradient-reversal", "alternating"])
def test_both_forms_of_ice_give_a_training_step_that_starts_and_moves(form):
    import jax
    import jax.numpy as jnp

    config = dataclasses.replace(metamers.PRESETS["smoke"], form=form, blocks=(1, 1))
    model = classifiers.model_for(config)
    step, start = classifiers.training_for(config, "iCE", levels=17, num_steps=10)
    images = np.random.default_rng(0).integers(0, 17, (16, 8, 8, 1), np.uint8)
    key = jax.random.key(0)
    state = start(key, model.init(key, jnp.asarray(images / 16, jnp.float32)))
    after, metrics = step(step(state, (images, np.arange(16) % 10))[0], (images, np.arange(16) % 10))
    assert int(after.step) == 2 and np.isfinite(float(metrics["loss"]))
    for player in ("model", "critic"):
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.params[player], after.params[player])
        assert max(map(float, jax.tree.leaves(moved))) > 0


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("sensitivity/report", {"sensitivity", "nearest-plain", "nearest-adversarial"}),
        ("sensitivity/curves", {"plain-linf", "plain-l2", "adversarial-linf", "adversarial-l2"}),
    ],
)
def test_a_smoke_run_of_the_sensitivity_experiments_leaves_its_table_and_figures(name, pictures, tmp_path):
    rows = common.main(FOUND[name], ["smoke", "--out", str(tmp_path)])
    assert {row.name.partition(":")[0] for row in rows} == {"plain", "adversarial"}
    assert all(0 <= row.measured <= 100 for row in rows if row.unit == "%")
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == pictures
    assert all(min(png_size(path)) > 300 for path in (tmp_path / "figures").glob("*.png"))


def test_a_smoke_run_of_the_spheres_has_closed_forms_exact_metamers_and_figure_2(tmp_path):
    rows = common.main(FOUND["excessive_invariance/spheres"], ["smoke", "--out", str(tmp_path)])
    measured = {row.name: row.measured for row in rows}
    for row in rows:
        if "closed form" in row.differs or "paper" in row.differs:
            assert row.measured == pytest.approx(row.published, rel=0.1, abs=3 if row.unit == "%" else 0.02)
    assert measured["trained network: inner points with a metamer on the outer sphere"] == 100
    assert measured["trained network: decision inner on these metamers"] == 100
    assert measured["trained network: max logit error of the metamers on the outer sphere, float64"] < 1e-9
    assert measured["trained network: max radius error of these, float64"] < 1e-9
    assert measured["trained network: clean error, inner sphere"] < 10
    assert min(png_size(tmp_path / "figures" / "two-kinds.png")) > 300


def test_a_smoke_run_of_the_decision_boundaries_leaves_its_shares_and_figures(tmp_path):
    rows = common.main(FOUND["excessive_invariance/decision_boundaries"], ["smoke", "--out", str(tmp_path)])
    measured = {row.name: row.measured for row in rows}
    assert all(0 <= value <= 100 for value in measured.values()) and len(measured) == 12
    # both by construction: a metamer has the logits of the one image and the nuisance of the other
    assert measured["classifier of the logits: metamers x* decided as x is"] == 100
    assert measured["classifier of the nuisance: metamers x* decided as y is, the source of their nuisance"] == 100
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {"slices-images", "slices-metamers"}
    assert all(min(png_size(path)) > 300 for path in (tmp_path / "figures").glob("*.png"))


def test_a_smoke_run_of_the_interpolation_leaves_its_curves_and_figures(tmp_path):
    rows = common.main(FOUND["excessive_invariance/interpolation"], ["smoke", "--out", str(tmp_path)])
    measured = {row.name: row.measured for row in rows}
    for loss in interpolation.ARMS:
        assert measured[f"{loss}: max change of a logit on the way, float32"] < 1e-3
        for t in ("0.5", "1, the metamers"):
            shares = [
                measured[f"{loss}: judged to be the class of {which}, t = {t}"]
                for which in ("a (logits)", "b (nuisance)")
            ]
            assert min(shares) >= 0 and sum(shares) <= 100
    pictures = {"interpolation-ce", "interpolation-ice", "interpolation-ice-in-closed-form", "judged"}
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == pictures
    assert all(min(png_size(path)) > 300 for path in (tmp_path / "figures").glob("*.png"))
    numbers = json.loads((tmp_path / "seed0" / "numbers.json").read_text())
    for loss in interpolation.ARMS:
        assert np.allclose(np.sum([numbers[loss][which] for which in ("a", "b", "neither")], axis=0), 1)


def test_a_smoke_run_of_the_nuisance_classifiers_keeps_the_logits_and_leaves_its_table(tmp_path):
    arguments = ["smoke", "--ensemble", "2", "--out", str(tmp_path)]
    rows = common.main(nuisance_classifier.EXPERIMENT, arguments)
    measured = {row.name: row.measured for row in rows}
    before, after = ("CE", "iCE in closed form")
    assert measured[f"{after}: test error of the logits"] == measured[f"{before}: test error of the logits"]
    assert measured[f"{after}: median test bits per dimension"] < measured[f"{before}: median test bits per dimension"]
    for head in ("MLP", "ensemble of 2 MLPs"):
        read = [measured[f"{name}: test error of a fresh {head} head on the nuisance"] for name in (before, after)]
        assert read[0] + 20 < read[1] <= 100
    pictures = {"metamers-ce", "metamers-ice", "nuisance-readings"}
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == pictures


def test_a_smoke_run_of_the_information_sums_its_tables_and_draws_figure_6_twice(tmp_path):
    rows = common.main(FOUND["excessive_invariance/information"], ["smoke", "--out", str(tmp_path)])
    measured = {row.name: row.measured for row in rows}
    exact = [row.measured for row in rows if "largest" in row.name and row.unit == "nats"]
    assert len(exact) == 8 and max(exact) < 1e-12
    assert abs(measured["exclusive or: I(y; z_s)"]) < 1e-12
    assert measured["exclusive or: I(y; x)"] == pytest.approx(np.log(2))
    assert measured["schematic, iCE: I_Adv(y; z_s)"] == pytest.approx(measured["schematic, iCE: I_Adv(y; x)"])
    before, after, limit = (
        measured[f"lemma 10: {what}, mean"] for what in ("bound of a random q", "bound after 20 steps of q", "I(y; z)")
    )
    assert before < after < limit
    for part in ("z_s", "z_n"):
        for name in ("CE, D", "CE, D_Adv", "iCE, D", "iCE, D_Adv"):
            assert 0 <= measured[f"{name}: I(y; {part}) is at least"] <= np.log(10) + 1e-6
    assert measured["CE, D: I(y; z_n) is at least"] > 0.2
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {
        "information-measured",
        "information-tables",
    }
    assert all(min(png_size(path)) > 300 for path in (tmp_path / "figures").glob("*.png"))


def test_the_schematic_of_figure_6_meets_the_premises_under_ice_alone():
    from experiments.excessive_invariance import information
    from invjax.theory.information import premises, shift_information

    tables = information.schematic(classes=4, noise=0.1)
    ce, ice = (shift_information(tables[loss]["D"], tables[loss]["D_Adv"]) for loss in classifiers.LOSSES)
    assert premises(ice) == (True, True, True) and not premises(ce)[0]
    assert ce.semantic == pytest.approx(0, abs=1e-12) and ce.everything == pytest.approx(ice.semantic)
    same, other = 0.9 + 0.1 / 4, 0.1 / 4
    assert ice.semantic == pytest.approx(np.log(4) + same * np.log(same) + 3 * other * np.log(other))


def test_a_smoke_run_of_the_search_finds_metamers_of_a_resnet_beside_exact_ones(tmp_path):
    rows = common.main(FOUND["excessive_invariance/resnet_metamers"], ["smoke", "--out", str(tmp_path)])
    measured = {row.name: row.measured for row in rows}
    inverse, search = (f"{way}: logit error of a metamer, " for way in ("fi-RevNet, inverse", "ResNet, search"))
    assert (
        measured[f"{inverse}largest"]
        < 1e-3
        < measured["fi-RevNet, inverse, clipped to [0, 1]: logit error of a metamer, median"]
    )
    assert measured[f"{inverse}largest"] < measured[f"{search}median"]
    assert measured[f"{search}median"] < 0.5 * measured["ResNet: logit difference of the two images, median"]
    assert measured["ResNet, search: l2 distance from the nuisance source, mean"] <= 4
    pictures = {"metamers-fi-revnet", "metamers-resnet", "batch-fi-revnet", "batch-resnet"}
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == pictures
    found = common.read_arrays(tmp_path / "seed0" / "arrays.npz")["ResNet metamers"]
    assert found.min() >= 0 and found.max() <= 1


def test_a_smoke_run_at_imagenet_looks_up_its_memory_and_makes_exact_metamers(tmp_path):
    rows = common.main(FOUND["excessive_invariance/imagenet"], ["smoke", "--out", str(tmp_path)])
    measured = {row.name: row.measured for row in rows}
    saving, chain, ratio = (row.measured for row in rows[:3])
    assert min(saving, chain) > 0 and ratio == pytest.approx(saving / chain)
    for precision, limit in (("float32", 1e-3), ("float64", 1e-9)):
        assert measured[f"max logit error of the metamers, {precision}"] < limit
        assert measured[f"max round-trip error, {precision}"] < limit
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {"metamers", "batch"}


def test_photographs_of_a_folder_are_read_by_the_class_index_in_their_names(tmp_path):
    from PIL import Image

    from experiments.excessive_invariance import imagenet

    for name, gray in (("0007_cock.jpg", 40), ("0003_shark.jpg", 200), ("notes_1.jpg", 0), ("12_axolotl.jpeg", 90)):
        Image.new("RGB", (300, 260), (gray, gray, gray)).save(tmp_path / name)
    data = imagenet.photographs(tmp_path)
    assert data.labels.tolist() == [3, 7, 12] and data.num_classes == 1000
    assert data.images.shape == (3, 224, 224, 3)
    assert np.abs(data.images[np.array([0, 2])].astype(int) - np.array([200, 90])[:, None, None, None]).max() <= 2
    Image.new("RGB", (300, 260)).save(tmp_path / "1000_too_many.jpg")
    with pytest.raises(ValueError, match="below 1000; got 1000"):
        imagenet.photographs(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --data-dir"),
        (["--data-dir", "."], "holds no <class index>_"),
        (["--side", "64"], "side must be 224 for folder; got 64"),
    ],
)
def test_imagenet_refuses_what_it_cannot_read(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        common.main(FOUND["excessive_invariance/imagenet"], ["default", *arguments])


def test_figures_of_photographs_are_not_where_publish_looks(tmp_path):
    from experiments.excessive_invariance import imagenet

    assert imagenet.pictures_of(imagenet.PRESETS["default"], tmp_path) == tmp_path / "pictures"
    assert imagenet.pictures_of(imagenet.PRESETS["paper"], tmp_path) == tmp_path / "pictures"
    assert imagenet.pictures_of(imagenet.PRESETS["smoke"], tmp_path) == tmp_path / "figures"


def test_a_smoke_run_of_shift_mnist_has_every_variant_of_both_cues(tmp_path):
    from experiments.excessive_invariance import shift_mnist

    rows = common.main(FOUND["excessive_invariance/shift_mnist"], ["smoke", "--out", str(tmp_path)])
    measured = {row.name: row.measured for row in rows}
    assert len(rows) == 2 * 2 + 2 * 4 * 3 and [row.published for row in rows] == [38] * 4 + [None] * 24
    for shift, adversarial in (("binary", "removed (D_Adv)"), ("texture", "random (D_Adv)")):
        ce, ice = (measured[f"{shift}: fi-RevNet, {loss}: test error, {adversarial}"] for loss in classifiers.LOSSES)
        assert measured[f"{shift}: iCE lowers the D_Adv error of the fi-RevNet by"] == pytest.approx(ce - ice)
        generative = measured[f"{shift}: generative: test error, {adversarial}"]
        gain = f"{shift}: a generative classifier's D_Adv error is lower than that of the fi-RevNet with CE by"
        assert measured[gain] == pytest.approx(ce - generative)
        for arm in shift_mnist.ARMS:
            assert 0 < measured[f"{shift}: {arm}: test error, coded"] <= 100
    pictures = {f"{kind}-{shift}" for kind in ("examples", "errors") for shift in ("binary", "texture")}
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == pictures
    assert all(min(png_size(path)) > 300 for path in (tmp_path / "figures").glob("*.png"))
