r"""How well a distance between images agrees with their classes.

A distance is aligned with an oracle O if images of the same class are always closer than images of other classes:

    O(x1) = O(x) != O(x2)    implies    dist(x, x1) < dist(x, x2).

Given such a distance and one labelled example of each class, the class of the nearest example is always right (lemma
4), so finding an aligned distance is as hard as solving the task. The functions here measure how far lp norms are from
alignment.

Source: Tramèr et al. 2020, definition 3 and lemma 4.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from invjax import _check
from invjax._dtypes import wide
from invjax.attacks import THREATS
from invjax.types import Array, Key


def _norm(distance):
    return lambda change: distance(change, jnp.zeros_like(change))


NORMS: dict[str, Callable[[jax.Array], jax.Array]] = {name: _norm(THREATS[name]().distance) for name in sorted(THREATS)}
"""The norms of one change, by name, as the threats define them; l0 counts the pixels of `[H, W, C]`."""

Distances = Float[np.ndarray, "rows columns"]


def distances(x: Float[Array, "examples ..."], references: Float[Array, "references ..."], *, norm: str) -> Distances:
    """The distance of each image from each reference.

    >>> distances(np.zeros((1, 2, 1)), np.array([[[3.0], [4.0]]]), norm="l2").tolist()
    [[5.0]]

    Args:
        x: images, `[B, ..., C]`.
        references: images of the same shape, `[N, ..., C]`.
        norm: a key of `NORMS`, such as 'l2'.

    Returns:
        The distances, `[B, N]`.

    Raises:
        ValueError: the norm is unknown, or images and references have different shapes.
    """
    _check.one_of("norm", norm, NORMS)
    _check.array("x", x)
    _check.array("references", references)
    if x.shape[1:] != references.shape[1:]:
        raise ValueError(f"references must have the shape of x, {x.shape[1:]}; got {references.shape[1:]}; resize them")
    fixed = wide(references)
    to_all = jax.jit(lambda one: jax.vmap(lambda other: NORMS[norm](one - other))(fixed))
    return np.stack([np.asarray(to_all(wide(one))) for one in x])


class OrderViolations(NamedTuple):
    """How often a distance contradicts the classes, for each image.

    Attributes:
        wrong: `[B]`, the fraction of pairs (x1 of the class of x, x2 of another) with `dist(x, x1) > dist(x, x2)`.
        tied: `[B]`, the fraction of pairs with equal distances. An aligned distance has no ties either, but they say
            that the distance is coarse and not that it prefers another class: in linf most digits are at distance 1.
    """

    wrong: Float[np.ndarray, " examples"]
    tied: Float[np.ndarray, " examples"]


def order_violations(
    found: Distances, labels: Int[np.ndarray, " examples"], reference_labels: Int[np.ndarray, " references"]
) -> OrderViolations:
    """The fractions of pairs (x1 of the class of x, x2 of another) in the wrong order, and at equal distances.

    Both are 0 for an aligned distance. For a distance that is unrelated to the class, `wrong + tied / 2` is about 1/2.
    The count covers all pairs, not a sample of them.

    >>> order_violations(np.array([[1.0, 2.0, 2.0, 3.0]]), np.array([0]), np.array([0, 1, 0, 0]))
    OrderViolations(wrong=array([0.33333333]), tied=array([0.33333333]))

    Args:
        found: distances, `[B, N]`; no reference may be the image itself.
        labels: classes of the images, `[B]`.
        reference_labels: classes of the references, `[N]`; each label needs references of its class and of others.

    Returns:
        Both fractions for each image.

    Raises:
        ValueError: the shapes do not match, or a label has no reference of its class or none of another.
    """

    def fractions(own, other):
        below, not_above = (
            np.searchsorted(np.sort(other), own, side).mean() / len(other) for side in ("left", "right")
        )
        return below, not_above - below

    return OrderViolations(*_over_examples(fractions, found, labels, reference_labels).T)


def beyond_nearest_other(
    found: Distances, labels: Int[np.ndarray, " examples"], reference_labels: Int[np.ndarray, " references"]
) -> Float[np.ndarray, " examples"]:
    """The fraction of references of the same class that are not closer than the nearest reference of another class.

    This fraction of the class lies outside the largest ball around the image that contains no other class. Its mean
    over images is the probability that the nearest image of another class is at least as close as a random image of the
    same class.

    Args:
        found: distances, `[B, N]`; no reference may be the image itself.
        labels: classes of the images, `[B]`.
        reference_labels: classes of the references, `[N]`.

    Returns:
        The fraction for each image, `[B]`.

    Raises:
        ValueError: as for `order_violations`.
    """
    return _over_examples(lambda own, other: (own >= other.min()).mean(), found, labels, reference_labels)


def _over_examples(statistic, found, labels, reference_labels):
    found, labels, reference_labels = map(np.asarray, (found, labels, reference_labels))
    _check_shapes(found, labels, reference_labels)
    counts = np.array([(reference_labels == label).sum() for label in labels])
    if not ((counts > 0) & (counts < len(reference_labels))).all():
        raise ValueError(
            f"references must contain images of each label's class and of other classes; got the classes "
            f"{np.unique(reference_labels).tolist()} for labels {np.unique(labels).tolist()}"
        )
    same = (reference_labels == label for label in labels)
    return np.array([statistic(row[own], row[~own]) for row, own in zip(found, same, strict=True)])


def one_point_accuracy(
    key: Key,
    found: Distances,
    labels: Int[np.ndarray, " examples"],
    reference_labels: Int[np.ndarray, " references"],
    *,
    draws: int,
) -> Float[np.ndarray, " draws"]:
    """The accuracy of the classifier of lemma 4: the class of the nearest among one labelled example per class.

    The accuracy is 1 in every draw if the distance is aligned.

    Args:
        key: random key for the choice of the examples.
        found: distances, `[B, N]`.
        labels: classes of the images, `[B]`.
        reference_labels: classes of the references, `[N]`.
        draws: number of random choices of the examples.

    Returns:
        One accuracy for each choice, `[draws]`.

    Raises:
        ValueError: the shapes do not match, or `draws` is below 1.
    """
    _check.key(key)
    _check.count(draws=draws)
    _check_shapes(found, labels, reference_labels)
    order = np.asarray(jax.random.uniform(key, (draws, len(reference_labels))))
    classes = np.unique(reference_labels)
    members = [np.flatnonzero(reference_labels == k) for k in classes]
    points = np.stack([ids[order[:, ids].argmax(1)] for ids in members], 1)
    return np.array([(classes[found[:, chosen].argmin(1)] == labels).mean() for chosen in points])


def _check_shapes(found, labels, reference_labels):
    if found.shape != (len(labels), len(reference_labels)):
        raise ValueError(
            f"distances must be [{len(labels)}, {len(reference_labels)}], a row for each label and a column for each "
            f"reference; got {found.shape}"
        )
