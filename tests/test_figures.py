"""Figures show the numbers they are given, as PNG files that are whole or not there."""

import importlib
import io
import itertools
import sys

import numpy as np
import pytest
from PIL import Image

from invjax import figures

COLUMNS, CLASSES = 3, 4
ROWS = ("logits from", "metamer", "nuisance from")


def grid_arguments(columns=COLUMNS, channels=1, classes=CLASSES):
    rng = np.random.default_rng(0)
    images = [rng.random((columns, 6, 5, channels)).astype(np.float32) for _ in ROWS]
    images[1] = 3 * images[1] - 1  # a metamer may leave [0, 1]
    logits = rng.normal(size=(2, columns, classes)).astype(np.float32) * 30
    return {
        "logits_from": images[0],
        "metamers": images[1],
        "nuisance_from": images[2],
        "logits": logits[0],
        "metamer_logits": logits[1],
        "title": "Metamers of digits",
    }


def grid(**changes):
    return figures.metamer_grid(**grid_arguments(**changes))


ERRORS = {
    "CE": {"linear": [0.1, 0.3], "mlp": [0.05, 0.07]},
    "iCE": {"linear": [0.8, 0.86], "mlp": [0.5, 0.6]},
}


def chart(errors=ERRORS, chance=0.9):
    return figures.readings(errors, chance, "What is left")


FIGURES = {"metamer_grid": grid, "readings": chart}


def cells(figure, columns=COLUMNS):
    """The axes of a grid of images, `[4][columns]`."""
    assert len(figure.axes) == 4 * columns
    return [figure.axes[row * columns : (row + 1) * columns] for row in range(4)]


# Files


@pytest.mark.parametrize("name", FIGURES)
def test_save_writes_a_png_of_a_sane_size(name, tmp_path):
    figure = FIGURES[name]()
    path = figures.save(figure, str(tmp_path / "new" / "folder" / "figure.png"))
    assert path == tmp_path / "new" / "folder" / "figure.png"
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(path) as image:
        image.load()
        pixels = np.asarray(image.convert("L"))
        assert image.size == tuple(np.round(figure.get_size_inches() * figure.dpi).astype(int))
    assert all(400 <= side <= 2000 for side in pixels.shape)
    assert pixels.min() < 60 and pixels.max() == 255 and (pixels < 200).mean() > 0.005  # ink on white
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_arrays_give_the_same_file(name, tmp_path):
    one, two = (figures.save(FIGURES[name](), tmp_path / f"{i}.png").read_bytes() for i in range(2))
    assert one == two


def test_more_columns_make_a_wider_figure_and_more_classes_a_taller_one():
    width, height = grid(columns=2).get_size_inches()
    assert grid(columns=4).get_size_inches()[0] > 1.5 * width
    assert grid(columns=2, classes=20).get_size_inches()[1] > 1.3 * height


class Half:
    """A figure that fails while its file is half written."""

    def savefig(self, target, **arguments):
        with target if isinstance(target, io.IOBase) else open(target, "wb") as file:
            file.write(b"\x89PNG\r\n")
            raise RuntimeError("the disk is full")


def test_a_figure_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="the disk is full"):
        figures.save(Half(), tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_cannot_be_written_keeps_the_old_one(tmp_path):
    path = figures.save(chart(), tmp_path / "figure.png")
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="the disk is full"):
        figures.save(Half(), path)
    assert path.read_bytes() == before
    figures.save(grid(), path)  # and a later one replaces it
    assert path.read_bytes() != before and list(tmp_path.iterdir()) == [path]


# Matplotlib


@pytest.mark.parametrize("name", FIGURES)
def test_without_matplotlib_the_error_names_what_to_install(name, monkeypatch):
    for module in [module for module in sys.modules if module.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "invjax\[experiments\]"'):
        FIGURES[name]()


def test_importing_the_module_imports_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    importlib.reload(figures)


# Metamers


@pytest.mark.parametrize("channels", [1, 3])
def test_each_row_of_the_grid_shows_its_images(channels):
    arguments = grid_arguments(channels=channels)
    rows = cells(figures.metamer_grid(**arguments))
    for row, name in zip(rows, ("logits_from", "metamers", "nuisance_from"), strict=False):
        for axes, image in zip(row, arguments[name], strict=True):
            (shown,) = axes.images
            expected = np.clip(image, 0, 1)
            np.testing.assert_allclose(shown.get_array(), expected[..., 0] if channels == 1 else expected, rtol=1e-6)
            assert shown.get_clim() == (0, 1)  # the same gray for the same value in every cell
            assert shown.get_cmap().name == "gray" or channels == 3
            assert not axes.get_xticks().size and not axes.get_yticks().size


def test_the_rows_are_labelled():
    rows = cells(grid())
    assert [row[0].get_ylabel() for row in rows[:3]] == list(ROWS)
    assert all(axes.get_ylabel() == "" for row in rows for axes in row[1:])
    assert "logits of\nrows 1 and 2" in [text.get_text() for text in rows[3][0].texts]
    assert grid().get_suptitle() == "Metamers of digits"


@pytest.mark.parametrize("classes", [2, 10])
def test_each_column_lists_both_sets_of_logits_in_the_order_of_the_classes(classes):
    arguments = grid_arguments(classes=classes)
    for column, axes in enumerate(cells(figures.metamer_grid(**arguments))[3]):
        lines = [text for text in axes.texts if not text.get_text().startswith("logits of")]
        assert len(lines) == classes
        numbers = np.array([[float(word) for word in text.get_text().split()] for text in lines])
        np.testing.assert_array_equal(numbers[:, 0], np.arange(classes))
        np.testing.assert_allclose(numbers[:, 1], arguments["logits"][column], atol=0.00501)
        np.testing.assert_allclose(numbers[:, 2], arguments["metamer_logits"][column], atol=0.00501)
        heights = [text.get_position()[1] for text in lines]
        assert heights == sorted(heights, reverse=True) and heights[-1] > 0 and heights[0] < 1
        bold = [k for k, text in enumerate(lines) if text.get_weight() == "bold"]
        assert bold == [arguments["logits"][column].argmax()]


# Readings


def bars(axes):
    """`[(centre, height, colour)]` in the order of drawing."""
    return [(bar.get_x() + bar.get_width() / 2, bar.get_height(), bar.get_facecolor()) for bar in axes.patches]


def test_bars_are_means_in_percent_and_dots_are_seeds():
    (axes,) = chart().axes
    drawn = bars(axes)
    np.testing.assert_allclose([height for _, height, _ in drawn], [20, 6, 83, 55])
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    expected = [values for by_head in ERRORS.values() for values in by_head.values()]
    for line, (centre, _, _), values in zip(dots, drawn, expected, strict=True):
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(values))
        np.testing.assert_allclose(line.get_xdata(), [centre] * len(values))
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == ["20.0", "6.0", "83.0", "55.0", "chance"]


def test_bars_stand_at_the_label_of_their_classifier_and_in_the_colour_of_their_model():
    (axes,) = chart().axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["linear", "mlp"]
    drawn = bars(axes)
    assert [round(centre) for centre, _, _ in drawn] == [0, 1, 0, 1]
    assert drawn[0][2] == drawn[1][2] != drawn[2][2] == drawn[3][2]
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(edges))  # none hides another
    legend = axes.get_legend()
    colours = {
        text.get_text(): handle.get_facecolor()
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }
    assert colours == {"CE": drawn[0][2], "iCE": drawn[2][2]}
    assert axes.get_title() == "What is left" and "%" in axes.get_ylabel()


def test_the_order_of_the_classifiers_is_that_of_the_first_model():
    other = {"CE": ERRORS["CE"], "iCE": {name: ERRORS["iCE"][name] for name in ("mlp", "linear")}}
    (axes,) = chart(other).axes
    heights = {(label, round(centre)): height for label, (centre, height, _) in zip("aabb", bars(axes), strict=True)}
    np.testing.assert_allclose([heights["b", 0], heights["b", 1]], [83, 55])


@pytest.mark.parametrize("chance", [0.5, 0.9])
def test_chance_is_a_dashed_line(chance):
    (axes,) = chart({"CE": {"mlp": [0.1]}}, chance).axes
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(line.get_ydata(), 100 * chance)
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 100 * chance


def test_errors_above_chance_are_inside_the_figure():
    (axes,) = chart({"CE": {"mlp": [0.48, 0.57]}}, 0.5).axes
    assert axes.get_ylim()[1] > 57
