"""The tests run on the CPU, strictly: no silent broadcasting between ranks, no warning that is not named in
pyproject.toml."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "xla"

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)  # for the data-parallel tests; everything else runs on the first device
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# jaxtyping annotations are checked under pytest only: users pay nothing for them
install_import_hook("invjax", "beartype.beartype")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests without it are skipped, except in continuous integration."""
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
