"""Optional packages, which are imported when they are needed."""

import importlib
from typing import Any


def require(module: str) -> Any:
    """Import a module of the extra `invjax[experiments]`.

    Raises:
        ImportError: the module is missing; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'this data set needs {module} ({error}); pip install "invjax[experiments]"') from error
