r"""A lower bound on the information of a representation about the class, from the logits of a classifier.

For any classifier q of a representation z (Barber & Agakov 2003; lemma 9 of Jacobsen et al. 2019), in nats,

    I(y; z) >= H(y) + E log q(y | z) = H(y) - cross-entropy of q,

with equality if q is the true posterior. A low cross-entropy proves that z contains the information. A high
cross-entropy shows only that this classifier does not find the information.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from invjax import _check, _logits
from invjax.losses import cross_entropy, error_rate


class Reading(NamedTuple):
    """The information about the class that one classifier finds in a representation.

    Attributes:
        error: fraction of misclassified examples, in [0, 1].
        cross_entropy: mean cross-entropy, in nats.
        information: `H(y) - cross_entropy`, a lower bound on I(y; z) in nats. It is negative if the classifier is worse
            than a guess by the class frequencies.
    """

    error: float
    cross_entropy: float
    information: float


def reading(logits: np.ndarray, labels: np.ndarray) -> Reading:
    """The error and the information bound of a classifier.

    >>> reading(np.array([[9.0, -9.0], [-9.0, 9.0]]), np.array([0, 1])).error
    0.0

    Args:
        logits: logits of the classifier, `[N, K]`.
        labels: true classes, `[N]`.

    Returns:
        The error, the cross-entropy and the bound on the information.

    Raises:
        ValueError: logits are not `[N, K]`, or labels have another shape or are out of range.
    """
    _logits.check(logits)
    _check.one_each("labels", labels, logits)
    _check.labels(labels, logits.shape[1])
    counts = np.bincount(labels)
    frequencies = counts[counts > 0] / labels.size
    loss = float(cross_entropy(jnp.asarray(logits), jnp.asarray(labels)).mean())
    error = float(error_rate(jnp.asarray(logits), jnp.asarray(labels)))
    return Reading(error, loss, float(-(frequencies * np.log(frequencies)).sum()) - loss)
