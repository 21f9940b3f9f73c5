"""Shuffled batches as a function of the step, so that a run's position in its data is one number."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from invjax import _check

Batches = Callable[[int], tuple[np.ndarray, ...]]


def batches(arrays: Sequence[Any], batch_size: int, seed: int) -> Batches:
    """`step -> (array[ids] for each array)`; every epoch is a new permutation, its incomplete last batch left out.

    >>> draw = batches([np.arange(10)], batch_size=5, seed=0)
    >>> sorted(np.concatenate([draw(0)[0], draw(1)[0]]).tolist()) == list(range(10))
    True
    >>> bool((draw(7)[0] == draw(7)[0]).all())
    True

    Args:
        arrays: of one length; anything that takes an array of ids as its index.
        batch_size: at most that length.
        seed: chooses all permutations.

    Raises:
        ValueError: lengths differ, a float array holds NaN, or the batch is larger than the data.
    """
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise ValueError(
            f"arrays must have one length; got {sorted(lengths)}; pass images and labels of the same split"
        )
    (length,) = lengths
    for array in arrays:
        if isinstance(array, np.ndarray) and np.issubdtype(array.dtype, np.floating):
            _check.finite("batches", array)
    _check.positive(batch_size=batch_size)
    if batch_size > length:
        raise ValueError(f"batch_size must be at most the {length} examples; got {batch_size}")
    per_epoch = length // batch_size

    @lru_cache(maxsize=2)
    def order(epoch):
        return np.random.default_rng((seed, epoch)).permutation(length)

    def draw(step):
        epoch, position = divmod(step, per_epoch)
        ids = order(epoch)[position * batch_size : (position + 1) * batch_size]
        return tuple(array[ids] for array in arrays)

    return draw
