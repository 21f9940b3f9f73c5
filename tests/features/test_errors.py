"""The errors of a model are the examples it misclassifies, labelled with its predictions."""

import numpy as np
import pytest

from invjax import features
from tests.features.problem import CLASSES, data


def test_errors_of_keeps_misclassified_images_with_their_predictions():
    _, labels = data()
    logits = np.eye(CLASSES, dtype=np.float32)[labels]
    logits[[3, 30]] = logits[[3, 30]][:, [1, 2, 3, 0]]
    found = features.errors_of(lambda x: x, logits, labels)
    assert found.ids.tolist() == [3, 30] and (found.labels == (labels[[3, 30]] - 1) % CLASSES).all()
    with pytest.raises(ValueError, match="correct on all 37 examples"):
        features.errors_of(lambda x: x, np.eye(CLASSES, dtype=np.float32)[labels], labels)
    with pytest.raises(ValueError, match=r"labels must have shape \[37\], one for each image; got \(5,\)"):
        features.errors_of(lambda x: x, logits, labels[:5])
