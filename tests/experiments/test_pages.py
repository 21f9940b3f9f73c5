"""The generated pages of results: every number comes from a published table."""

import json

import pytest

from experiments import common
from experiments.__main__ import titles
from experiments.common import row

NAME = "excessive_invariance/metamers"


@pytest.fixture
def results(tmp_path):
    """A folder with two published runs of one result, notes, a benchmark, and a README."""
    rows = {"default-mnist": [row("error", [1.5, 2.5], "%", published=1.0), row("bound", [0.5], expected=0.25)],
            "planted-mnist": [row("error", [7.0], "%", "planted")]}  # fmt: skip
    about = {"command": "python -m x default", "device": "1 x CPU", "date": "2026-01-01", "packages": {"jax": "0.10"}}
    for run, table in rows.items():
        folder = tmp_path / NAME / run
        folder.mkdir(parents=True)
        (folder / "table.json").write_text(json.dumps([entry._asdict() for entry in table]))
        (folder / "environment.json").write_text(json.dumps(about))
        (folder / "picture.png").write_bytes(b"")
    notes = "The error is {{error}},\nand {{planted-mnist: error}} with a pattern.\n\nMore text.\n"
    (tmp_path / NAME / "notes.md").write_text(notes)
    (tmp_path / "benchmarks").mkdir()
    benchmark = {"environment": about | {"load": 0.5}, "rows": [{"name": "ratio", "goal": 1.2, "measured": 2.0,
                                                                 "unit": "x", "met": False}]}  # fmt: skip
    (tmp_path / "benchmarks" / "loops.json").write_text(json.dumps(benchmark))
    lines = [{"result": NAME, "row": "error", "finding": "errors are low"},
             {"result": NAME, "run": "planted-mnist", "row": "error", "finding": "a pattern hurts"}]  # fmt: skip
    (tmp_path / "headlines.json").write_text(json.dumps(lines))
    (tmp_path / "HOME.md").write_text("before\n<!-- headlines -->\nold\n<!-- headlines -->\nafter\n")
    return tmp_path


def write(results):
    return common.write_pages({NAME: "figure 1", "quickstart": "no run"}, results, results / "HOME.md")


def test_pages_show_the_tables_figures_and_notes(results):
    changed = {path.name for path in write(results)}
    assert changed == {"README.md", "benchmarks.md", "excessive_invariance.md", "HOME.md"}
    page = (results / "excessive_invariance.md").read_text()
    assert "The error is 2 ± 0.71 %,\nand 7 % with a pattern.\n\nMore text." in page
    assert "| error, % | 1 | – | 2 ± 0.71 |" in page and "| bound | – | 0.25 | 0.5 |" in page
    assert "| error, % | – | 7 | planted |" in page
    assert f"![picture]({NAME}/planted-mnist/picture.png)" in page
    index = (results / "README.md").read_text()
    finding = "The error is 2 ± 0.71 %, and 7 % with a pattern."
    assert f"| [figure 1](excessive_invariance.md#metamers) | {finding} | 1 | error: 2 ± 0.71 % |" in index
    assert "no run" not in index
    assert "| ratio | 1.2 | 2 x | **no** |" in (results / "benchmarks.md").read_text()


def test_a_result_may_choose_its_headline(results):
    notes = results / NAME / "notes.md"
    notes.write_text("headline: bound\n" + notes.read_text())
    write(results)
    assert "| – | bound: 0.5 |" in (results / "README.md").read_text()
    assert "headline:" not in (results / "excessive_invariance.md").read_text()


def test_the_headlines_stand_between_their_marks(results):
    write(results)
    text = (results / "HOME.md").read_text()
    assert text.startswith("before\n<!-- headlines -->\n| finding |") and text.endswith(
        "|\n<!-- headlines -->\nafter\n"
    )
    assert (
        "| errors are low | 1 % | 2 ± 0.71 % | [default-mnist](experiments/results/excessive_invariance.md#metamers) |"
        in text
    )
    assert (
        "| a pattern hurts | – | 7 % | [planted-mnist](experiments/results/excessive_invariance.md#metamers) |" in text
    )


def test_a_changed_table_makes_its_pages_stale_until_they_are_written_again(results):
    write(results)
    arguments = {NAME: "figure 1"}, results, results / "HOME.md"
    assert common.stale(*arguments) == [] == common.write_pages(*arguments)
    path = results / NAME / "default-mnist" / "table.json"
    path.write_text(path.read_text().replace('"measured": 2.0', '"measured": 3.0'))
    assert {page.name for page in common.stale(*arguments)} == {"README.md", "excessive_invariance.md", "HOME.md"}
    assert "3 ± 0.71" not in (results / "HOME.md").read_text()
    common.write_pages(*arguments)
    assert "3 ± 0.71" in (results / "HOME.md").read_text() and common.stale(*arguments) == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("notes.md", "{{eror}}", "names 'eror', and default-mnist has no such row; it has error; bound"),
        ("../../headlines.json", '[{"result": "none", "row": "error", "finding": ""}]', "which was not published"),
        ("notes.md", "headline: eror\n", "the headline of .* is 'eror', and default-mnist has no such row"),
        ("../../HOME.md", "no mark", "must have the line <!-- headlines --> before and after"),
    ],
)
def test_a_name_that_was_not_published_is_refused(results, file, text, message):
    (results / NAME / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        write(results)


def test_the_pages_of_this_repository_are_up_to_date():
    assert common.stale(titles()) == [], "run `python -m experiments report`"
