"""Every public name is documented: a summary, every argument, and every field of a record."""

import importlib
import inspect
import re
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest

import invjax

REPOSITORY = Path(__file__).parents[2]
LIBRARY = REPOSITORY / "invjax"
PAGES = [
    "invjax",
    *(
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(LIBRARY.rglob("*.py"))
        if path.parent != LIBRARY or path.name in ("types.py", "interop.py")
        if not any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(LIBRARY).parts)
    ),
]
SECTION = r"^{}:\n((?:[ \t]+.*\n?|\n)*)"


def section(text, name):
    """The lines of a Google section such as `Args:`, or an empty string."""
    found = re.search(SECTION.format(name), text, flags=re.MULTILINE)
    return inspect.cleandoc(found[1]) if found else ""


def entries(text, *names):
    """The names that a section describes: `name: what it is`, also `a, b: what they are`."""
    lines = "\n".join(section(text, name) for name in names)
    described = re.findall(r"^([\w*, ]+?)(?: \([^)]*\))?: *\S", lines, re.MULTILINE)
    return {name.strip("* ") for line in described for name in line.split(",")}


def public_names(page):
    module = importlib.import_module(page)
    offered = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == page
    ]
    return {name: getattr(module, name) for name in offered if not isinstance(getattr(module, name), types.ModuleType)}


def faults_of_function(name, function):
    """What the docstring of a function lacks."""
    text = inspect.getdoc(function) or ""
    if not text:
        return [f"{name} has no docstring"]
    faults = []
    if not re.search(r"[.:?]$", text.split("\n\n")[0].strip().splitlines()[-1]):
        faults.append(f"{name}: the summary is not a sentence")
    given = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
    missing = [p for p in given if p not in entries(text, "Args")]
    if missing:
        faults.append(f"{name}: Args does not name {', '.join(missing)}")
    return faults


def is_record(value):
    return inspect.isclass(value) and issubclass(value, tuple) and hasattr(value, "_fields")


def fields_said(record):
    """The fields that a record describes: in `Attributes`, or each below its own line."""
    text = inspect.getdoc(record) or ""
    said = entries(text, "Attributes", "Args")
    source = inspect.getsource(record)
    said |= set(re.findall(r'^    (\w+):[^\n]*\n    r?"""', source, flags=re.MULTILINE))
    said |= set(re.findall(r"^    (\w+):[^\n]*#", source, flags=re.MULTILINE))
    return said


def faults_of_class(name, value):
    text = value.__dict__.get("__doc__") or ""
    faults = []
    if not text.strip() or text.startswith(f"{value.__name__}("):
        faults.append(f"{name} has no docstring")
    if is_record(value):
        missing = [field for field in value._fields if field not in fields_said(value)]
        if missing:
            faults.append(f"{name}: the fields {', '.join(missing)} are not described")
    for method, function in vars(value).items():
        if inspect.isfunction(function) and not method.startswith("_") and value.__module__ == function.__module__:
            faults += faults_of_function(f"{name}.{method}", function)
    return faults


@pytest.mark.parametrize("page", PAGES)
def test_every_public_name_is_documented(page):
    faults = [] if (importlib.import_module(page).__doc__ or "").strip() else [f"{page} has no docstring"]
    for name, value in public_names(page).items():
        if inspect.isclass(value):
            faults += faults_of_class(f"{page}.{name}", value)
        elif inspect.isfunction(function := inspect.unwrap(value)):  # also under a decorator such as `jax.custom_vjp`
            faults += faults_of_function(f"{page}.{name}", function)
    assert not faults, "\n".join(faults)


def test_the_reference_has_a_page_for_each_public_module():
    assert {"invjax", "invjax.types", "invjax.interop", "invjax.attacks", "invjax.attacks.building"} <= set(PAGES)
    assert {f"invjax.{name}" for name in invjax.__all__} - set(PAGES) <= {"invjax.fast_convs"}


def test_a_fault_is_found():
    def undocumented(x):
        """Double."""

    def half(x, y):
        """Add.

        Args:
            x: a number.

        Returns:
            The sum.
        """

    class Pair(typing.NamedTuple):
        """Two numbers.

        Attributes:
            first: the first number.
        """

        first: int
        second: int

    assert faults_of_function("undocumented", undocumented) == ["undocumented: Args does not name x"]
    assert faults_of_function("half", half) == ["half: Args does not name y"]
    assert faults_of_class("Pair", Pair) == ["Pair: the fields second are not described"]


@pytest.mark.slow
def test_the_reference_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "pdoc", "-d", "google", "--math", "-o", str(tmp_path), "invjax"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and "Warn" not in done.stderr + done.stdout, done.stderr[-3000:]
    for page in PAGES:
        assert (tmp_path / f"{page.replace('.', '/')}.html").exists(), page
