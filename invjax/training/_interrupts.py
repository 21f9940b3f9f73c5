"""Ctrl-C and SIGTERM between two steps of a training, so that no finished step is lost."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax


class Interrupted(KeyboardInterrupt):
    """A training was stopped by Ctrl-C or SIGTERM after a complete step.

    Attributes:
        state: the state after that step.
        history: the metrics logged so far.
    """

    def __init__(self, message: str, state: Any, history: Any):
        super().__init__(message)
        self.state, self.history = state, history


@contextmanager
def delayed_signals() -> Iterator[Callable[[], str | None]]:
    """Remember the first SIGINT or SIGTERM instead of stopping at once; a second one stops at once.

    Nothing changes in threads other than the main one, which get no signals, for signals that are ignored, and where
    several hosts train together, because they could stop at different steps.

    Yields:
        A function that returns the name of the signal that arrived, or None.
    """
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield lambda: None
        return
    arrived: list[str] = []
    process, before = os.getpid(), {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number, frame):
        if os.getpid() != process:  # a worker that was forked meanwhile: the signal is not for this training
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif arrived:
            raise KeyboardInterrupt
        else:
            arrived.append(signal.Signals(number).name)

    installed = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in installed:
        signal.signal(number, remember)
    try:
        yield lambda: arrived[0] if arrived else None
    finally:
        for number in installed:
            signal.signal(number, before[number])
