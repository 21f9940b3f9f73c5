r"""Does a distance see what an oracle sees?

A distance is aligned with an oracle O if what is of the same class is always nearer than what is not:

    O(x1) = O(x) != O(x2)    implies    dist(x, x1) < dist(x, x2).

Given such a distance and one labelled example of each class, the nearest of them has the right class (lemma 4): to
find an aligned distance is as hard as to solve the task. Here is how far lp norms are from it.

Source: Tramèr et al. 2020, definition 3 and lemma 4.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from invjax import _check
from invjax.types import Array, Key

NORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "l0": lambda change: (change != 0).any(-1).sum().astype(change.dtype),
    "l1": lambda change: jnp.abs(change).sum(),
    "l2": lambda change: jnp.sqrt((change**2).sum()),
    "linf": lambda change: jnp.abs(change).max(),
}
"""Of one change `[..., C]`; l0 counts the positions that differ in any channel."""

Distances = Float[np.ndarray, "rows columns"]


def distances(x: Float[Array, "examples ..."], references: Float[Array, "references ..."], *, norm: str) -> Distances:
    """How far each of `x` is from each of the references.

    >>> distances(np.zeros((1, 2, 1)), np.array([[[3.0], [4.0]]]), norm="l2").tolist()
    [[5.0]]

    Args:
        x: `[B, ..., C]`.
        references: `[N, ..., C]`, of the same kind.
        norm: 'l0', 'l1', 'l2' or 'linf'.

    Raises:
        ValueError: an unknown norm, or examples of different shapes.
    """
    _check.one_of("norm", norm, NORMS)
    if x.shape[1:] != references.shape[1:]:
        raise ValueError(f"references must be shaped as x is, {x.shape[1:]}; got {references.shape[1:]}; resize them")
    fixed = jnp.asarray(references)
    to_all = jax.jit(lambda one: jax.vmap(lambda other: NORMS[norm](one - other))(fixed))
    return np.stack([np.asarray(to_all(jnp.asarray(one))) for one in x])


def order_violations(
    found: Distances, labels: Int[np.ndarray, " examples"], reference_labels: Int[np.ndarray, " references"]
) -> Float[np.ndarray, " examples"]:
    """The share of pairs (x1 of x's class, x2 of another) that are in the wrong order: `dist(x, x1) >= dist(x, x2)`.

    0 where the distance is aligned, near 1/2 where it knows nothing. All pairs count, by sorting.

    Args:
        found: `[B, N]`, distances; no reference is x itself.
        labels: `[B]`.
        reference_labels: `[N]`; each label has references of its class and of others.

    Raises:
        ValueError: shapes that do not belong together, or a class without references on both sides.
    """
    return _over_examples(lambda own, other: np.searchsorted(np.sort(other), own, "right").mean() / len(other),
                          found, labels, reference_labels)  # fmt: skip


def beyond_nearest_other(
    found: Distances, labels: Int[np.ndarray, " examples"], reference_labels: Int[np.ndarray, " references"]
) -> Float[np.ndarray, " examples"]:
    """The share of x's own class that is not nearer than the nearest reference of another class.

    A ball around x that leaves this share out is the largest without another class in it. The mean over x is how often
    the nearest of another class is at least as near as a random one of the own; above 1/2 it is so for the median one.

    Args:
        found: `[B, N]`, distances; no reference is x itself.
        labels: `[B]`.
        reference_labels: `[N]`.

    Raises:
        ValueError: as for `order_violations`.
    """
    return _over_examples(lambda own, other: (own >= other.min()).mean(), found, labels, reference_labels)


def _over_examples(share, found, labels, reference_labels):
    _check_shapes(found, labels, reference_labels)
    counts = np.array([(reference_labels == label).sum() for label in labels])
    if not ((counts > 0) & (counts < len(reference_labels))).all():
        raise ValueError(
            f"references must hold images of each label's class and of others; got the classes "
            f"{np.unique(reference_labels).tolist()} for labels {np.unique(labels).tolist()}"
        )
    return np.array([
        share(row[reference_labels == label], row[reference_labels != label])
        for row, label in zip(found, labels, strict=True)
    ])  # fmt: skip


def one_point_accuracy(
    key: Key,
    found: Distances,
    labels: Int[np.ndarray, " examples"],
    reference_labels: Int[np.ndarray, " references"],
    *,
    draws: int,
) -> Float[np.ndarray, " draws"]:
    """The classifier of lemma 4: x has the class of the nearest of one labelled point a class. Its accuracy.

    1 in every draw if the distance is aligned.

    Args:
        key: random key, for which reference of each class is its point.
        found: `[B, N]`, distances.
        labels: `[B]`.
        reference_labels: `[N]`.
        draws: choices of the points.

    Raises:
        ValueError: shapes that do not belong together, `draws` below 1.
    """
    _check.positive(draws=draws)
    _check_shapes(found, labels, reference_labels)
    lots = np.asarray(jax.random.uniform(key, (draws, len(reference_labels))))
    classes = np.unique(reference_labels)
    members = [np.flatnonzero(reference_labels == k) for k in classes]
    points = np.stack([ids[lots[:, ids].argmax(1)] for ids in members], 1)
    return np.array([(classes[found[:, chosen].argmin(1)] == labels).mean() for chosen in points])


def _check_shapes(found, labels, reference_labels):
    if found.shape != (len(labels), len(reference_labels)):
        raise ValueError(
            f"distances must be [{len(labels)}, {len(reference_labels)}], labels by references; got {found.shape}"
        )
