"""The leakage probe learns only information that the robust features contain."""

from functools import partial

import numpy as np

from invjax import features
from tests.features.problem import CLASSES, KEY


def test_the_probe_learns_the_labels_only_from_features_that_contain_them():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 400).astype(np.int32)
    images = np.eye(CLASSES, dtype=np.float32)[labels] + 0.1 * rng.normal(size=(400, CLASSES)).astype(np.float32)
    probe = partial(features.leakage_probe, KEY, lambda x: x, test=(images, labels), num_classes=CLASSES, epochs=40,
                    learning_rate=0.1, batch_size=50)  # fmt: skip
    made = features.Constructed(images, labels, {}, {}, "")
    assert probe(made)["test"].error < 0.05
    assert probe(made._replace(labels=(labels + 1) % CLASSES))["test"].error > 0.95
