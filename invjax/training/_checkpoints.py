"""Save and restore a pytree of arrays, so that a killed run can continue. This is the only module that imports orbax.

A checkpoint is written to a temporary folder and renamed when it is complete. It stores the shapes and dtypes of its
leaves, so that restoring it into another model fails before any array is read.
"""

import errno
import itertools
import numbers
import os
import re
import shutil
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invjax._store import local_path


def _orbax() -> Any:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError('checkpoints need orbax: pip install "invjax[experiments]"') from error
    return ocp


def _arrays(tree: Any) -> Any:
    """The tree with arrays in place of numbers."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf), tree)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaves(tree: Any) -> dict[str, str]:
    """`path -> dtype[shape]` of each leaf."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _plain(tree: Any) -> dict[str, Any]:
    """Leaves by number, with the data of typed keys, so that the layout does not depend on the tree's Python types.

    Empty arrays are left out, because orbax cannot write them; a tree without values holds one zero.
    """
    leaves = {str(i): jax.random.key_data(x) if _is_key(x) else x for i, x in enumerate(jax.tree.leaves(tree))}
    return {name: leaf for name, leaf in leaves.items() if leaf.size} or {"none": jnp.zeros((1,))}


def _restored(like: Any, plain: dict[str, Any]) -> Any:
    leaves, tree = jax.tree.flatten(like)
    for name, wanted in _plain(like).items():
        if isinstance(wanted, jax.Array) and not wanted.committed and wanted.is_fully_addressable:
            # orbax binds every array to a device; one that follows the arrays it meets should do so again
            plain[name] = jnp.asarray(np.asarray(plain[name]))
    arrays = [
        jax.random.wrap_key_data(plain[str(i)], impl=jax.random.key_impl(x)) if _is_key(x) else plain.get(str(i), x)
        for i, x in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, arrays)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _manager(directory: Path, keep: int | None = None) -> Any:
    ocp = _orbax()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    return ocp.CheckpointManager(directory.absolute(), options=options, item_names=("state", "leaves"))


def save(directory: str | Path, step: int | float, state: Any, keep: int | float = 2) -> None:
    """Write `state` as the checkpoint of `step`, then remove all but the newest `keep` checkpoints.

    A later checkpoint that can be read is never touched. One that cannot be read, whose steps were run again, is kept
    beside the others under the name "unreadable-STEP".

    Args:
        directory: folder that holds checkpoints and nothing else.
        step: number of training steps done.
        state: a pytree of arrays, which may hold typed random keys.
        keep: number of checkpoints that remain, at least 1.

    Raises:
        ValueError: `step` is no whole number of at least 0, `keep` is not positive, or the folder has a later
            checkpoint.
        OSError: the checkpoint could not be written, for example because the disk is full; earlier ones are intact.
    """
    directory, state = local_path(directory), _arrays(state)
    if not isinstance(step, numbers.Integral) or step < 0:
        raise ValueError(f"step must be a whole number of at least 0; got step={step!r}; pass int(state.step)")
    if not isinstance(keep, numbers.Integral) or keep < 1:
        raise ValueError(f"keep must be a whole number of at least 1; got keep={keep!r}")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(directory, step, error) from error
    _put_back(directory)
    ocp, before = _orbax(), _make_room(directory, step, state)
    try:
        with _manager(directory, keep) as manager:
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_plain(state)), leaves=ocp.args.JsonSave(_leaves(state))
                ),
            )
    except (OSError, ValueError, RuntimeError) as error:
        if before is not None and jax.process_index() == 0:
            shutil.rmtree(directory / str(step), ignore_errors=True)
            os.replace(before, directory / str(step))
        raise _failed(directory, step, error) from error
    if before is not None and jax.process_index() == 0:
        shutil.rmtree(before)


def _failed(directory: Path, step: int, error: Exception) -> OSError:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) or _FULL.search(str(error))
    fix = "make room on the disk" if full else "mend this"
    return OSError(
        f"could not save the checkpoint of step {step} in {directory}: {_first_line(error)}; "
        f"{fix} and run again: earlier checkpoints are intact"
    )


_FULL = re.compile("no space left|file too large|disk quota|resource_exhausted", re.IGNORECASE)
"""What the writers below orbax say of a full disk, without an error number."""


def steps(directory: str | Path) -> list[int]:
    """The steps of the complete checkpoints in a folder, ascending; nothing is read or written."""
    directory = local_path(directory)
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit())


def _make_room(directory: Path, step: int, state: Any) -> Path | None:
    """Move unreadable checkpoints of later steps out of the way, and any checkpoint of this step.

    Returns:
        Where a checkpoint of this step is kept until the new one is complete.
    """
    later_steps = [found for found in steps(directory) if found > step]
    with _manager(directory) if later_steps else nullcontext() as manager:  # opening a manager takes time at every save
        for later in later_steps:
            saved, reason = _read_leaves(manager, later)
            if saved is not None:
                _same_leaves(directory, later, saved, _leaves(state))  # another model raises a ValueError
                try:
                    _read(manager, later, state)
                except (OSError, ValueError, KeyError, RuntimeError) as error:
                    saved, reason = None, _first_line(error)
            if saved is not None:
                raise ValueError(
                    f"{directory} has a checkpoint of step {later}, later than step {step}; restore it and go on from "
                    "there, or use another folder"
                )
            aside = _free(directory / f"unreadable-{later}")
            warnings.warn(f"checkpoint {directory / str(later)} cannot be read ({reason}); it is kept as {aside.name}",
                          stacklevel=3)  # fmt: skip
            if jax.process_index() == 0:
                os.replace(directory / str(later), aside)
    if step not in steps(directory):
        return None
    before = _free(directory / f"before-{step}")
    if jax.process_index() == 0:
        os.replace(directory / str(step), before)
    return before


def _put_back(directory: Path) -> None:
    """Give back its name to a checkpoint that was moved for a new one of its step, if that one was never completed."""
    for before in directory.glob("before-*"):
        step = before.name.split("-")[1]
        if jax.process_index() == 0 and not (directory / step).exists():
            os.replace(before, directory / step)


def _free(path: Path) -> Path:
    """The path, with a number if it is taken."""
    taken = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
    return path if not path.exists() else next(other for other in taken if not other.exists())


def _read_leaves(manager: Any, step: int) -> tuple[dict[str, str] | None, str]:
    """The shapes and dtypes of a checkpoint, or None and the reason why they cannot be read."""
    ocp = _orbax()
    try:
        return manager.restore(step, args=ocp.args.Composite(leaves=ocp.args.JsonRestore()))["leaves"], ""
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        return None, _first_line(error)


def _read(manager: Any, step: int, like: Any) -> Any:
    """The state of one checkpoint; another model raises a ValueError before any array is read."""
    ocp = _orbax()
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
    return manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]


def restore(directory: str | Path, like: Any) -> Any | None:
    """Read the newest complete checkpoint, or return None if there is none.

    Args:
        directory: the folder given to `save`.
        like: a pytree of the same structure, shapes and dtypes; the arrays are restored with its shardings.

    Returns:
        The state, or None.

    Raises:
        ValueError: the newest checkpoint is of another model, no checkpoint can be read, or the folder is one above or
            one below that of the checkpoints.
    """
    directory, like = local_path(directory), _arrays(like)
    if not directory.is_dir():
        return None
    if (directory / "checkpoints").is_dir():
        raise ValueError(f"{directory} is the folder of a training; its checkpoints are in {directory / 'checkpoints'}")
    _check_not_inside(directory)
    _put_back(directory)
    with _manager(directory) as manager:
        found_steps = sorted(manager.all_steps(), reverse=True)
        for step in found_steps:
            saved, reason = _read_leaves(manager, step)
            if saved is not None:
                _same_leaves(directory, step, saved, _leaves(like))
                try:
                    return _restored(like, _read(manager, step, like))
                except (OSError, ValueError, KeyError, RuntimeError) as error:
                    reason = _first_line(error)
            warnings.warn(
                f"checkpoint {directory / str(step)} is incomplete ({reason}); trying the one before it", stacklevel=2
            )
    if found_steps:
        raise ValueError(f"none of the checkpoints in {directory} can be read; remove the folder to start afresh")
    return None


def _check_not_inside(directory: Path) -> None:
    """Refuse one checkpoint, or a folder inside of it, in the place of the folder of all checkpoints."""
    for folder in (directory, directory.parent):
        if folder.name.isdigit() and (folder / "state").is_dir():
            raise ValueError(f"{directory} is one checkpoint; give the folder of all of them, {folder.parent}")


def check_training(directory: Path) -> None:
    """Refuse the checkpoints of a training in the place of its folder, where the training would start afresh.

    Raises:
        ValueError: the folder holds checkpoints, or is one of them.
    """
    _check_not_inside(directory)
    if any((directory / str(step) / "state").is_dir() for step in steps(directory)):
        raise ValueError(f"{directory} holds the checkpoints of a training; give its folder, {directory.parent}")


def _same_leaves(directory: Path, step: int, saved: dict[str, str], wanted: dict[str, str]) -> None:
    for path in sorted(saved.keys() | wanted.keys()):
        if saved.get(path) != wanted.get(path):
            raise ValueError(
                f"the checkpoint {directory / str(step)} is of another model: {path} is "
                f"{saved.get(path, 'absent')} there and {wanted.get(path, 'absent')} here; "
                "use the settings of that run, or another folder"
            )
