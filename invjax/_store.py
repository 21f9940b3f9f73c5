"""Files that are written whole or not at all, hashes of arrays, and results that a later call can continue.

Results, data sets, figures and metrics are written here and nowhere else. (Checkpoints are written by orbax, and
`data.load` keeps a cache of decoded images on every host.)
"""

import errno
import hashlib
import json
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_ROWS = 1024
"""The number of rows that `digest` hashes at a time."""

_IDENTITY = "__identity__"
"""The entry of a kept `.npz` that identifies its run."""


def local_path(path: str | Path) -> Path:
    """The path with `~` expanded.

    Raises:
        ValueError: the path is an address such as "gs://bucket/run".
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", str(path)):
        raise ValueError(
            f"files are kept on local disks only; got {path}; mount the bucket, or copy the files afterwards"
        )
    return Path(path).expanduser()


_HELD: set[Path] = set()
"""The folders that this process holds, because a lock of the system does not keep out its own process."""


@contextmanager
def sole_writer(directory: Path | None) -> Iterator[None]:
    """Hold a folder while a run writes to it. The lock ends with the process, however it ends.

    Several hosts that run one program together take no lock.

    Args:
        directory: the folder; None holds nothing.

    Raises:
        ValueError: another run holds the folder.
    """
    if directory is None or fcntl is None or jax.process_count() > 1:
        yield
        return
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    busy = f"another run writes to {directory}; wait for it, or use another folder"
    if directory in _HELD:
        raise ValueError(busy)
    with (directory / ".lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # forked workers do not inherit it
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(busy) from error
        except OSError:  # this file system has no locks
            pass
        _HELD.add(directory)
        try:
            yield
        finally:
            _HELD.discard(directory)


def write_file(path: str | Path, content: str | bytes | Callable[[BinaryIO], Any]) -> None:
    """Write a file whole or not at all. With several hosts, only the first one writes.

    Args:
        path: where to write the file; missing folders are created.
        content: text, bytes, or a function `file -> None` that writes to an open binary file.

    Raises:
        OSError: the file could not be written, for example because the disk is full. An older file stays as it was.
    """
    if jax.process_index() != 0:
        return
    path = local_path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # a full disk may show only here
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise could_not_write(path, error) from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; a failure may leave a part of the line, without its end.

    Raises:
        OSError: as for `write_file`; the lines before are intact.
    """
    try:
        with path.open("a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise could_not_write(path, error) from error


def could_not_write(path: str | Path, error: OSError) -> OSError:
    """The error of a failed write, with the file and the fix in one line."""
    fix = "make room" if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) else "mend this"
    return OSError(
        f"could not write {path}: {error.strerror or error}; {fix} and run again: earlier files are complete "
        "and will be used"
    )


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all.

    Args:
        path: where to write the file; missing folders are created.
        value: dictionaries, lists, strings, numbers, truth values and None.

    Raises:
        TypeError: the value holds something else, such as an array. No file is written.
        OSError: as for `write_file`.
    """
    write_file(path, json.dumps(value, indent=1) + "\n")


def write_arrays(path: str | Path, arrays: Mapping[str, Any], *, compress: bool = False) -> None:
    """Write arrays as a `.npz`, whole or not at all.

    Args:
        path: where to write the `.npz`; missing folders are created.
        arrays: the arrays, by name.
        compress: whether to compress the arrays.

    Raises:
        ValueError: an array has a dtype that NumPy cannot read back, such as bfloat16. No file is written.
        OSError: as for `write_file`.
    """
    contents: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in contents.items():
        if array.dtype.kind == "V" or array.dtype.hasobject:
            raise ValueError(f"{name} has the dtype {array.dtype}, which a .npz cannot hold; convert it to float32")
    write_file(path, lambda file: (np.savez_compressed if compress else np.savez)(file, **contents))


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of a `.npz`.

    Args:
        path: the `.npz` to read.

    Returns:
        The arrays, by name.

    Raises:
        ValueError: the file is damaged.
    """
    with local_path(path).open("rb") as stream:  # np.load(path) leaves a damaged file open
        try:
            with np.load(stream) as file:
                return dict(file)
        except _DAMAGE as error:
            raise ValueError(f"{path} is damaged ({error}); remove it") from error


_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    RuntimeError,
    OSError,
)
"""What `np.load` raises for files that are damaged."""


def digest(arrays: Mapping[str, Any]) -> str:
    """SHA-256 of names, dtypes, shapes and values, in the order of the names.

    >>> digest({"x": np.zeros(2)}) == digest({"x": np.zeros(2, np.float32)})
    False

    Args:
        arrays: the arrays by name. Each needs a dtype, a shape, a length and slices, so it may be read in parts.
    """
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name} {array.dtype} {tuple(array.shape)};".encode())
        parts = [array] if not array.shape else (array[i : i + _ROWS] for i in range(0, len(array), _ROWS))
        for rows in parts:
            found.update(np.ascontiguousarray(rows).tobytes())
    return found.hexdigest()


def digest_tree(tree: Any) -> str:
    """SHA-256 of a pytree of arrays, named by their paths. A typed key is hashed as its data."""

    def plain(leaf):
        if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return digest({jax.tree_util.keystr(path): plain(leaf) for path, leaf in leaves})


def check_same(path: str | Path, found: Mapping[str, Any], wanted: Mapping[str, Any], fix: str) -> None:
    """Check that a file belongs to this run.

    Args:
        path: the file or folder, for the message.
        found: the identity that the file holds, as read from JSON.
        wanted: the identity of this run.
        fix: advice to the user, which ends the message.

    Raises:
        ValueError: the two differ; the message names the first difference.
    """
    wanted = json.loads(json.dumps(wanted))
    for name in [*wanted, *sorted(found.keys() - wanted.keys())]:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path} belongs to another run: its {name} is {_short(found.get(name))}, this run has "
                f"{_short(wanted.get(name))}; {fix}"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


class Kept(NamedTuple):
    """The arrays of one run on disk, which a later call of the same run continues.

    Attributes:
        path: the `.npz` of the run; None stores nothing.
        identity: all inputs of the run by name, as JSON values: settings themselves, large arrays by their `digest`.
    """

    path: Path | None
    identity: Mapping[str, Any]

    def load(self) -> dict[str, np.ndarray] | None:
        """Read the arrays, if there are any. Those of a damaged file are computed again, with a warning.

        Raises:
            ValueError: the file belongs to a run of another identity.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            arrays = read_arrays(self.path)
        except ValueError as error:
            warnings.warn(f"{self.path} is damaged ({error.__cause__}); it is computed again", stacklevel=3)
            return None
        found = json.loads(str(arrays.pop(_IDENTITY, "{}")))
        check_same(self.path, found, self.identity, "give another directory, or remove the file")
        return arrays

    def save(self, **arrays: Any) -> None:
        """Write the arrays in place of those on disk.

        Raises:
            OSError: as for `write_file`.
        """
        if self.path is not None:
            write_arrays(self.path, {**arrays, _IDENTITY: np.asarray(json.dumps(self.identity))})
