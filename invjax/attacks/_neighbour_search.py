"""An exact search for the images of each class that are nearest to any of many queries."""

from collections.abc import Sequence

import numpy as np

from invjax.attacks._reference_bank import TILE, ReferenceBank


def nearest_of(
    bank: ReferenceBank, groups: Sequence[np.ndarray], queries: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the images of each group that are nearest in l2 to any of the queries.

    Args:
        bank: the images to search, from `reference_bank`.
        groups: rows of the bank, such as the images of each class.
        queries: `[T, D]`, flat images, as `pixels_of` returns them.
        count: number of images to find in each group.

    Returns:
        The rows of these images and the query that each is nearest to, `[groups, count]` both, nearest first. A group
        of fewer than `count` images repeats its nearest one.
    """
    bounds = np.asarray(bank.lower_bounds(queries))
    squares = (queries**2).sum(1)
    slack = 1e-5 * squares.max()  # for rounding
    orders = [group[np.argsort(bounds[group])] for group in groups]
    values, rows = np.full((len(groups), count), np.inf), np.zeros((len(groups), count), int)
    columns = rows.copy()
    start, stop = 0, max(16, count)
    while True:
        # A candidate is skipped if its lower bound exceeds the distance of the last of the `count` images found so far.
        parts = [
            order[start:stop][bounds[order[start:stop]] <= limit + slack]
            for order, limit in zip(orders, values[:, -1], strict=True)
        ]
        if not sum(part.size for part in parts):
            break
        found = _in_full(bank.pixels, np.concatenate(parts), queries, squares)
        ends = np.cumsum([part.size for part in parts])[:-1]
        for g, (part, value, column) in enumerate(zip(parts, *(np.split(out, ends) for out in found), strict=True)):
            value = np.concatenate([values[g], value])
            nearest = np.argsort(value, kind="stable")[:count]
            values[g] = value[nearest]
            rows[g] = np.concatenate([rows[g], part])[nearest]
            columns[g] = np.concatenate([columns[g], column])[nearest]
        start, stop = stop, 4 * stop
    few = np.isinf(values)
    return np.where(few, rows[:, :1], rows), np.where(few, columns[:, :1], columns)


def _in_full(pixels, rows, queries, squares):
    """The squared distance of each row of `pixels` to its nearest query, and the index of that query."""
    value, column = np.empty(len(rows)), np.empty(len(rows), int)
    for part in (slice(i, i + TILE) for i in range(0, len(rows), TILE)):
        some = pixels[rows[part]]
        squared = (some**2).sum(1)[:, None] - 2 * some @ queries.T + squares[None]
        column[part] = squared.argmin(1)
        value[part] = squared.min(1)
    return value, column
