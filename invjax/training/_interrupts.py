"""Ctrl-C and SIGTERM between two steps of a training, so that no finished step is lost."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
from jax.experimental import multihost_utils


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

    Nothing changes for signals that are ignored, and in threads other than the main one, which get no signals. If one
    of several hosts gets a signal, all of them stop after the same step, which the preemption service of JAX chooses.
    Without this service several hosts leave signals alone.

    Yields:
        A function to call after each step, which returns the name of the signal that arrived, or None.
    """
    if jax.process_count() == 1:
        with _remembered(signal.SIGINT, signal.SIGTERM) as arrived:
            yield lambda: arrived[0] if arrived else None
    elif not _service_runs():
        yield lambda: None
    else:  # the service hears SIGTERM by itself
        with _remembered(signal.SIGINT, then=partial(signal.raise_signal, signal.SIGTERM)):
            yield lambda: signal.SIGTERM.name if _hosts_stop() else None


@contextmanager
def _remembered(*numbers: signal.Signals, then: Callable[[], None] = lambda: None) -> Iterator[list[str]]:
    """The names of the signals that arrive; `then` is called at the first one."""
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    arrived: list[str] = []
    process, before = os.getpid(), {number: signal.getsignal(number) for number in numbers}

    def remember(number, frame):
        if os.getpid() != process:  # a worker that was forked meanwhile: the signal is not for this training
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif arrived:
            raise KeyboardInterrupt
        else:
            arrived.append(signal.Signals(number).name)
            then()

    installed = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in installed:
        signal.signal(number, remember)
    try:
        yield arrived
    finally:
        for number in installed:
            signal.signal(number, before[number])


_ROUNDS = itertools.count(1)
"""Numbers the questions to the preemption service, which are the same on all hosts: they run one program."""


def _hosts_stop() -> bool:
    """Whether a host got SIGTERM, and all hosts stop here; it compares two numbers, and waits for nobody."""
    return multihost_utils.reached_preemption_sync_point(next(_ROUNDS))


def _service_runs() -> bool:
    try:
        _hosts_stop()
    except RuntimeError:
        return False
    return True
