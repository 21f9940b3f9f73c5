"""A progress bar for loops on the host, shown in a terminal and in a notebook."""

import sys
import warnings
from typing import Any


def progress(start: int, total: int, description: str) -> Any:
    """A bar with `update()`, `set_postfix(name=value)` and `close()`.

    Args:
        start: number of steps that are done already.
        total: number of all steps.
        description: text beside the bar.
    """
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # without the widgets of a notebook tqdm warns, and draws text
                from tqdm.auto import tqdm

            return tqdm(initial=start, total=total, desc=description)
        except ImportError:
            pass
    return _Silent()


class _Silent:
    """A progress bar that shows nothing."""

    def update(self) -> None: ...
    def set_postfix(self, **values: Any) -> None: ...
    def close(self) -> None: ...
