"""The folder of a training: it continues from its newest checkpoint, and stops only after a saved step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from invjax._store import sole_writer
from invjax.training import _checkpoints
from invjax.training._interrupts import Interrupted, delayed_signals


class Resumable(NamedTuple):
    """A training that holds its folder.

    Attributes:
        restore: `state -> state of the newest checkpoint`, or None if there is none. States have a field `step`.
        end_step: `(steps done, state, history)`, called after each step or chunk of steps. It saves the state if it is
            time, and stops if a signal arrived.
    """

    restore: Callable[[Any], Any]
    end_step: Callable[[int, Any, Any], None]


@contextmanager
def resumable(
    num_steps: int, directory: Path | None, save_every: int, check: Callable[[Any], None] = lambda state: None
) -> Iterator[Resumable]:
    """Hold the folder of a training, whose signals are delayed until a step is saved.

    A finished training writes nothing, so its folder may be read-only.

    Args:
        num_steps: the number of steps after which the training is finished.
        directory: the folder; None saves nothing.
        save_every: number of steps between checkpoints.
        check: raises an error for a state that must not be saved.

    Raises:
        ValueError: the checkpoint is of another model or past `num_steps`, another process holds the folder, or the
            folder is that of the checkpoints or one of them.
        Interrupted: a signal arrived, and the state is saved.
    """
    if directory is not None:
        _checkpoints.check_training(directory)
    checkpoints = None if directory is None else directory / "checkpoints"
    finished = checkpoints is not None and num_steps in _checkpoints.steps(checkpoints)
    last = 0

    def restore(state: Any) -> Any:
        nonlocal last
        saved = None if checkpoints is None else _checkpoints.restore(checkpoints, state)
        last = int((state if saved is None else saved).step)
        if last > num_steps:
            raise ValueError(
                f"num_steps={num_steps}, but {directory} is at step {last}; raise num_steps, or use another folder"
            )
        return saved

    with sole_writer(None if finished else directory), delayed_signals() as signalled:

        def end_step(done: int, state: Any, history: Any) -> None:
            nonlocal last
            due, last = done // save_every > last // save_every or done == num_steps, done
            stopped = signalled()
            if checkpoints is not None and (due or stopped):
                check(state)
                _checkpoints.save(checkpoints, done, state)
            if done == num_steps:
                stopped = stopped or signalled()  # it may have come during the last save
            if stopped:
                kept = "the exception holds the state" if directory is None else "the same call goes on from there"
                raise Interrupted(f"stopped by {stopped} after step {done}; {kept}", state, history)

        yield Resumable(restore, end_step)
