"""Photographs: memory of the gradient, exact metamers, and the folder that is read."""

import dataclasses

import numpy as np
import pytest

from experiments import common
from experiments.excessive_invariance import imagenet
from invjax import figures


@pytest.mark.slow
def test_the_smoke_run_keeps_the_promises_of_all_experiments(smoke, check_promises):
    check_promises(smoke)


@pytest.mark.slow
def test_a_smoke_run_at_imagenet_looks_up_its_memory_and_makes_exact_metamers(smoke):
    measured = smoke.measured
    saving, chain, ratio = (row.measured for row in smoke.rows[:3])
    assert min(saving, chain) > 0 and ratio == pytest.approx(saving / chain)
    for precision, limit in (("float32", 1e-3), ("float64", 1e-9)):
        assert measured[f"max logit error of the metamers, {precision}"] < limit
        assert measured[f"max round-trip error, {precision}"] < limit
    assert smoke.pictures == {"metamers", "batch"}


def test_photographs_of_a_folder_are_read_by_the_class_index_in_their_names(tmp_path):
    from PIL import Image

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
def test_imagenet_refuses_bad_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        common.main(imagenet.EXPERIMENT, ["default", *arguments])


@pytest.mark.parametrize(("preset", "place"), [("default", "pictures"), ("paper", "pictures"), ("smoke", "figures")])
def test_figures_of_photographs_are_outside_the_published_folder(preset, place, tmp_path):
    class Results:
        def arrays(self, count=None):
            return dict.fromkeys(("first", "second", "metamers"), np.zeros((8, 2, 2, 3), np.float32))

    config = dataclasses.replace(imagenet.EXPERIMENT.presets[preset], columns=4, batch=8)
    for name, figure in imagenet.draw(config, Results()).items():
        figures.save(figure, tmp_path / "figures" / f"{name}.png")  # as the framework does
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert found == [f"{place}/batch.png", f"{place}/metamers.png"]
