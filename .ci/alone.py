"""The installed wheel on its own: what it holds, and that every package imports and runs an example."""

import doctest
import importlib
import importlib.metadata
import pkgutil
import sys
import zipfile

import jax

import invjax

names = zipfile.ZipFile(sys.argv[1]).namelist()
foreign = [name for name in names if not name.startswith(("invjax/", f"invjax-{invjax.__version__}.dist-info/"))]
assert not foreign, f"the wheel holds more than the library: {foreign}"
assert "invjax/py.typed" in names and any(name.endswith("licenses/LICENSE") for name in names)
assert importlib.metadata.version("invjax") == invjax.__version__

for package in sorted(invjax.__all__):
    if package in ("fast_convs", "figures"):  # a function, and what needs the experiments extra to draw
        getattr(invjax, package)
        continue
    module = importlib.import_module(f"invjax.{package}")
    modules = [module]
    if hasattr(module, "__path__"):
        found = pkgutil.walk_packages(module.__path__, f"{module.__name__}.")
        modules += [importlib.import_module(each.name) for each in found]
    examples = [
        test for each in modules for test in doctest.DocTestFinder().find(each, globs=vars(each)) if test.examples
    ]
    runner = doctest.DocTestRunner()
    assert examples or not hasattr(module, "__path__"), f"{package} has no example"
    for test in examples[:1]:
        runner.run(test)
    assert not runner.failures, package
    print(f"{package}: {len(modules)} modules imported, {min(1, len(examples))} of {len(examples)} examples run")
    jax.clear_caches()
