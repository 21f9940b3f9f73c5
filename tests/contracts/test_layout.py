"""The layout of the library: what each package offers, who imports whom, and how long modules and functions are."""

import ast
import collections
import importlib
import json
import re
import statistics
import subprocess
import sys
import types
from pathlib import Path

import pytest

import invjax

REPOSITORY = Path(__file__).parents[2]
LIBRARY = REPOSITORY / "invjax"
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(LIBRARY.rglob("*.py"))
}
FACES = [name for name, path in MODULES.items() if path.name == "__init__.py" and "." in name and "._" not in name]


def code_of(path):
    """The Python code of a module, a notebook or a document."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return "\n".join(re.sub(r"^[%!].*$", "", cell, flags=re.MULTILINE) for cell in cells)
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)) if path.suffix == ".md" else text


USERS = {
    str(path.relative_to(REPOSITORY)): path
    for folder, pattern in (("experiments", "*.py"), ("colabs", "*.ipynb"), (".", "README.md"))
    for path in sorted((REPOSITORY / folder).rglob(pattern) if folder != "." else [REPOSITORY / pattern])
}


def imported(tree):
    """`(module, name or None, node)` of each import, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, alias.asname or alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno} imports by a relative name"
            yield from ((node.module, alias.name, alias.asname or alias.name) for alias in node.names)


# what a package offers --------------------------------------------------------------------------------------------


def test_every_package_is_there_after_importing_the_library():
    assert {name.split(".")[1] for name in FACES if name.count(".") == 1} <= set(invjax.__all__)
    for name in invjax.__all__:
        assert getattr(invjax, name).__name__ in (f"invjax.{name}", name)
    with pytest.raises(AttributeError, match="its packages are analysis, attacks"):
        invjax.nonsense  # noqa: B018


def test_importing_the_library_loads_no_optional_dependency():
    program = """
import sys
import invjax
from invjax import analysis, attacks, bijectors, bounds, evaluation, features, losses, models, theory, training
heavy = {"matplotlib", "tensorflow_datasets", "tensorflow", "sklearn", "scipy.stats", "orbax", "tyro", "tqdm", "PIL"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def order(name):
    """Constants, then classes, then functions, each by the alphabet."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2, name


@pytest.mark.parametrize("face", FACES)
def test_every_package_lists_its_public_names(face):
    module = importlib.import_module(face)
    assert module.__all__ == sorted(module.__all__, key=order)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    offered = {
        public
        for _, _, public in imported(ast.parse(MODULES[face].read_text()))
        if public is not None and not public.startswith("_")
    }
    assert offered <= set(module.__all__)
    assert module.__doc__ and not [name for name in module.__all__ if name.startswith("_")]


@pytest.mark.parametrize("face", FACES)
def test_no_submodule_hides_behind_a_function_of_its_name(face):
    module = importlib.import_module(face)
    for name in MODULES:
        package, _, stem = name.rpartition(".")
        if package == face:  # importing the submodule here could replace the function
            assert isinstance(getattr(module, stem, module), types.ModuleType), f"{name} is hidden"


# who imports whom -------------------------------------------------------------------------------------------------


def test_packages_do_not_import_each_other_in_circles():
    """A package or module directly under `invjax` is one node."""
    graph = collections.defaultdict(set)
    for name, path in MODULES.items():
        for module, what, _ in imported(ast.parse(path.read_text())):
            assert (module, what) != ("invjax", None), f"{name} imports the whole library"
            target = f"{module}.{what}" if module == "invjax" else module
            if target and target.startswith("invjax.") and name != "invjax":
                graph[name.split(".")[1]].add(target.split(".")[1])
    finished = set()

    def visit(node, above):
        assert node not in above, f"circular imports: {' -> '.join([*above, node])}"
        if node not in finished:
            for target in graph[node] - {node}:
                visit(target, [*above, node])
            finished.add(node)

    for node in list(graph):
        visit(node, [])
    assert {"attacks", "evaluation", "training"} <= finished


def test_optional_dependencies_are_imported_in_one_place_each():
    where = collections.defaultdict(set)
    for name, path in MODULES.items():
        for module, _, _ in imported(ast.parse(path.read_text())):
            where[(module or "").partition(".")[0]].add(name)
    assert all(name.startswith("invjax.figures.") for name in where["matplotlib"])
    assert where["orbax"] == {"invjax.training._checkpoints"}
    assert where["tqdm"] == {"invjax._progress"}


@pytest.mark.parametrize("user", USERS)
def test_experiments_and_documents_use_public_names_that_exist(user):
    tree = ast.parse(code_of(USERS[user]))
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assigned |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    known = {}  # names that stand for modules of the library
    for module, name, alias in imported(tree):
        if module.partition(".")[0] != "invjax":
            continue
        assert not any(part.startswith("_") for part in module.split(".")), f"{user} imports {module}"
        found = importlib.import_module(module)
        if name is None:
            known[alias] = found if alias != "invjax" else invjax
        else:
            assert not name.startswith("_") and hasattr(found, name), f"{user} imports {module}.{name}"
            assert name in getattr(found, "__all__", [name]), f"{module} does not list {name} in __all__"
            if isinstance(getattr(found, name), types.ModuleType):
                known[alias] = getattr(found, name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            path, root = [node.attr], node.value
            while isinstance(root, ast.Attribute):
                path, root = [root.attr, *path], root.value
            if isinstance(root, ast.Name) and root.id in known and root.id not in assigned:
                assert not missing(known[root.id], path), f"{user} mentions {root.id}.{'.'.join(path)}"


def missing(module, path):
    """Whether a module of the library lacks the first of these names that is not a module."""
    for name in path:
        if not isinstance(module, types.ModuleType):
            return False
        if name not in [*getattr(module, "__all__", dir(module)), "__version__"] or not hasattr(module, name):
            return True
        module = getattr(module, name)
    return False


@pytest.mark.parametrize("document", ["README.md", ".github/CONTRIBUTING.md", "experiments/README.md"])
def test_names_in_the_sentences_of_a_document_exist(document):
    text = (REPOSITORY / document).read_text()
    named = re.findall(r"`(?:invjax\.)?((?:" + "|".join(invjax.__all__) + r")(?:\.[A-Za-z_]\w*)+)(?:\(|`)", text)
    assert [name for name in named if missing(invjax, name.split("."))] == []


# sizes ------------------------------------------------------------------------------------------------------------


def test_modules_are_short():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 300} == {}
    assert statistics.median(lengths.values()) <= 150


def test_functions_are_short():
    """At most 60 lines of code, without the docstring."""
    long = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                documented = ast.get_docstring(node) is not None
                lines = node.end_lineno - node.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)
                long |= {f"{name}.{node.name}": lines} if lines > 60 else {}
    assert long == {}
