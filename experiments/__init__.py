"""Experiments: one folder for each paper, one module and one command for each result.

`python -m experiments list` prints them.
"""

try:
    import matplotlib  # noqa: F401
    import tyro  # noqa: F401
except ImportError as error:
    raise ImportError('experiments need packages that are missing: pip install "invjax[experiments]"') from error
