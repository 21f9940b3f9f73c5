"""A progress bar for loops on the host, shown only if standard error is a terminal."""

import sys
from typing import Any


def progress(start: int, total: int, description: str) -> Any:
    """A bar with `update()`, `set_postfix(name=value)` and `close()`.

    Args:
        start: number of steps that are done already.
        total: number of all steps.
        description: text beside the bar.
    """
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm

            return tqdm(initial=start, total=total, desc=description)
        except ImportError:
            pass
    return _Silent()


class _Silent:
    """A progress bar that shows nothing."""

    def update(self) -> None: ...
    def set_postfix(self, **values: Any) -> None: ...
    def close(self) -> None: ...
