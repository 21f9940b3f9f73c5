"""The machine of a run: its devices, its versions, and the commit of the code."""

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def use_all_cores() -> None:
    """On a CPU, make one JAX device for each core.

    XLA runs many convolutions on one thread, so experiments spread a batch over devices. The number of devices is a
    power of two and at most 8, which divides the usual batch sizes. Call this before anything else uses JAX. Later
    runs reuse the compiled programs, which are cached on disk.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(8, 1 << (cores.bit_length() - 1)))
    cache = Path(os.environ.get("INVJAX_CACHE", Path.home() / ".cache" / "invjax")) / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def join_processes(distributed: bool) -> None:
    """Make this process one of several that compute a run together, before anything else uses a device.

    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` in the environment say which process it is.

    Args:
        distributed: whether to join without these variables, as the machine says: a pod of TPU VMs, Slurm, Open MPI.

    Raises:
        ValueError: the environment has some of the three variables, or the machine does not know of other processes.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    missing = [name for name in names if name not in os.environ]
    if len(missing) == len(names) and not distributed:
        return
    if 0 < len(missing) < len(names):
        raise ValueError(f"the environment has no {' and no '.join(missing)}; give all of {', '.join(names)}, or none")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if missing:
        jax.distributed.initialize()
    else:
        address, count, number = (os.environ[name] for name in names)
        jax.distributed.initialize(address, int(count), int(number))


def agreed(value: bool) -> bool:
    """What the first of several processes says; all wait for each other here."""
    return value if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def environment(command: str) -> dict[str, Any]:
    """The command, date, machine and package versions of a run, for reproducing its numbers."""
    device = jax.devices()[0]
    names = ("invjax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.device_count()} x {_processor() if device.platform == 'cpu' else device.device_kind}",
        "platform": device.platform,
        "python": platform.python_version(),
        **_commit(),
        "packages": {name: metadata.version(name) for name in names if _installed(name)},
    }


def _commit() -> dict[str, Any]:
    """The commit of the code, and whether the tree had no other changes; nothing outside of a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit[:10], "clean": not changes.strip()}


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
