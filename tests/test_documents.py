"""The examples of the README and the notebooks run and print plausible numbers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "colabs").glob("*.ipynb"))


def run(program: str, cwd: Path) -> str:
    """Run a program in a fresh interpreter on one CPU device, compiled as for users, and give what it prints."""
    prelude = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
    as_users = {
        name: value for name, value in os.environ.items() if name not in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
    }
    done = subprocess.run(
        [sys.executable, "-c", prelude + program], cwd=cwd, capture_output=True, text=True, env=as_users
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_examples_of_the_readme_run_in_their_order(tmp_path, shared_data, monkeypatch):
    examples = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.DOTALL)
    assert len(examples) == 5
    monkeypatch.setenv("INVJAX_DATA", str(shared_data))
    printed = run("\n".join(examples), tmp_path)
    assert re.search(r"clean accuracy 100.0%, robust accuracy \d+.\d%", printed)
    assert float(re.search(r"largest difference of a logit (\S+)", printed)[1]) < 1e-4
    assert 0 < float(re.search(r"certified accuracy (\S+)", printed)[1]) <= 1
    assert len(re.findall(r"the model agrees with people on \d+% of the changed images", printed)) == 4


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 180


def exact_metamers(printed):
    differences = [float(value) for value in re.findall(r"largest difference of any logit (\S+)", printed)]
    assert len(differences) == 2 and max(differences) < 1e-4


def four_models_attacked(printed):
    attacked = re.findall(r"(\w+): accuracy +(\d+)%, +(\d+)% at eps", printed)
    assert [name for name, _, _ in attacked] == ["linen", "nnx", "equinox", "bare"]
    assert all(int(clean) > 90 and int(robust) < 80 for _, clean, robust in attacked)
    plain, hardened = (re.findall(rf"{name}: +\d+% +\d+% +(\d+)%", printed) for name in ("linen", "linen, hardened"))
    assert int(hardened[0]) > int(plain[0]) + 15  # at eps 0.1
    assert "robust accuracy, l2, eps 0.8" in printed
    healthy, masked = printed.split("linen, with a softmax\n")
    assert "nothing suspicious" in healthy and "the outputs are probabilities" in masked


def metamers_on_the_way(printed):
    def differences(kind):
        return [float(value) for value in re.findall(rf"largest logit difference, {kind} (\S+)", printed)]

    assert len(differences("float32")) == 2 and max(differences("float32")) < 1e-3
    assert len(differences("float64")) == 2 and max(differences("float64")) < 1e-9
    assert min(differences(r"clipped to \[0, 1\]")) > 0.1
    kept = [[int(share) for share in re.findall(r"(\d+)%", line)] for line in re.findall(r"digit of a:(.*)", printed)]
    assert len(kept) == 2 and all(shares[0] > 85 and shares[-1] < shares[0] for shares in kept)
    bounds = re.findall(r"(\S+), +\S+ head: error +\S+, at least (\S+) nats", printed)
    assert [name for name, _ in bounds] == ["CE", "CE", "iCE", "iCE"] and float(bounds[0][1]) > float(bounds[2][1])


def power_law_explained(printed):
    laws = re.findall(r"exponent (\S+), 95 % interval (\S+) to (\S+)", printed)
    assert len(laws) == 3 and all(0.5 < float(low) < float(b) < float(high) for b, low, high in laws)
    assert float(laws[2][0]) > float(laws[0][0]) + 0.3  # step l.l. against FGSM
    assert int(re.findall(r"runner-up crosses first: (\d+)%", printed)[0]) > 75
    assert printed.count("independent: ") == 3


def robust_and_too_invariant(printed):
    assert 15 < int(re.findall(r"(\d+)% of the images have changed their meaning", printed)[0]) < 60

    def values(model):
        return {name: float(value) for name, value in re.findall(rf" {model}: ([^:\n]+): (\S+)\n", printed)}

    plain, robust = values("plain"), values("robust")
    assert robust["robust accuracy, linf, eps 0.25"] > plain["robust accuracy, linf, eps 0.25"] + 0.2
    seen = "agreement where another class is seen, moved"
    assert plain[seen] > robust[seen] + 0.2 and plain["invariance error, moved"] < robust["invariance error, moved"]


def certified_below_attacked(printed):
    found = re.findall(r"clean accuracy (\S+)%, certified accuracy (\S+)%, robust accuracy (\S+)%", printed)
    clean, certified, robust = np.array(found, float).T
    assert len(found) == 3 and (certified <= robust).all() and (robust <= clean).all()
    assert (clean > 85).all() and (certified > [80, 80, 40]).all()


def certified_and_wrong(printed):
    found = re.findall(r"(\w+): test error +(\S+)%, certified at 0\.2: (\d+)%", printed)
    (_, _, of_plain), (_, error, of_certified) = found
    assert int(of_plain) < 5 and int(of_certified) > 45 and float(error) < 8
    values = dict(re.findall(r"(certified accuracy|robust accuracy|clean error)\S* ?.*: (\S+)\n", printed))
    assert 0.4 < float(values["certified accuracy"]) <= float(values["robust accuracy"])
    (counted,) = re.findall(r"another digit: (\d+) of (\d+) changed images; .* in (\d+) of them", printed)
    wrong, changed, kept = map(int, counted)
    assert 0 < wrong == kept <= changed


def non_robust_features_taught(printed):
    found = re.findall(r"(D_\w+), (\w+): original labels (\d+)%, the next class (\d+)%", printed)
    learnt = {(kind, source): (int(original), int(following)) for kind, source, original, following in found}
    assert learnt["D_rand", "standard"][0] > 80 > learnt["D_rand", "robust"][0]
    assert learnt["D_det", "standard"][0] > 15 > learnt["D_det", "robust"][0]
    assert learnt["D_det", "robust"][1] > 75
    attacked = {arm: int(value) for arm, value in re.findall(r"\n(D\S*): accuracy \d+%, at eps 0\.4 (\d+)%", printed)}
    plain, robust = re.findall(r"D, (?:standard|robust) training: accuracy \d+%, at eps 0\.4 (\d+)%", printed)
    assert int(robust) > attacked["D_R"] > max(int(plain), attacked["D_NR"]) + 4
    cosines = [float(value) for value in re.findall(r"cosine of gradient and mean (\S+)", printed)]
    assert len(cosines) == 3 and cosines == sorted(cosines) and cosines[-1] > 0.9


SHOWN = {
    "quickstart": exact_metamers,
    "attack_your_model": four_models_attacked,
    "metamers": metamers_on_the_way,
    "why_adversarial_examples": power_law_explained,
    "too_invariant": robust_and_too_invariant,
    "certified_and_wrong": certified_and_wrong,
    "robust_features": non_robust_features_taught,
    "certify_your_network": certified_below_attacked,
}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert cells[0].splitlines()[-1].startswith("%pip install")
    SHOWN[path.stem](run("\n".join(cells[1:]), tmp_path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


def test_the_readme_has_the_two_commands_word_for_word():
    text = (REPOSITORY / "README.md").read_text()
    assert 'pip install -e ".[experiments]" && python -m experiments quickstart' in text
    assert 'pip install -e ".[test]" && pytest' in text


@pytest.mark.parametrize("name", ["README.md", "BUILD_NOTES.md", "experiments/README.md"])
def test_no_document_has_a_place_that_was_left_open(name):
    text = (REPOSITORY / name).read_text()
    assert not re.findall(r"@@|TODO|FIXME|XXX", text)
    linked = re.findall(r"\]\((experiments/[^)#]+|BUILD_NOTES.md)\)", text)
    assert all((REPOSITORY / path).exists() for path in linked)
