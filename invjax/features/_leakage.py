"""Robust feature leakage: what a linear head learns from a constructed data set through robust features alone.

If such a head learns the task, then a network may have learned it from robust features as well, and the data set is no
evidence for non-robust ones. In the source D_rand leaks (23.5 % on CIFAR-10), and D_det does not (6.8 %, below chance).

Source: Goh 2019, *A Discussion of ...: Robust Feature Leakage*.
"""

import numpy as np
from jax.sharding import Mesh

from invjax import _check
from invjax._batching import on_device, over_batches
from invjax.analysis import Reading, fresh_head
from invjax.features._storage import Constructed
from invjax.models import mlp
from invjax.types import Key, LogitsFn


def leakage_probe(
    key: Key,
    features_fn: LogitsFn,
    made: Constructed,
    test: tuple[np.ndarray, np.ndarray],
    *,
    num_classes: int,
    epochs: int,
    learning_rate: float = 1e-2,
    batch_size: int = 128,
    mesh: Mesh | None = None,
) -> dict[str, Reading]:
    """Train a linear head on robust features of a constructed data set, and test it on original images.

    Args:
        key: random key of the head.
        features_fn: `x [B, ...] -> [B, F]`, such as the logits of a linear model after adversarial training. Compile it
            with `jax.jit`.
        made: the data set that the head is trained on.
        test: original images `[M, ...]` and labels `[M]`.
        num_classes: number of classes K.
        epochs: number of passes over `made`.
        learning_rate: initial learning rate of Adam.
        batch_size: examples in a training step.
        mesh: spread each batch over these devices.

    Returns:
        `{"train": Reading, "test": Reading}`. A test error below `1 - 1/K` is leakage.

    Raises:
        ValueError: labels are out of range, features are NaN, or a batch is larger than the data set.
    """
    _check.key(key)
    _check.function("features_fn", features_fn, "x -> features")
    _check.labels(made.labels, num_classes)
    _check.labels(test[1], num_classes)
    train, held = (over_batches(on_device(features_fn), [images], mesh=mesh) for images in (made.images, test[0]))
    return fresh_head(
        key,
        mlp(num_classes, ()),
        (train, made.labels),
        (held, test[1]),
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        mesh=mesh,
        description="leakage probe",
    )
