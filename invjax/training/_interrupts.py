"""Ctrl-C and SIGTERM between two steps of a training, so that no finished step is lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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

    Python delivers signals to the main thread only; in other threads nothing changes.

    Yields:
        A function that returns the name of the signal that arrived, or None.
    """
    arrived: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def remember(number, frame):
        if arrived:
            raise KeyboardInterrupt
        arrived.append(signal.Signals(number).name)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: arrived[0] if arrived else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
