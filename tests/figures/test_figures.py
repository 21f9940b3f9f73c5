"""Figures show the numbers they are given, as PNG files that are whole or not there."""

import importlib
import io
import itertools
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
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


SHARES = {
    "CE": {
        "first": np.array([[0.9, 0.5, 0.1], [0.7, 0.3, 0.1]]),
        "second": np.array([[0.0, 0.4, 0.8], [0.0, 0.2, 0.8]]),
    },
    "iCE": {"first": np.full((2, 3), 0.6), "second": np.full((2, 3), 0.2)},
}


def judged():
    return figures.curves(np.array([0, 0.5, 1]), SHARES, "share of the way", "images judged to be", "On the way")


REGIONS = {
    "one": [np.array([[0, 1], [2, 2]]), np.zeros((2, 2), int)],
    "other": [np.full((2, 2), 11), np.eye(2, dtype=int)],
}
AXES = [(np.array([0.0, 1.0]), np.array([10.0, 12.0])), (np.array([-1.0, 1.0]), np.array([-1.0, 1.0]))]


def slices():
    rng = np.random.default_rng(0)
    return figures.decision_slices(
        AXES,
        REGIONS,
        [{"x": np.array([0.0, 10.0]), "y": np.array([1.0, 12.0])}, {}],
        [{"x": rng.random((6, 5, 1)), "y": rng.random((6, 5, 1))}, {"z": rng.random((6, 5, 3))}],
        "Planes",
    )


INFORMATION = {
    "D": {"CE": {"z_s": [2.0, 2.2], "z_n": [1.0, 1.5]}, "iCE": {"z_s": [2.3, 2.1], "z_n": [0.0, 0.2]}},
    "D_Adv": {"CE": {"z_s": [0.1, 0.3], "z_n": [1.1, 1.2]}, "iCE": {"z_s": [1.9, 1.8], "z_n": [0.0, 0.0]}},
}


def information():
    return figures.bar_panels(INFORMATION, "nats", "Information", (float(np.log(10)), "H(y)"))


PICTURES = {
    name: np.random.default_rng(i).random((5, 4, 6, channels))
    for i, (name, channels) in enumerate([("gray", 1), ("rgb", 3), ("other", 1)])
}


def gallery():
    return figures.image_grid(PICTURES, "Pictures")


FIGURES = {
    "metamer_grid": grid,
    "readings": chart,
    "curves": judged,
    "decision_slices": slices,
    "bar_panels": information,
    "image_grid": gallery,
    "logit_bars": lambda: figures.logit_bars({name: (PICTURES["gray"][:2], np.eye(5)[:2]) for name in "ab"}, "Logits"),
}


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
    assert figure._repr_png_() == path.read_bytes(), "a notebook shows the same picture"
    with Image.open(path) as image:
        image.load()
        pixels = np.asarray(image.convert("L"))
        assert image.size == tuple(np.round(figure.get_size_inches() * figure.dpi).astype(int))
    assert all(400 <= side <= 2000 for side in pixels.shape)
    assert pixels.min() < 60 and pixels.max() == 255 and (pixels < 200).mean() > 0.005  # dark lines on white
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_arrays_give_the_same_file(name, tmp_path):
    one, two = (figures.save(FIGURES[name](), tmp_path / f"{i}.png").read_bytes() for i in range(2))
    assert one == two


def test_an_image_grid_shows_each_image_in_the_row_of_its_name():
    figure = gallery()
    shown = iter(figure.axes)
    for name, images in PICTURES.items():
        for column, image in enumerate(images):
            axes = next(shown)
            np.testing.assert_array_equal(axes.images[0].get_array(), image.squeeze())
            assert axes.get_ylabel() == (name if column == 0 else "")
    assert next(shown, None) is None and figure.get_suptitle() == "Pictures"


def test_captions_stand_under_the_images_of_their_row():
    captions = {"rgb": [f"{i},\n{i} of 7 votes" for i in range(5)]}
    figure = figures.image_grid(PICTURES, "Pictures", captions=captions)
    assert [axes.get_xlabel() for axes in figure.axes] == [""] * 5 + captions["rgb"] + [""] * 5
    assert figure.get_size_inches()[1] > gallery().get_size_inches()[1]


def test_a_title_is_broken_into_lines_where_the_figure_is_narrow():
    title = "digits, l0: the judge sees another digit than before"
    narrow, wide = (figures.image_grid({"a": PICTURES["gray"][:n]}, title).get_suptitle() for n in (1, 5))
    assert narrow.replace("\n", " ") == title and "\n" in narrow and wide == title


def test_dots_lie_in_the_color_of_their_line_and_panels_with_other_lines_have_their_own_legends():
    x, line = np.array([0, 0.5, 1]), np.full((1, 3), 0.5)
    panels = {"known": {"a": line, "b": line}, "learnt": {"c": line}}
    figure = figures.curves(x, panels, "x", "y", "Curves", {"known": {"b": (x[:2], np.array([0.4, 0.6]))}})
    known, learnt = figure.axes
    (dots,) = [drawn for drawn in known.lines if drawn.get_marker() == "o"]
    assert dots.get_color() == known.lines[1].get_color() and list(dots.get_ydata()) == [40, 60]
    assert not figure.legends
    assert [text.get_text() for text in known.get_legend().get_texts()] == ["a", "b"]
    assert [text.get_text() for text in learnt.get_legend().get_texts()] == ["c"]


def test_more_columns_make_a_wider_figure():
    width = grid(columns=2).get_size_inches()[0]
    assert grid(columns=4).get_size_inches()[0] > 1.5 * width


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
    figures.save(grid(), path)  # a later figure replaces it
    assert path.read_bytes() != before and list(tmp_path.iterdir()) == [path]


# Matplotlib


@pytest.mark.parametrize("name", FIGURES)
def test_without_matplotlib_the_error_names_the_package_to_install(name, monkeypatch):
    for module in [module for module in sys.modules if module.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "invjax\[experiments\]"'):
        FIGURES[name]()


def test_importing_figures_does_not_import_matplotlib(monkeypatch):
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
    assert rows[3][0].get_ylabel() == "logits"
    assert grid().get_suptitle() == "Metamers of digits"


@pytest.mark.parametrize("classes", [2, 10])
def test_each_column_has_bars_and_dots_for_both_sets_of_logits(classes):
    arguments = grid_arguments(classes=classes)
    wanted, found = arguments["logits"], arguments["metamer_logits"]
    for column, axes in enumerate(cells(figures.metamer_grid(**arguments))[3]):
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], wanted[column], rtol=1e-6)
        np.testing.assert_allclose(axes.lines[0].get_ydata(), found[column], rtol=1e-6)
        colored = {k for k, bar in enumerate(axes.patches) if bar.get_facecolor()[:3] == to_rgb("#d1653a")}
        assert colored == {wanted[column].argmax()}
        assert [int(label.get_text()) for label in axes.get_xticklabels()] == list(range(classes))
        assert axes.get_xlabel().endswith(f"{np.abs(wanted[column] - found[column]).max():.0e}")
        assert axes.get_ylim()[0] < min(wanted.min(), found.min()) < max(wanted.max(), found.max()) < axes.get_ylim()[1]


# Readings


def bars(axes):
    """`[(center, height, colour)]` in the order of drawing."""
    return [(bar.get_x() + bar.get_width() / 2, bar.get_height(), bar.get_facecolor()) for bar in axes.patches]


def test_bars_are_means_in_percent_and_dots_are_seeds():
    (axes,) = chart().axes
    drawn = bars(axes)
    np.testing.assert_allclose([height for _, height, _ in drawn], [20, 6, 83, 55])
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    expected = [values for by_head in ERRORS.values() for values in by_head.values()]
    for line, (center, _, _), values in zip(dots, drawn, expected, strict=True):
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(values))
        np.testing.assert_allclose(line.get_xdata(), [center] * len(values))
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == ["20.0", "6.0", "83.0", "55.0", "chance"]


def test_bars_stand_at_the_label_of_their_classifier_and_in_the_colour_of_their_model():
    (axes,) = chart().axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["linear", "mlp"]
    drawn = bars(axes)
    assert [round(center) for center, _, _ in drawn] == [0, 1, 0, 1]
    assert drawn[0][2] == drawn[1][2] != drawn[2][2] == drawn[3][2]
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(edges))  # no bar overlaps another
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
    heights = {(label, round(center)): height for label, (center, height, _) in zip("aabb", bars(axes), strict=True)}
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


# Curves


def test_curves_are_means_in_percent_and_bands_are_ranges():
    panels = judged().axes
    assert [axes.get_title() for axes in panels] == ["CE", "iCE"]
    for axes, lines in zip(panels, SHARES.values(), strict=True):
        for line, band, values in zip(axes.lines, axes.collections, lines.values(), strict=True):
            np.testing.assert_allclose(line.get_xdata(), [0, 0.5, 1])
            np.testing.assert_allclose(line.get_ydata(), 100 * values.mean(0))
            corners = band.get_paths()[0].vertices
            for x, low, high in zip([0, 0.5, 1], values.min(0), values.max(0), strict=True):
                heights = corners[corners[:, 0] == x, 1]
                np.testing.assert_allclose([heights.min(), heights.max()], [100 * low, 100 * high])
            assert tuple(band.get_facecolor()[0][:3]) == to_rgb(line.get_color())
    (legend,) = judged().legends
    assert [text.get_text() for text in legend.get_texts()] == ["first", "second"]
    assert panels[0].get_ylabel() == "images judged to be, %" and panels[1].get_xlabel() == "share of the way"


# Decision regions


def planes(figure):
    """The axes of the planes, row by row: those with an image of one colour a class."""
    return [axes for axes in figure.axes if axes.images and axes.images[0].get_array().shape == (2, 2, 3)]


def test_each_plane_has_the_colours_of_its_labels_at_its_coordinates():
    figure = slices()
    (legend,) = figure.legends
    of_class = {
        text.get_text(): handle.get_facecolor()[:3]
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }
    assert list(of_class) == ["0", "1", "2", "11"]
    assert len(set(of_class.values())) == 3 and of_class["11"] == of_class["1"]  # ten colours, then again the first
    found = planes(figure)
    expected = [(name, column, region) for name, regions in REGIONS.items() for column, region in enumerate(regions)]
    for axes, (name, column, region) in zip(found, expected, strict=True):
        (image,) = axes.images
        for (row, cell), label in np.ndenumerate(region):
            np.testing.assert_allclose(image.get_array()[row, cell], of_class[str(label)])
        left, right, bottom, top = image.get_extent()
        (first, second), halves = AXES[column], (0.5, 1.0) if column == 0 else (1.0, 1.0)
        assert (left, right) == (first[0] - halves[0], first[1] + halves[0])  # cells are centered on their points
        assert (bottom, top) == (second[0] - halves[1], second[1] + halves[1])
        assert image.origin == "lower"
        assert axes.get_ylabel() == (name if column == 0 else "")


def test_points_are_marked_and_named_on_every_plane_of_their_column():
    found = planes(slices())
    for axes in found[::2]:
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines] == [(0, 10), (1, 12)]
        assert [text.get_text() for text in axes.texts] == ["x", "y"]
    for axes in found[1::2]:
        assert not axes.lines and not axes.texts


def test_images_are_drawn_above_their_plane():
    figure = slices()
    captions = [axes.get_title() for axes in figure.axes if axes not in planes(figure)]
    assert captions == ["x", "y", "z"]


# Panels of bars


def test_bars_are_means_and_dots_are_values_on_one_scale():
    panels = information().axes
    assert [axes.get_title() for axes in panels] == list(INFORMATION)
    for axes, groups in zip(panels, INFORMATION.values(), strict=True):
        expected = [values for bars in groups.values() for values in bars.values()]
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], [np.mean(v) for v in expected])
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        for bar, dot, values in zip(axes.patches, dots, expected, strict=True):
            np.testing.assert_allclose(dot.get_ydata(), values)
            np.testing.assert_allclose(dot.get_xdata(), bar.get_x() + bar.get_width() / 2)
        assert [text.get_text() for text in axes.texts[:4]] == [f"{np.mean(v):.3g}" for v in expected]
        (dashed,) = (line for line in axes.lines if line.get_linestyle() == "--")
        np.testing.assert_allclose(dashed.get_ydata(), np.log(10))
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["CE", "iCE"]
        assert axes.get_ylim() == panels[0].get_ylim() and axes.get_ylim()[1] > 2.3
    (legend,) = information().legends
    assert [text.get_text() for text in legend.get_texts()] == ["z_s", "z_n"]


def test_bars_without_a_reference_are_inside_the_figure():
    panels = figures.bar_panels(INFORMATION, "nats", "Information").axes
    assert not [line for axes in panels for line in axes.lines if line.get_linestyle() == "--"]
    assert panels[0].get_ylim()[1] > 2.2


def test_bars_of_one_name_have_no_legend_and_bars_of_unequal_groups_have_one_width():
    bars = {"panel": {"one": {"a": [50.0]}, "two": {"a": [0.00667], "b": [20.0]}}}
    panel = figures.bar_panels(bars, "%", "Unequal groups").axes[0]
    assert len({round(bar.get_width(), 6) for bar in panel.patches}) == 1
    assert [text.get_text() for text in panel.texts] == ["50", "0.01", "20"]
    assert not figures.bar_panels({"panel": {"one": {"a": [50.0]}}}, "%", "One name").legends


def test_bars_have_dots_for_several_values_and_room_for_their_numbers():
    one, several = (
        figures.bar_panels({"panel": {"one": {"a": values}}}, "%", "Dots").axes[0] for values in ([50.0], [40.0, 60.0])
    )
    assert not one.lines and several.lines[0].get_ydata().tolist() == [40, 60]
    groups = {str(i): {name: [50.0] for name in "abc"} for i in range(4)}
    wide = figures.bar_panels({"panel": groups}, "%", "Many bars")
    assert wide.get_figwidth() > 12 * 0.3


def test_published_numbers_are_stars_beside_their_bars():
    bars = {name: {"one": {"a": [50.0]}} for name in ("left", "right")}
    chart = figures.bar_panels(bars, "%", "Stars", published={"right": {"one": {"a": 80.0}}})
    stars = [[line for line in axes.lines if line.get_marker() == "*"] for axes in chart.axes]
    assert not stars[0] and [float(star.get_ydata()[0]) for star in stars[1]] == [80]
    assert chart.axes[0].get_ylim()[1] > 80
    assert {text.get_text() for text in chart.legends[0].get_texts()} == {"a", "published"}


def test_robustness_curves_at_the_same_place_are_all_visible():
    radii, accuracy = np.array([0.0, 0.1]), np.array([1.0, 0.5])
    axes = figures.robustness_curves({name: (radii, accuracy) for name in "abc"}, "Three of one kind").axes[0]
    widths = [line.get_linewidth() for line in axes.lines]
    assert widths[0] > widths[1] > widths[2] > 1


# Images with logits


def test_bars_are_the_logits_and_the_predicted_class_is_colored():
    rng = np.random.default_rng(0)
    columns = {name: (rng.random((2, 5, 5, 1)), rng.normal(size=(2, 4))) for name in ("an image", "a metamer")}
    figure = figures.logit_bars(columns, "Two columns")
    assert len(figure.axes) == 8 and figure.get_suptitle() == "Two columns"
    for column, (name, (images, logits)) in enumerate(columns.items()):
        assert figure.axes[column].get_title() == name
        for row in range(2):
            np.testing.assert_array_equal(figure.axes[4 * row + column].images[0].get_array(), images[row, ..., 0])
            bars = figure.axes[4 * row + 2 + column].patches
            np.testing.assert_allclose([bar.get_height() for bar in bars], logits[row])
            colors = [bar.get_facecolor() for bar in bars]
            (top,) = [k for k, color in enumerate(colors) if colors.count(color) == 1]
            assert top == logits[row].argmax()
    heights = {figure.axes[i].get_ylim() for i in (2, 3, 6, 7)}
    assert len(heights) == 1, "all bars have one scale"


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"a": (np.zeros((2, 3, 3, 1)), np.zeros((1, 4)))},
        {"a": (np.zeros((1, 3, 3, 1)), np.zeros((1, 4))), "b": (np.zeros((1, 3, 3, 1)), np.zeros((1, 5)))},
    ],
)
def test_columns_of_different_sizes_are_refused(columns):
    with pytest.raises(ValueError, match=r"images .n, H, W, C. and logits .n, K. of the same n and K"):
        figures.logit_bars(columns, "")
