"""Save and restore a pytree of arrays, so that a killed run can continue. This is the only module that imports orbax.

A checkpoint is written to a temporary folder and renamed when it is complete. It stores the shapes and dtypes of its
leaves, so that restoring it into another model fails before any array is read.
"""

import warnings
from pathlib import Path
from typing import Any

import jax


def _orbax() -> Any:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError('checkpoints need orbax: pip install "invjax[experiments]"') from error
    return ocp


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaves(tree: Any) -> dict[str, str]:
    """`path -> dtype[shape]` of each leaf."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _plain(tree: Any) -> dict[str, jax.Array]:
    """Leaves by number, with the data of typed keys, so that the layout does not depend on the tree's Python types."""
    return {str(i): jax.random.key_data(x) if _is_key(x) else x for i, x in enumerate(jax.tree.leaves(tree))}


def _restored(like: Any, plain: dict[str, jax.Array]) -> Any:
    leaves, tree = jax.tree.flatten(like)
    arrays = [
        jax.random.wrap_key_data(plain[str(i)], impl=jax.random.key_impl(x)) if _is_key(x) else plain[str(i)]
        for i, x in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, arrays)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _manager(directory: Path, keep: int | None = None) -> Any:
    ocp = _orbax()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    return ocp.CheckpointManager(directory.absolute(), options=options, item_names=("state", "leaves"))


def save(directory: str | Path, step: int, state: Any, keep: int = 2) -> None:
    """Write `state` as the checkpoint of `step`, then remove all but the newest `keep` checkpoints.

    Args:
        directory: folder that holds checkpoints and nothing else.
        step: number of training steps done.
        state: a pytree of arrays, which may hold typed random keys.
        keep: number of checkpoints that remain.

    Raises:
        OSError: the checkpoint could not be written, for example because the disk is full; earlier ones are intact.
    """
    ocp, directory = _orbax(), Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with _manager(directory, keep) as manager:
            for stale in [found for found in manager.all_steps() if found >= step]:
                manager.delete(stale)  # an unreadable checkpoint, whose steps were run again
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_plain(state)), leaves=ocp.args.JsonSave(_leaves(state))
                ),
            )
    except (OSError, ValueError, RuntimeError) as error:
        reason = _first_line(error)
        raise OSError(
            f"could not save the checkpoint of step {step} in {directory}: {reason}; "
            "check the free disk space and run again: earlier checkpoints are intact"
        ) from error


def restore(directory: str | Path, like: Any) -> Any | None:
    """Read the newest complete checkpoint, or return None if there is none.

    Args:
        directory: the folder given to `save`.
        like: a pytree of the same structure, shapes and dtypes; the arrays are restored with its shardings.

    Returns:
        The state, or None.

    Raises:
        ValueError: the newest checkpoint is of another model, or no checkpoint can be read.
    """
    ocp, directory = _orbax(), Path(directory)
    if not directory.is_dir():
        return None
    with _manager(directory) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        for step in steps:
            try:
                saved = manager.restore(step, args=ocp.args.Composite(leaves=ocp.args.JsonRestore()))["leaves"]
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                saved, reason = None, _first_line(error)
            if saved:
                _same_leaves(directory, step, saved, _leaves(like))
                abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
                try:
                    found = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))
                    return _restored(like, found["state"])
                except (OSError, ValueError, KeyError, RuntimeError) as error:
                    reason = _first_line(error)
            warnings.warn(
                f"checkpoint {directory / str(step)} is incomplete ({reason}); trying the one before it", stacklevel=2
            )
    if steps:
        raise ValueError(f"none of the checkpoints in {directory} can be read; remove the folder to start afresh")
    return None


def _same_leaves(directory: Path, step: int, saved: dict[str, str], wanted: dict[str, str]) -> None:
    for path in sorted(saved.keys() | wanted.keys()):
        if saved.get(path) != wanted.get(path):
            raise ValueError(
                f"the checkpoint {directory / str(step)} is of another model: {path} is "
                f"{saved.get(path, 'absent')} there and {wanted.get(path, 'absent')} here; "
                "use the settings of that run, or another folder"
            )
