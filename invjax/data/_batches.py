"""Shuffled batches as a function of the step, so that a resumed training run needs only its step to continue."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from invjax import _check

Batches = Callable[[int], tuple[np.ndarray, ...]]
"""`step -> arrays`, one batch."""


def batches(arrays: Sequence[Any], batch_size: int, seed: int) -> Batches:
    """A function `step -> (array[ids] for each array)` that draws shuffled batches.

    Every epoch uses a new permutation and leaves out its incomplete last batch.

    >>> draw = batches([np.arange(10)], batch_size=5, seed=0)
    >>> sorted(np.concatenate([draw(0)[0], draw(1)[0]]).tolist()) == list(range(10))
    True
    >>> bool((draw(7)[0] == draw(7)[0]).all())
    True

    Args:
        arrays: arrays of the same length, or other objects that take an array of ids as their index.
        batch_size: examples in a batch; at most the length of the arrays.
        seed: the seed of all permutations.

    Raises:
        ValueError: the lengths differ, a float array holds NaN, the batch is larger than the data, or the seed is
            negative.
    """
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise ValueError(
            f"arrays must have the same length; got {sorted(lengths)}; pass images and labels of the same split"
        )
    (length,) = lengths
    for array in arrays:
        if isinstance(array, np.ndarray) and np.issubdtype(array.dtype, np.floating):
            _check.finite("batches", array)
    _check.count(batch_size=batch_size)
    seed = _check.seed(seed)
    if batch_size > length:
        raise ValueError(
            f"batch_size must be at most {length}, the number of examples; got {batch_size}; choose smaller batches"
        )
    per_epoch = length // batch_size

    @lru_cache(maxsize=2)
    def order(epoch):
        return np.random.default_rng((seed, epoch)).permutation(length)

    def draw(step):
        epoch, position = divmod(step, per_epoch)
        ids = order(epoch)[position * batch_size : (position + 1) * batch_size]
        return tuple(array[ids] for array in arrays)

    return draw
