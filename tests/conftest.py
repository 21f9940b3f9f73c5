"""Settings of all tests: CPU only, no silent broadcasting between ranks, and every warning is an error.

Compilation takes most of the time, so XLA is told to optimise little, which makes the tests twice as fast. With
`INVJAX_TESTS_OPTIMIZED=1` it optimises as it does for users. Compiled programs are kept on disk between runs, and are
dropped from memory when a worker has grown large.
"""

import contextlib
import errno
import gc
import io
import os
from importlib.metadata import version
from pathlib import Path

# in the environment, which the processes that tests start inherit: equal programs give equal bits
if os.environ.get("INVJAX_TESTS_OPTIMIZED", "0") == "0":
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if version("jaxlib").startswith("0.10."):  # newer versions lack this flag
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"

import jax
import pytest
from jaxtyping import install_import_hook

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "xla"

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)  # for the data-parallel tests; everything else runs on the first device
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)  # writing smaller ones costs more

# beartype checks the jaxtyping annotations under pytest only, so users have no overhead
install_import_hook("invjax", "beartype.beartype")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Use all cores, one file of tests a worker, unless the command names files or a number of workers."""
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return  # a worker must not start workers of its own
    if config.pluginmanager.hasplugin("_cov"):
        return  # pytest-cov has already chosen how to measure; it needs -n on the command line
    if config.option.numprocesses is None and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.option.numprocesses = "auto"
    if config.option.dist == "no":
        config.option.dist = "loadfile"


def _megabytes() -> float:
    """The memory of this process, or infinity where the system does not tell."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if status.exists() else float("inf")


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_are_dropped():
    """After a file of tests, drop the compiled programs of a worker that has grown large."""
    yield
    if _megabytes() > 1200:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests skip without it, and fail in continuous integration."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{folder} is missing, and CI=true says it must be there")
        pytest.skip(f"needs real data in {folder}")
    return folder


@pytest.fixture
def float64():
    """Double precision inside one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def read_only(monkeypatch):
    """`with read_only():` lets nothing be written. Permissions would not do, because root may write everywhere."""

    def refused(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def reading(path, mode="r", *arguments, **options):
        return refused(path) if set(mode) & set("wax+") else io_open(path, mode, *arguments, **options)

    @contextlib.contextmanager
    def blocked():
        with monkeypatch.context() as patch:
            for name in ("mkdir", "replace", "rename", "unlink", "rmdir"):
                patch.setattr(os, name, refused)
            patch.setattr(os, "access", lambda path, mode, **options: not mode & os.W_OK)
            patch.setattr(io, "open", reading)
            patch.setattr("builtins.open", reading)
            yield

    io_open = io.open
    return blocked
