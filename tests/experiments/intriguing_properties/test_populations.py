"""Rank correlations, equal batches, and tables of several seeds."""

import numpy as np
import pytest

from experiments import common
from experiments.intriguing_properties import populations
from invjax.data import Dataset


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    a, b = np.random.default_rng(0).integers(0, 9, (2, 30))
    assert populations.rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert populations.rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert populations.rank_correlation([1, 2], [1, 2]) is None


def test_equal_batches_hold_all_images_and_awkward_numbers_are_refused():
    images = (np.arange(1103 * 4) % 256).astype(np.uint8).reshape(-1, 2, 2, 1)
    data = Dataset(images, (np.arange(1103) % 10).astype(np.int32), 10, 256)
    images, labels = populations.in_batches(data, slice(-600, None))
    assert images.shape == (2, 300, 2, 2, 1) and images.max() <= 1
    np.testing.assert_array_equal(labels.reshape(-1), data.labels[-600:])
    with pytest.raises(ValueError, match=r"1103 images fall into equal batches of at most 500 only by 1 each.*1100"):
        populations.in_batches(data, slice(None))


def test_a_table_of_several_seeds_has_the_rows_of_all_and_their_spread():
    tables = [[common.row("a", [value], "%", "x", published=2.0), common.row("b", [1])] for value in (1, 3)]
    (row,) = populations.over_seeds([tables[0], tables[1][:1]])
    assert (row.name, row.published, row.measured, row.seeds, row.unit, row.differs) == ("a", 2.0, 2.0, 2, "%", "x")
