"""The errors of a model as training data: they teach another model the task without any attack.

Source: Wallace 2019, *A Discussion of ...: Learning from Incorrectly Labeled Data*.
"""

from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from invjax import _check, _logits
from invjax._batching import on_device, over_batches
from invjax._dtypes import placeholder
from invjax.types import LogitsFn


class Errors(NamedTuple):
    """The examples that a model misclassifies.

    Attributes:
        ids: `[E]`, the positions of the examples in the data set.
        labels: `[E]`, the wrong classes that the model predicts.
    """

    ids: Int[np.ndarray, " errors"]
    labels: Int[np.ndarray, " errors"]


def errors_of(logits_fn: LogitsFn, images: np.ndarray, labels: np.ndarray, mesh: Mesh | None = None) -> Errors:
    """The examples that a model misclassifies, labelled with its predictions, so that no label is correct.

    >>> logits = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    >>> found = errors_of(lambda x: x, logits, np.array([0, 1, 1]))
    >>> found.ids.tolist(), found.labels.tolist()
    ([1], [0])

    Args:
        logits_fn: `x [B, ...] -> logits [B, K]`. Compile it with `jax.jit`.
        images: the images of the data set, `[N, ...]`.
        labels: their true labels, `[N]`.
        mesh: spread each batch over these devices.

    Returns:
        The `Errors`, in the order of the data set.

    Raises:
        ValueError: the model makes no errors, its logits are NaN, or the labels have another shape or are out of range.
    """
    _check.examples("images", images)
    batch = placeholder((500, *images.shape[1:]), images.dtype)
    num_classes = _logits.num_classes(logits_fn, batch, None)
    _check.one_each("labels", labels, images)
    _check.labels(labels, num_classes)
    logits = over_batches(on_device(logits_fn), [images], mesh=mesh)
    _check.finite("the model's logits", logits)
    predicted = logits.argmax(1).astype(np.int32)
    ids = np.flatnonzero(predicted != labels)
    if not ids.size:
        raise ValueError(f"the model is correct on all {len(labels)} examples; stop its training earlier")
    return Errors(ids, predicted[ids])
